"""Made-up images: shapes, balance, and that they can be learned."""

import pytest
import torch

from vitfw.data.images import ArrayImages
from vitfw.data.reading.fake import make_fake


def images_of(*options, split: str = "train") -> ArrayImages:
    found = make_fake(*options, split).images
    assert isinstance(found, ArrayImages)
    return found


def test_fake_images_have_the_shape_asked_for_and_balanced_classes():
    fake = images_of(7, 3, 12, 70)
    assert fake.images.shape == (70, 3, 12, 12)
    assert fake.images.dtype == torch.uint8
    assert fake.labels.bincount().tolist() == [10] * 7
    assert make_fake(7, 3, 12, 70, "train").classes == tuple(f"class {i}" for i in range(7))


@pytest.mark.parametrize("number, test", [(80, 20), (6, 1), (1, 1)])
def test_there_is_one_test_image_for_four_training_images_and_at_least_one(number, test):
    assert len(images_of(2, 1, 4, number, split="test")) == test


def test_fake_classes_can_be_learned_on_train_and_told_apart_on_test():
    train, test = (images_of(5, 1, 16, 200, split=split) for split in ("train", "test"))
    centres = torch.stack([train.images[train.labels == c].float().mean(0) for c in range(5)])
    guesses = torch.cdist(test.images.float().flatten(1), centres.flatten(1)).argmin(1)
    assert (guesses == test.labels).float().mean() > 0.99


def test_fake_images_are_the_same_every_time_and_test_is_not_train():
    once, again = images_of(5, 1, 8, 50), images_of(5, 1, 8, 50)
    test = images_of(5, 1, 8, 200, split="test")
    assert torch.equal(once.images, again.images)
    assert once.images.shape == test.images.shape
    assert not torch.equal(once.images, test.images)


def test_a_subset_has_the_images_and_labels_of_its_index():
    fake = images_of(3, 1, 4, 9)
    part = fake.subset(torch.tensor([8, 0]))
    assert torch.equal(part.images, fake.images[[8, 0]])
    assert part.labels.tolist() == [2, 0]
