"""A report to test, and a reader of pages that refuses what is not well formed."""

import re
from html.parser import HTMLParser
from pathlib import Path

import torch

from vitfw.report import Prediction, write_report

VOID = {"meta", "link", "img", "br", "hr", "input", "wbr"}
LOADING = ("src", "href", "srcset", "data", "action", "poster", "xlink:href")
ATTACK = "<script>alert('x')</script>\"'&"

SUMMARY = {
    "test/accuracy": 0.94321,
    "test/accuracy_top5": 0.99871,
    "test/loss": 0.21348,
    "val/accuracy_best": 0.95118,
    "fit_seconds": 557.3,
    "epochs": 20,
    "steps": 8400,
    "train/images_per_second": 811.7,
    "params": 86_567_656,
    "flops_per_image": 17_580_000_000,
    "device": "Intel Xeon (AMX)",
    "precision": "bf16-mixed",
    "seed": 20240,
    "git_commit": "4f2a9c1",
    "versions": {"torch": "2.14.1", "lightning": "2.6.6"},
}
ENVIRONMENT = {
    "device": "Intel Xeon (AMX)",
    "precision": "bf16-mixed",
    "torch": "2.14.1",
    "lightning": "2.6.6",
}
HISTORY = [
    {"step": 49, "epoch": 0, "train/loss": 2.25, "train/accuracy": 0.125, "lr/AdamW": 1e-3},
    {"step": 99, "epoch": 0, "val/loss": 1.75, "val/accuracy": 0.375, "train/loss": None},
    {"step": 149, "epoch": 1, "train/loss": 1.5, "train/accuracy": 0.5, "lr/AdamW": 5e-4},
    {"step": 199, "epoch": 1, "val/loss": 1.25, "val/accuracy": 0.625},
]


class Page(HTMLParser):
    """Reads a page, refusing unbalanced tags."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.loads, self.text = [], [], [], ""
        self.images, self.headings = [], []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute: {names}"
        assert not any(name.startswith("on") for name in names), f"<{tag}> has a handler"
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.loads += [value for name, value in attrs if name in LOADING]

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data


def written(folder: Path, **changes) -> str:
    """The report of a run with something of everything."""
    arguments = {
        "title": "fashion_mnist / vit_ti",
        "summary": SUMMARY,
        "environment": ENVIRONMENT,
        "history": HISTORY,
        "config_text": "optimizer:\n  lr: 0.003\n",
        "overrides": ["optimizer.lr=0.003"],
        "command": "python train.py optimizer.lr=0.003 seed=20240",
    }
    return write_report(folder / "run", **arguments | changes).read_text("utf-8")


def prediction(channels=1, size=28, name="cat", guess="dog") -> Prediction:
    image = torch.randint(0, 256, (channels, size, size), dtype=torch.uint8)
    return Prediction(image, truth=name, guess=guess, confidence=0.875)


def curve_count(text: str) -> int:
    return text.count("<polyline")
