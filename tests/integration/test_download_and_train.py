"""The command of the project's first line, from an archive on a server to a tested model."""

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from on_disk_images import pack_cifar
from torchvision import datasets

from vitfw.cli.main import main


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder on 127.0.0.1 and its address."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


def test_python_train_py_model_vit_b16_data_cifar10(monkeypatch, served, tmp_path, capfd):
    folder, address = served
    pack_cifar(monkeypatch, "cifar10", folder)
    monkeypatch.setattr(datasets.CIFAR10, "url", address + datasets.CIFAR10.filename)
    monkeypatch.chdir(tmp_path)
    words = ["model=vit_b16", "data=cifar10", "trainer=debug", "data.root=data", "run_dir=r"]
    small = ["data.batch_size=2", "data.eval_batch_size=4", "trainer.limit_train_batches=1"]
    assert main(["train", *words, *small]) == 0, capfd.readouterr().err
    metrics = json.loads((tmp_path / "r/metrics.json").read_text())
    assert metrics["params"] == 85_806_346  # ViT-B/16 with ten classes instead of a thousand
    assert 0.0 <= metrics["test/accuracy"] <= 1.0
