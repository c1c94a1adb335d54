"""Mixup and CutMix against timm's and torchvision's, and against the statistics they promise."""

import numpy as np
import pytest
import timm.data.mixup as timm_mixup
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms import v2

from vitfw.data.augment.mixing import Mix, Mixing, apply, cutmix_boxes
from vitfw.errors import ConfigError

K = 7
BOTH = Mixing(mixup=0.8, cutmix=1.0)


def random_batch(size: int = 8, height: int = 12, width: int = 20) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(size)
    images = torch.randn(size, 3, height, width, generator=generator)
    return images, torch.randint(K, (size,), generator=generator)


def one_hot(labels: torch.Tensor) -> torch.Tensor:
    return torch.eye(K)[labels]


# against others


class Replay:
    """numpy.random as timm calls it, answered from the generator of our key."""

    def __init__(self, key: int):
        generator = np.random.default_rng(key)
        self.rand, self.beta = generator.random, generator.beta
        self.randint = generator.integers


@pytest.mark.parametrize("key", range(40))
def test_a_batch_is_mixed_as_by_timm_with_the_same_random_numbers(key, monkeypatch):
    images, labels = random_batch()
    ours = Mixing(mixup=0.8, cutmix=1.0, probability=0.8)(images, labels, K, key, 0.0)
    theirs = timm_mixup.Mixup(0.8, 1.0, prob=0.8, label_smoothing=0.0, num_classes=K)
    monkeypatch.setattr(np, "random", Replay(key))
    expected = theirs(images.clone(), labels)
    for mine, its in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, its, atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(10))
def test_elements_are_mixed_as_by_timm_with_the_same_shares_and_boxes(seed, monkeypatch):
    images, labels = random_batch()
    theirs = timm_mixup.Mixup(0.8, 1.0, prob=0.8, mode="elem", label_smoothing=0.0, num_classes=K)
    drawn, boxes = [], []
    find_box, draw = timm_mixup.cutmix_bbox_and_lam, theirs._params_per_elem

    def recorded_box(*args, **kwargs):
        boxes.append(find_box(*args, **kwargs))
        return boxes[-1]

    def recorded_draw(size):
        drawn.extend(a.copy() for a in draw(size))
        return np.array(drawn[0]), drawn[1]

    monkeypatch.setattr(timm_mixup, "cutmix_bbox_and_lam", recorded_box)
    monkeypatch.setattr(theirs, "_params_per_elem", recorded_draw)
    np.random.seed(seed)  # noqa: NPY002, timm draws from the global state
    expected = theirs(images.clone(), labels)

    kept, cut = drawn
    mix = Mix(np.where(cut, 1.0, kept), np.zeros((8, 4), dtype=np.int64), kept.astype(float))
    for i in range(8):
        if cut[i] and kept[i] != 1.0:
            mix.boxes[i], mix.own[i] = boxes.pop(0)
    assert not boxes
    for mine, its in zip(apply(mix, images, labels, K), expected, strict=True):
        torch.testing.assert_close(mine, its, atol=1e-6, rtol=0)


@given(
    kept=st.floats(0, 1),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 100),
)
def test_boxes_are_timms_for_the_same_share_and_centre(kept, height, width, seed):
    np.random.seed(seed)  # noqa: NPY002
    theirs = timm_mixup.rand_bbox((3, height, width), kept, count=5)
    np.random.seed(seed)  # noqa: NPY002
    y, x = np.random.randint(0, height, 5), np.random.randint(0, width, 5)  # noqa: NPY002
    ours = cutmix_boxes(np.full(5, kept), y, x, height, width)
    assert np.array_equal(ours, np.stack(theirs, axis=1))


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_a_pair_is_mixed_as_by_torchvision(name, monkeypatch):
    # torchvision's partner is the neighbour: of two images, the same as ours
    images, labels = random_batch(2)
    transform = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[name](num_classes=K)
    for key in range(20):
        mix = Mixing(**{name: 1.0}).draw(1, 12, 20, key)
        top, bottom, left, right = mix.boxes[0].tolist()
        params = {"lam": mix.blend[0], "lam_adjusted": mix.own[0]}
        params["box"] = (left, top, right, bottom)
        monkeypatch.setattr(transform, "make_params", lambda _, params=params: params)
        expected = transform(images, labels)
        for mine, its in zip(apply(mix, images, labels, K), expected, strict=True):
            torch.testing.assert_close(mine, its, atol=1e-6, rtol=0)


