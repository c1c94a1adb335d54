"""The pages under docs/ and the README: links lead somewhere, commands name what exists."""

import re
from pathlib import Path

import pytest

from vitfw.config import compose

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_group_option_that_is_typed_exists(page):
    text = page.read_text(encoding="utf-8")
    groups = {folder.name for folder in (ROOT / "configs").iterdir() if folder.is_dir()}
    typed = re.findall(rf"(?<![\w./])({'|'.join(groups)})=([a-z]\w+)", text)
    assert typed or page.name not in ("README.md", "models.md")
    missing = [
        f"{group}={name}"
        for group, name in typed
        if not (ROOT / "configs" / group / f"{name}.yaml").is_file()
    ]
    assert missing == []


def test_every_override_that_leaves_out_a_row_of_monitoring_exists():
    rows = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8").splitlines()
    ends = [row.split("|")[-2] for row in rows if row.startswith("|")]
    overrides = {word for end in ends for word in re.findall(r"`([\w.]+=\w+)`", end)}
    assert len(overrides) > 15
    values_first = sorted(overrides, key=lambda word: "." not in word)  # then whole callbacks
    compose("train", [f"callbacks.{word}" for word in values_first])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_is_left_to_be_filled_in(page):
    assert re.findall(r"\b[A-Z]+_(?:TABLE|RANGE)\b|TODO|TBD", page.read_text("utf-8")) == []
