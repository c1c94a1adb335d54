"""Sizes of training images that grow with the run."""

import pytest
import torch
import torch.nn.functional as F

from vitfw.data.augment.batch_augment import BatchAugment
from vitfw.data.augment.progressive import Progressive
from vitfw.data.datamodule import ImageData
from vitfw.errors import ConfigError


def test_each_size_lasts_until_its_share_of_the_run():
    sizes = Progressive(sizes=[12, 20], until=[0.25, 0.5])
    seen = [sizes.size_at(progress, (28, 28))[0] for progress in (0.0, 0.24, 0.25, 0.49, 0.5, 0.99)]
    assert seen == [12, 12, 20, 20, 28, 28]


def test_the_longer_side_keeps_its_proportion():
    assert Progressive([16], [0.5]).size_at(0.0, (32, 48)) == (16, 24)


def test_batches_of_the_first_part_are_pytorchs_resized_ones():
    small = make_data(Progressive([4], [1.0]))
    full = make_data(Progressive())
    (images, labels), (whole, same) = (data.preview_batch("train", 6) for data in (small, full))
    expected = F.interpolate(whole, (4, 4), mode="bicubic", antialias=True, align_corners=False)
    assert torch.equal(labels, same)
    torch.testing.assert_close(images, expected.clamp(0, 1), atol=2 / 255, rtol=0)


def make_data(progressive: Progressive) -> ImageData:
    augment = BatchAugment(progressive=progressive)
    options = {"num_classes": 2, "channels": 1, "native_size": 8, "num_images": 40}
    data = ImageData("fake", batch_size=8, augment=augment, **options)
    data.setup("fit")
    return data


@pytest.mark.parametrize(
    "sizes, until, complaint",
    [
        ([16], [], "1 sizes and 0 ends"),
        ([16, 20], [0.6, 0.3], "shares of the run that rise"),
        ([16], [1.5], "shares of the run that rise"),
        ([0], [0.5], "are pixels"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, until, complaint):
    with pytest.raises(ConfigError, match=complaint):
        Progressive(sizes, until)