# pixels and labels say the same

MIXINGS = st.builds(
    Mixing,
    mixup=st.sampled_from([0.0, 0.2, 1.0]),
    cutmix=st.sampled_from([0.2, 1.0]),
    probability=st.sampled_from([0.5, 1.0]),
    mode=st.sampled_from(["batch", "element"]),
)


@given(
    mixing=MIXINGS,
    size=st.integers(1, 9),
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    key=st.integers(-(2**63), 2**63 - 1),
)
def test_the_share_of_each_image_in_the_pixels_is_its_share_in_the_targets(
    mixing, size, height, width, key
):
    # Image i is i everywhere and its class is i: the mean pixel is then Σ class · share.
    values = torch.arange(size, dtype=torch.float64)
    images = values[:, None, None, None].expand(size, 3, height, width)
    mixed, targets = mixing(images, torch.arange(size), size, key, 0.0)
    assert targets.shape == (size, size)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets.sum(1), torch.ones(size))
    assert targets.min() >= 0
    torch.testing.assert_close(mixed.mean((1, 2, 3)), targets.double() @ values, atol=1e-5, rtol=0)
    partners = torch.arange(size).flip(0)
    outside = torch.ones(size, size, dtype=torch.bool)
    outside[torch.arange(size), torch.arange(size)] = False
    outside[torch.arange(size), partners] = False
    assert not targets[outside].any()


@pytest.mark.parametrize("mode", ["batch", "element"])
@pytest.mark.parametrize("size", [1, 5])
def test_the_middle_of_an_odd_batch_stays_as_it_is(mode, size):
    images, labels = random_batch(size)
    for key in range(10):
        mixing = Mixing(mixup=1.0, cutmix=1.0, mode=mode)
        mixed, targets = mixing(images, labels, K, key, 0.0)
        middle = size // 2
        torch.testing.assert_close(mixed[middle], images[middle])
        torch.testing.assert_close(targets[middle], one_hot(labels)[middle])


@pytest.mark.parametrize("mode", ["batch", "element"])
def test_cutmix_copies_pixels_and_changes_none(mode):
    images, labels = random_batch()
    mixed, _ = Mixing(cutmix=1.0, mode=mode)(images, labels, K, 3, 0.0)
    own, partner = mixed == images, mixed == images.flip(0)
    assert (own | partner).all()
    assert not own.all()


@pytest.mark.parametrize("mode", ["batch", "element"])
def test_the_callers_tensors_are_left_alone_and_layout_and_dtype_kept(mode):
    images, labels = random_batch()
    images = images.to(torch.bfloat16, memory_format=torch.channels_last)
    before, labels_before = images.clone(), labels.clone()
    for key in range(10):
        mixed, _ = Mixing(mixup=1.0, cutmix=1.0, mode=mode)(images, labels, K, key, 0.0)
        assert mixed.dtype == torch.bfloat16
        assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)
    assert torch.equal(labels, labels_before)


@pytest.mark.parametrize(("mode", "shares"), [("batch", 1), ("element", 9)])
def test_a_batch_has_one_share_and_elements_have_their_own(mode, shares):
    images, _ = random_batch(18)
    _, targets = Mixing(mixup=1.0, mode=mode)(images, torch.arange(18), 18, 0, 0.0)
    assert len(targets.diagonal()[:9].unique()) == shares


# when


@pytest.mark.parametrize(
    "mixing", [Mixing(), Mixing(mixup=1.0, probability=0.0), Mixing(cutmix=1.0, off_share=1.0)]
)
def test_without_mixing_images_and_labels_are_given_back_themselves(mixing):
    images, labels = random_batch()
    mixed, targets = mixing(images, labels, K, 0, 0.0)
    assert not mixing.active
    assert mixed is images
    assert targets is labels


@pytest.mark.parametrize("mixing", [Mixing(mixup=0.1), Mixing(cutmix=1.0, probability=0.1), BOTH])
def test_mixing_is_active_if_any_of_it_can_happen(mixing):
    assert mixing.active


def test_the_last_share_of_the_training_sees_plain_images_and_labels():
    images, labels = random_batch()
    mixing = Mixing(mixup=1.0, cutmix=1.0, off_share=0.1)
    for progress in (0.0, 0.5, 0.899):
        assert mixing(images, labels, K, 1, progress)[1].shape == (8, K)
    for progress in (0.9, 0.95, 1.0):
        mixed, targets = mixing(images, labels, K, 1, progress)
        assert torch.equal(mixed, images)
        assert torch.equal(targets, labels)


