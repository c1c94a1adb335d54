"""Images that are no everyday photographs: tissue, satellite images, rendered scenes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets

from vitfw.data.sets.dataset import (
    OTHERS,
    Dataset,
    DatasetFacts,
    photographs,
    torchvision_arrays,
    torchvision_files,
)

EUROSAT = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)
PCAM_PART = 4096
CLEVR_FEWEST_OBJECTS = 3
CLEVR = tuple(f"{count} objects" for count in range(CLEVR_FEWEST_OBJECTS, 11))


def pcam_arrays(found: Any) -> tuple[Any, Any]:
    """Images [N, 3, 96, 96] and labels [N] out of the two HDF5 files.

    They are read in parts: the training images are 7.2 GB, a copy of them would not fit everywhere.
    """
    import h5py  # of the extra `datasets`

    files = found._FILES[found._split]
    folder = Path(found.root) / "pcam"
    with h5py.File(folder / files["images"][0]) as images:
        N, H, W, C = images["x"].shape
        pixels = np.empty((N, C, H, W), dtype=np.uint8)
        for start in range(0, N, PCAM_PART):
            part = images["x"][start : start + PCAM_PART]  # [n, H, W, C]
            pixels[start : start + PCAM_PART] = part.transpose(0, 3, 1, 2)
    with h5py.File(folder / files["targets"][0]) as targets:
        return pixels, targets["y"][:, 0, 0, 0]


def clevr_files(found: Any) -> Iterator[tuple[Path, int]]:
    for i in range(len(found)):
        path, objects = found[i]
        yield path, objects - CLEVR_FEWEST_OBJECTS


SETS: dict[str, Dataset] = {
    "pcam": Dataset(
        DatasetFacts(
            title="PatchCamelyon: tumour in lymph node tissue",
            classes=("no tumour", "tumour"),
            num_classes=2,
            channels=3,
            native_size=96,
            mean=(0.7008, 0.5384, 0.6916),
            std=(0.2350, 0.2774, 0.2129),
            statistics=OTHERS,
            hflip=0.5,
            shift=8,
            splits={"train": 262_144, "val": 32_768, "test": 32_768},
            download_mb=8030,
            licence="CC0",
            source="Veeling et al. 2018; Ehteshami Bejnordi et al. 2017",
            note="the training images take 7.2 GB of memory; the download also needs gdown",
            extra="datasets",
        ),
        torchvision_arrays(
            "pcam",
            datasets.PCAM,
            {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}},
            "pcam",
            arrays=pcam_arrays,
            classes=lambda found: ("no tumour", "tumour"),
        ),
    ),
    "eurosat": Dataset(
        DatasetFacts(
            title="EuroSAT land use, Sentinel-2 in red, green and blue",
            classes=EUROSAT,
            num_classes=10,
            channels=3,
            native_size=64,
            mean=(0.3444, 0.3803, 0.4078),
            std=(0.2037, 0.1366, 0.1148),
            statistics="others' figures of all images; data.stats=compute computes the training's",
            hflip=0.5,
            shift=4,
            splits={"train": 27_000},
            download_mb=94,
            licence="MIT",
            source="Helber, Bischke, Dengel and Borth 2019",
        ),
        torchvision_files("eurosat", datasets.EuroSAT, {"train": {}}, "eurosat"),
    ),
    "clevr": Dataset(
        photographs(
            title="CLEVR, how many objects are in the scene",
            classes=CLEVR,
            num_classes=8,
            splits={"train": 70_000, "test": 15_000},
            download_mb=19_022,
            licence="CC BY 4.0",
            source="Johnson et al. 2017",
            note=(
                "480 × 320 pixels; the official validation images are test, for the official test "
                "images have no labels"
            ),
        ),
        torchvision_files(
            "clevr",
            datasets.CLEVRClassification,
            {"train": {"split": "train", "loader": Path}, "test": {"split": "val", "loader": Path}},
            "clevr",
            files=clevr_files,
            classes=lambda found: CLEVR,
        ),
    ),
}
