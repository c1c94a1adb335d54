"""Small objects of an S3 bucket, read within a time limit."""

from typing import Any

from vitfw.errors import ConfigError

SECONDS_TO_CONNECT, SECONDS_TO_ANSWER, ATTEMPTS = 5, 20, 3


class Bucket:
    """Small objects of a bucket. litdata's own client would try a thousand times to connect."""

    def __init__(self, root: str, bucket: str, storage_options: dict[str, Any]):
        try:
            import boto3
            import botocore.config
            import botocore.exceptions
        except ModuleNotFoundError as error:
            raise ConfigError(f"{root} needs boto3: pip install 'vitfw[streaming]'") from error
        self._root, self._bucket = root, bucket
        self._errors = botocore.exceptions
        config = botocore.config.Config(
            connect_timeout=SECONDS_TO_CONNECT,
            read_timeout=SECONDS_TO_ANSWER,
            retries={"max_attempts": ATTEMPTS},
        )
        arguments: dict[str, Any] = {"config": config, **storage_options}
        try:
            self._client = boto3.client("s3", **arguments)
        except (TypeError, ValueError, self._errors.BotoCoreError) as error:
            raise ConfigError(f"data.storage_options do not fit: {error}") from error

    def get(self, key: str) -> bytes:
        key = key.lstrip("/")
        try:
            return self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except self._errors.ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in ("NoSuchKey", "NoSuchBucket", "404"):
                what = "bucket" if code == "NoSuchBucket" else f"{key} there"
                message = f"there is no whole pack at {self._root}: no {what}; upload all of it"
            else:
                message = f"{self._root} refuses to be read: {error}"
            raise ConfigError(message) from error
        except self._errors.BotoCoreError as error:
            raise ConfigError(
                f"{self._root} cannot be reached: {error}; see data.storage_options"
            ) from error