@pytest.mark.parametrize("mode", ["batch", "element"])
def test_a_batch_spared_by_probability_has_one_hot_targets(mode):
    images, labels = random_batch()
    mixing = Mixing(mixup=1.0, cutmix=1.0, probability=1e-9, mode=mode)
    mixed, targets = mixing(images, labels, K, 0, 0.0)
    assert torch.equal(mixed, images)
    assert torch.equal(targets, one_hot(labels))


# random numbers


@pytest.mark.parametrize("mode", ["batch", "element"])
def test_a_key_gives_the_same_bytes_whatever_was_drawn_before_and_another_key_others(mode):
    images, labels = random_batch()
    mixing = Mixing(mixup=1.0, cutmix=1.0, mode=mode)
    first = mixing(images, labels, K, -5, 0.0)
    torch.rand(3), np.random.rand(3)  # noqa: NPY002
    second = mixing(images, labels, K, -5, 0.7)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    others = torch.stack([mixing(images, labels, K, key, 0.0)[1] for key in range(20)])
    assert len(others.unique(dim=0)) == 20


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 4.0])
def test_mixups_share_is_beta_distributed(alpha):
    per_element = Mixing(mixup=alpha).draw(5000, 8, 8, 0).blend
    per_batch = [Mixing(mixup=alpha).draw(1, 8, 8, key).blend[0] for key in range(2000)]
    for shares in (per_element, per_batch):
        assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 1e-4


def test_cutmixs_box_has_the_share_s_area_and_a_uniform_centre():
    mix = Mixing(cutmix=1.0).draw(20_000, 1000, 1500, 1)
    top, bottom, left, right = mix.boxes.T
    inner = (top > 0) & (bottom < 1000) & (left > 0) & (right < 1500)  # clipped nowhere
    aspect = (bottom - top)[inner] / (right - left)[inner].clip(min=1)
    large = (bottom - top)[inner] > 100
    assert np.abs(aspect[large] - 1000 / 1500).max() < 0.02  # the shape of the image itself
    # Uncorrected, 1 − λ is uniform for α = 1; the clipped area is never more.
    covered = 1.0 - mix.own
    assert np.all(np.sort(covered) <= np.sort(np.linspace(0, 1, 20_000)) + 0.02)
    # Boxes too small to be clipped lie uniformly.
    small = (bottom - top < 50) & (bottom - top > 0)
    centre = ((top + bottom) / 2)[small] / 1000
    assert abs(centre.mean() - 0.5) < 5 * np.sqrt(1 / 12 / small.sum())


def test_probability_and_switch_probability_are_binomial():
    mix = Mixing(mixup=1.0, cutmix=1.0, probability=0.7, switch_probability=0.3).draw(
        20_000, 400, 400, 5
    )
    blended = int((mix.blend < 1.0).sum())
    cut = int((mix.boxes[:, 0] < mix.boxes[:, 1]).sum())
    assert stats.binomtest(blended, 20_000, 0.7 * 0.7).pvalue > 1e-4
    assert stats.binomtest(cut, 20_000, 0.7 * 0.3).pvalue > 1e-4
    assert not ((mix.blend < 1.0) & (mix.boxes[:, 0] < mix.boxes[:, 1])).any()


def test_batches_are_mixed_with_probability_too():
    mixing = Mixing(mixup=1.0, probability=0.25)
    mixed = sum(mixing.draw(1, 8, 8, key).blend[0] < 1.0 for key in range(2000))
    assert stats.binomtest(int(mixed), 2000, 0.25).pvalue > 1e-4


# options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup": -0.1}, r"augment\.mixing\.mixup=-0\.1 is the α .* 0 to switch it off"),
        ({"cutmix": float("nan")}, r"augment\.mixing\.cutmix=nan"),
        ({"mixup": float("inf")}, r"augment\.mixing\.mixup=inf"),
        ({"probability": 1.5}, r"augment\.mixing\.probability=1\.5 is a probability: 0 to 1"),
        ({"switch_probability": -1}, r"augment\.mixing\.switch_probability=-1"),
        ({"off_share": 2.0}, r"augment\.mixing\.off_share=2\.0 is a share of the training"),
        ({"mode": "pair"}, r"augment\.mixing\.mode=pair is unknown; use batch or element"),
    ],
)
def test_an_option_outside_its_range_is_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        Mixing(**options)
