"""How shards come from a bucket: through boto3 alone.

litdata (0.2.76) fetches them with obstore, which refuses endpoints without TLS, knows nothing of
boto3's options (a certificate of one's own, proxies), and stops working in worker processes once
the process that starts them has used it.
"""

import asyncio
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlparse

from boto3.s3.transfer import TransferConfig
from filelock import FileLock, Timeout
from litdata.streaming.downloader import S3Downloader, register_downloader

from vitfw.atomic import replacing

SECONDS_FOR_INDEX = 1.0  # to wait for the process that fetches it; of a shard litdata waits itself


class BucketDownloader(S3Downloader):
    """litdata's downloader for `s3://`; a file appears when it is whole."""

    def download_file(self, remote_filepath: str, local_filepath: str) -> None:
        address = urlparse(remote_filepath)
        local = Path(local_filepath)
        seconds = SECONDS_FOR_INDEX if local.suffix == ".json" else 0.0
        with suppress(Timeout, FileNotFoundError), FileLock(f"{local}.lock", timeout=seconds):
            if local.exists():
                return
            with replacing(local) as partial:
                self._client.client.download_file(
                    address.netloc,
                    address.path.lstrip("/"),
                    str(partial),
                    Config=TransferConfig(use_threads=False),
                )
            self._notify_published(local_filepath)

    async def adownload_file(self, remote_filepath: str, local_filepath: str) -> None:
        await asyncio.to_thread(self.download_file, remote_filepath, local_filepath)


def register() -> None:
    """Make it the one that litdata uses in this process."""
    register_downloader("s3://", BucketDownloader, overwrite=True)
