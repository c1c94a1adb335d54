"""The confusion matrix as a picture: its colours, its lists, and what is left of it when large."""

import pytest
import torch

from vitfw.confusion_picture import (
    RIGHT,
    WRONG,
    confusion_picture,
    least_recognised,
    mixed_up,
    shares_of,
)


def colours_in(picture) -> set[tuple[int, ...]]:
    return {colour for _, colour in picture.getcolors(picture.width * picture.height)}


def test_colour_tells_what_was_recognised_from_what_was_not():
    names = ["cat", "dog"]
    all_right, all_wrong = torch.tensor([[3, 0], [0, 3]]), torch.tensor([[0, 3], [3, 0]])
    right, wrong = (colours_in(confusion_picture(each, names)) for each in (all_right, all_wrong))
    assert RIGHT in right and WRONG not in right
    assert WRONG in wrong and RIGHT not in wrong


@pytest.mark.parametrize("classes", [26, 1000])
def test_one_mistake_is_seen_among_many_classes(classes: int):
    confusion = 2 * torch.eye(classes, dtype=torch.int64)
    clean = colours_in(confusion_picture(confusion, ["name"] * classes))
    confusion[3] = torch.zeros(classes)
    confusion[3, classes - 2] = 2
    picture = confusion_picture(confusion, ["name"] * classes)
    assert WRONG in colours_in(picture) and WRONG not in clean
    assert max(picture.size) < 1600


def test_a_class_without_images_has_shares_of_zero_and_no_place_in_the_lists():
    confusion = torch.tensor([[8, 2, 0], [0, 0, 0], [3, 1, 4]])
    names = ["cat", "dog", "fox"]
    assert shares_of(confusion)[1].tolist() == [0, 0, 0]
    assert least_recognised(confusion, names) == [
        ("fox", "4 of 8, 50 %"),
        ("cat", "8 of 10, 80 %"),
    ]
    assert mixed_up(confusion, names) == [
        ("fox as cat", "3 of 8"),
        ("cat as dog", "2 of 10"),
        ("fox as dog", "1 of 8"),
    ]


def test_a_net_may_have_more_logits_than_classes_have_names():
    assert confusion_picture(torch.eye(5, dtype=torch.int64), ["cat", "dog"]).width > 0
