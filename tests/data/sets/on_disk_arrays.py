"""A few images of each set, written as its publisher does. Every writer puts them below a root and
gives what is to be read: pixels [N, C, H, W], or files, and labels from 0.

The checksums torchvision knows are those of the real files; they become those of these.
"""

from on_disk_handwriting import (
    write_emnist,
    write_fashion_mnist,
    write_mnist_like,
    write_omniglot,
    write_qmnist,
    write_semeion,
    write_usps,
)
from on_disk_images import (
    write_cifar,
    write_clevr,
    write_eurosat,
    write_fer2013,
    write_lfw,
    write_pcam,
    write_stl10,
    write_svhn,
)
from written import Writer

WRITERS: dict[str, Writer] = {
    "mnist": write_mnist_like("MNIST"),
    "kmnist": write_mnist_like("KMNIST"),
    "qmnist": write_qmnist,
    "fashion_mnist": write_fashion_mnist,
    "emnist_balanced": write_emnist("balanced", 47),
    "emnist_byclass": write_emnist("byclass", 62),
    "emnist_bymerge": write_emnist("bymerge", 47),
    "emnist_letters": write_emnist("letters", 26),
    "emnist_digits": write_emnist("digits", 10),
    "emnist_mnist": write_emnist("mnist", 10),
    "usps": write_usps,
    "semeion": write_semeion,
    "omniglot": write_omniglot,
    "cifar10": write_cifar("cifar10"),
    "cifar100": write_cifar("cifar100"),
    "svhn": write_svhn,
    "stl10": write_stl10,
    "fer2013": write_fer2013,
    "lfw": write_lfw,
    "pcam": write_pcam,
    "eurosat": write_eurosat,
    "clevr": write_clevr,
}
