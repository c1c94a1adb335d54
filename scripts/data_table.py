"""Write docs/data_sets.md: every data set of the catalogue with its facts.

python scripts/data_table.py
"""

from collections.abc import Mapping
from pathlib import Path

from vitfw.data.catalog import CATALOG, DATASETS, YOURS
from vitfw.data.sets.dataset import DatasetFacts

PAGE = Path(__file__).parents[1] / "docs" / "data_sets.md"

HEAD = """# The data sets

Written by `python scripts/data_table.py` from the catalogue in `vitfw/data/sets/`; a test compares
the two. `data=NAME` trains on one of them; [data.md](data.md) explains splits, options and what to
do without a network.

Where no test split is given, a fixed stratified tenth of the training images is test; where no
validation split is given, `data.val_share` of the training images is. Sizes are those of the
images, or with «about» what models are usually trained at. `data.mean` and `data.std` are as the
remarks say; `data.stats=compute` computes them from what is trained on.
"""
TABLE = """
| `data=` | what | classes | images | size | download | licence |
|---|---|---|---|---|---|---|
"""


def splits(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def size(facts: DatasetFacts) -> str:
    side = f"{facts.native_size} × {facts.native_size}"
    return (
        f"{'' if facts.same_size else 'about '}{side} {'grey' if facts.channels == 1 else 'colour'}"
    )


def download(megabytes: int) -> str:
    if megabytes == 0:
        return "none"
    return f"{megabytes / 1000:,.0f} GB" if megabytes >= 10_000 else f"{megabytes:,} MB"


def row(name: str, facts: DatasetFacts) -> str:
    cells = [
        f"`{name}`",
        facts.title,
        f"{facts.num_classes:,}",
        splits(facts.splits),
        size(facts),
        download(facts.download_mb),
        facts.licence,
    ]
    return f"| {' | '.join(cells)} |\n"


def remarks() -> str:
    """Where each set is from, whose statistics it has, and what else there is to know."""
    told: dict[str, list[str]] = {}
    for name in DATASETS:
        facts = CATALOG[name]
        parts = [facts.source]
        if facts.statistics != "the data set's":
            parts.append(f"Mean and std: {facts.statistics}")
        if facts.extra:
            parts.append(f"Needs `pip install 'vitfw[{facts.extra}]'`")
        if facts.note:
            parts.append(sentence(facts.note))
        text = ". ".join(part.rstrip(".") for part in parts)
        told.setdefault(text, []).append(f"`{name}`")
    return "".join(f"- {', '.join(names)}: {text}.\n" for text, names in told.items())


def sentence(text: str) -> str:
    """With a capital, unless it begins with the name of a file."""
    return text[0].upper() + text[1:] if text.split()[0].isalpha() else text


def page() -> str:
    rows = "".join(row(name, CATALOG[name]) for name in DATASETS)
    yours = "".join(f"| `{name}` | {facts.title} |\n" for name, facts in YOURS.items())
    return (
        f"{HEAD}{TABLE}{rows}\n## Your own\n\n| `data=` | what |\n|---|---|\n{yours}"
        f"\n## Sources and remarks\n\n{remarks()}"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
