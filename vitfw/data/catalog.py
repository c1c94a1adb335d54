"""What is known of every data set: the one place where it is written down."""

from dataclasses import dataclass

from vitfw.errors import ConfigError, nearest

_DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class DatasetFacts:
    """Facts of a data set. `mean` and `std` are per channel, of training pixels scaled to [0, 1].

    `hflip` is the usual probability of a mirror image (0 where it would change the class), `shift`
    the usual number of pixels an image is moved by. Sets whose classes are the user's have none.
    """

    title: str
    classes: tuple[str, ...]
    channels: int
    native_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hflip: float
    shift: int
    train_images: int
    test_images: int
    download_mb: int
    source: str


CATALOG: dict[str, DatasetFacts] = {
    "digits": DatasetFacts(
        title="Optical recognition of handwritten digits",
        classes=_DIGITS,
        channels=1,
        native_size=8,
        mean=(0.3055,),
        std=(0.3763,),
        hflip=0.0,
        shift=1,
        train_images=1438,
        test_images=359,
        download_mb=0,
        source="inside scikit-learn; UCI, Alpaydin and Kaynak 1998, CC BY 4.0",
    ),
    "mnist": DatasetFacts(
        title="MNIST handwritten digits",
        classes=_DIGITS,
        channels=1,
        native_size=28,
        mean=(0.1307,),
        std=(0.3081,),
        hflip=0.0,
        shift=2,
        train_images=60_000,
        test_images=10_000,
        download_mb=11,
        source="LeCun, Cortes and Burges 1998",
    ),
    "fashion_mnist": DatasetFacts(
        title="Fashion-MNIST",
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        channels=1,
        native_size=28,
        mean=(0.2860,),
        std=(0.3530,),
        hflip=0.5,
        shift=2,
        train_images=60_000,
        test_images=10_000,
        download_mb=30,
        source="Xiao, Rasul and Vollgraf 2017, MIT; Debian package dataset-fashion-mnist",
    ),
    "cifar10": DatasetFacts(
        title="CIFAR-10",
        classes=(
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ),
        channels=3,
        native_size=32,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        hflip=0.5,
        shift=4,
        train_images=50_000,
        test_images=10_000,
        download_mb=163,
        source="Krizhevsky 2009",
    ),
    "cifar100": DatasetFacts(
        title="CIFAR-100",
        classes=tuple(
            """
            apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge
            bus butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud
            cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox
            girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man
            maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree
            pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
            road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel
            streetcar sunflower sweet_pepper table tank telephone television tiger tractor train
            trout tulip turtle wardrobe whale willow_tree wolf woman worm
            """.split()
        ),
        channels=3,
        native_size=32,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        hflip=0.5,
        shift=4,
        train_images=50_000,
        test_images=10_000,
        download_mb=161,
        source="Krizhevsky 2009",
    ),
    "image_folder": DatasetFacts(
        title="A folder with one subfolder a class",
        classes=(),
        channels=3,
        native_size=224,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        hflip=0.5,
        shift=8,
        train_images=0,
        test_images=0,
        download_mb=0,
        source="the user's; mean and std are ImageNet's",
    ),
    "fake": DatasetFacts(
        title="A noisy pattern a class, made up on the spot",
        classes=(),
        channels=3,
        native_size=32,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        hflip=0.0,
        shift=0,
        train_images=0,
        test_images=0,
        download_mb=0,
        source="computed",
    ),
}


def facts_of(name: str) -> DatasetFacts:
    """The facts of the data set called `name`.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    if name not in CATALOG:
        meant = nearest(name, CATALOG) or ";"
        raise ConfigError(f"no data set is called {name!r}{meant} known: {', '.join(CATALOG)}")
    return CATALOG[name]


def needing_no_download() -> list[str]:
    """Names of the sets that work without a network, for error messages."""
    return [name for name, facts in CATALOG.items() if facts.download_mb == 0]
