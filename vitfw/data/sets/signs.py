"""Images that are not to be mirrored: traffic signs and rendered sentences."""

import csv
from pathlib import Path

from torchvision import datasets
from torchvision.datasets.folder import make_dataset

from vitfw.data.sets.dataset import Dataset, DatasetFacts, photographs, torchvision_files

TRAFFIC_SIGNS = (
    *(f"speed limit {limit} km/h" for limit in (20, 30, 50, 60, 70, 80)),
    "end of speed limit 80 km/h",
    "speed limit 100 km/h",
    "speed limit 120 km/h",
    "no overtaking",
    "no overtaking by lorries",
    "priority at the next crossing",
    "priority road",
    "give way",
    "stop",
    "no vehicles",
    "no lorries",
    "no entry",
    "danger",
    "bend to the left",
    "bend to the right",
    "double bend, first to the left",
    "uneven road",
    "slippery road",
    "road narrows on the right",
    "road works",
    "traffic lights",
    "pedestrians",
    "children",
    "cyclists",
    "ice or snow",
    "wild animals",
    "end of all limits",
    "turn right ahead",
    "turn left ahead",
    "straight ahead only",
    "straight ahead or right",
    "straight ahead or left",
    "keep right",
    "keep left",
    "roundabout",
    "end of no overtaking",
    "end of no overtaking by lorries",
)


def traffic_signs(root: str, split: str, download: bool) -> list[tuple[str, int]]:
    """Paths and labels of GTSRB; torchvision's class fetches it and says whether it is there."""
    datasets.GTSRB(root, split=split, download=download)
    folder = Path(root) / "gtsrb"
    if split == "train":
        return make_dataset(str(folder / "GTSRB" / "Training"), extensions=(".ppm",))
    with open(folder / "GT-final_test.csv", newline="") as file:
        rows = csv.DictReader(file, delimiter=";", skipinitialspace=True)
        images = folder / "GTSRB" / "Final_Test" / "Images"
        return [(str(images / row["Filename"]), int(row["ClassId"])) for row in rows]


SETS: dict[str, Dataset] = {
    "gtsrb": Dataset(
        DatasetFacts(
            title="German Traffic Sign Recognition Benchmark",
            classes=TRAFFIC_SIGNS,
            num_classes=43,
            channels=3,
            native_size=32,
            mean=(0.3403, 0.3121, 0.3214),
            std=(0.2724, 0.2608, 0.2669),
            statistics="others' figures, not recomputed here; data.stats=compute computes them",
            hflip=0.0,
            shift=2,
            splits={"train": 26_640, "test": 12_630},
            download_mb=277,
            licence="none stated; free to use",
            source="Stallkamp, Schlipsing, Salmen and Igel 2012",
            same_size=False,
            note="torchvision's training archive: 26,640 of the 39,209 images of the final one; "
            "each sign was filmed 30 times in a row, so a validation split by images is easier "
            "than the test",
        ),
        torchvision_files(
            "gtsrb",
            traffic_signs,
            {"train": {"split": "train"}, "test": {"split": "test"}},
            "gtsrb",
            files=list,
            classes=lambda found: TRAFFIC_SIGNS,
        ),
    ),
    "rendered_sst2": Dataset(
        photographs(
            title="Rendered SST2: is the sentence in the image a positive one?",
            classes=("negative", "positive"),
            num_classes=2,
            native_size=448,
            same_size=True,
            hflip=0.0,
            splits={"train": 6920, "val": 872, "test": 1821},
            download_mb=131,
            licence="none stated",
            source="Radford et al. 2021, from Socher et al. 2013",
        ),
        torchvision_files(
            "rendered_sst2",
            datasets.RenderedSST2,
            {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}},
            "rendered-sst2",
        ),
    ),
}
