"""Pictures of TensorBoard and report.html for the docs, taken in headless Chromium.

python scripts/screenshots.py RUN_DIR [--output docs/images]
"""

import argparse
import io
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from browser import Look, look
from PIL import Image

SIZE = (1280, 860)
PHONE = (390, 844)
# TensorBoard's pages, and words that stand there when they show data.
PAGES: Mapping[str, tuple[str, ...]] = {
    "timeseries": ("gradient_norm", "step_seconds", "update_ratio", "val"),
    "images": ("attention/rollout", "data/train"),
    "hparams": ("optimizer.lr", "val/accuracy_best"),
    "projector": ("1 tensor found", "features"),
}
SHOWN = "?tagFilter=^(train|val)/(loss|accuracy)$|norm/total|utilisation|step_seconds|ratio/blocks"


@contextmanager
def tensorboard(folder: Path) -> Iterator[str]:
    """The address of a TensorBoard over `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", f"--logdir={folder}", f"--port={port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address)
        yield address
    finally:
        server.terminate()
        server.wait()


def wait_for(address: str, timeout: float = 90.0) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def page_of_tensorboard(address: str, name: str, settle: float, query: str = "") -> Look:
    """Raises TimeoutError: the page shows no data."""
    until = () if query else PAGES[name]
    return look(f"{address}/{query}#{name}", *SIZE, until, settle=settle, timeout=120.0)


def page_of_report(run: Path, size: tuple[int, int]) -> Look:
    """The whole length of report.html on a screen of that size."""
    return look((run / "report.html").resolve().as_uri(), *size, ("Reproduce",), whole=True)


def write(png: bytes, path: Path, height: int | None = None) -> None:
    """As a PNG of few colours, cut off at `height`."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    if height is not None:
        picture = picture.crop((0, 0, picture.width, min(height, picture.height)))
    picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    with tensorboard(asked.run) as address:
        for name in PAGES:
            query = SHOWN if name == "timeseries" else ""
            seen = page_of_tensorboard(address, name, 12.0, query)
            write(seen.png, asked.output / f"tensorboard_{name}.png")
    write(page_of_report(asked.run, SIZE).png, asked.output / "report.png", height=1700)
    write(page_of_report(asked.run, PHONE).png, asked.output / "report_phone.png", height=1700)


if __name__ == "__main__":
    main()
