"""What a worker makes of an image: fitted or cropped pixels, others in the place of bad ones."""

from typing import cast

import pytest
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as TF
from pictures import picture, spoil, two_classes
from PIL import Image
from torchvision.transforms import InterpolationMode

from vitfw.data.augment.batch_augment import BatchAugment
from vitfw.data.augment.batch_crop import crop_pixels
from vitfw.data.counter_rng import sample_keys
from vitfw.data.decode import Decoder, Sample, collate, read_augmented
from vitfw.data.images import ArrayImages
from vitfw.data.reading.fake import make_fake
from vitfw.data.reading.image_file import SMALL_FILE, ImageFile
from vitfw.data.transforms import UnreadableImage

SIZE = (24, 24)
SCALE, RATIO = (0.3, 1.0), (3 / 4, 4 / 3)
CROP = BatchAugment(crop_scale=SCALE, crop_ratio=RATIO)
KEYS: list[int] = sample_keys(0, 0, torch.arange(100)).tolist()


@pytest.fixture
def images(tmp_path):
    return two_classes(tmp_path, 10)


def decoder(images, augment: BatchAugment | None = None) -> Decoder:
    return Decoder(images, SIZE, 3, augment=augment)


def drawn_box(key: int, height: int, width: int) -> list[int]:
    """Top, left, height, width, by the code for whole batches."""
    return [int(n) for n in crop_pixels(torch.tensor([key]), SCALE, RATIO, height, width)]


def pixels_of(sample: Sample) -> torch.Tensor:
    assert sample.pixels is not None
    return sample.pixels


def original(images, i: int) -> torch.Tensor:
    return TF.pil_to_tensor(Image.open(images.open(i)).convert("RGB"))


# ordinary images


def test_evaluation_gives_the_fitted_image_its_label_and_its_key(images):
    for i in (0, 13):
        sample = decoder(images)[i, KEYS[i]]
        full = original(images, i)
        sides = [round(side * 24 / 30) for side in full.shape[1:]]
        resized = TF.resize(full, sides, InterpolationMode.BICUBIC, antialias=True)
        assert torch.equal(pixels_of(sample), TF.center_crop(resized, list(SIZE)))
        assert (sample.label, sample.key, sample.bad) == (i // 10, KEYS[i], [])


def test_a_training_crop_is_torchvisions_resized_crop_of_the_box_that_a_batch_would_draw(images):
    for i, key in enumerate(KEYS[:20]):
        full = original(images, i)
        expected = TF.resized_crop(
            full,
            *drawn_box(key, *full.shape[1:]),
            list(SIZE),
            InterpolationMode.BICUBIC,
            antialias=True,
        )
        assert torch.equal(pixels_of(decoder(images, CROP)[i, key]), expected)


def save_large(image: Image.Image, path) -> None:
    """A JPEG file that is decoded at a reduced scale: zeros behind its end make it large."""
    image.save(path, quality=95)
    path.write_bytes(path.read_bytes() + bytes(SMALL_FILE))


def test_a_crop_at_reduced_scale_is_off_by_less_than_one_of_its_pixels(tmp_path):
    """Red says how far a pixel is from the left, green from the top; the scale is 1/8 at most."""
    path = tmp_path / "large.jpg"
    down, right = torch.linspace(0, 255, 599), torch.linspace(0, 255, 801)
    ramps = torch.stack(torch.broadcast_tensors(right[None], down[:, None], torch.tensor(99.0)))
    save_large(TF.to_pil_image(ramps.to(torch.uint8)), path)
    full = TF.pil_to_tensor(Image.open(path))
    for key in KEYS[:20]:
        ours = read_augmented(str(path), SIZE, 3, 1.0, key, CROP)
        box = drawn_box(key, 599, 801)
        theirs = TF.resized_crop(full, *box, list(SIZE), InterpolationMode.BICUBIC, antialias=True)
        assert (ours.int() - theirs.int()).abs().max() <= 8 * 255 / 599 + 2


def test_a_crop_at_reduced_scale_has_at_least_the_pixels_that_it_is_resized_to(
    tmp_path, monkeypatch
):
    path = tmp_path / "large.jpg"
    save_large(picture(801, 599), path)
    decoded, read = [], ImageFile.pixels

    def watched(image: ImageFile, *args, **kwargs) -> torch.Tensor:
        decoded.append(read(image, *args, **kwargs))
        return decoded[-1]

    monkeypatch.setattr(ImageFile, "pixels", watched)
    for key in KEYS:
        read_augmented(str(path), (90, 90), 3, 1.0, key, CROP)
        _, _, height, width = drawn_box(key, 599, 801)
        down, right = decoded[-1].shape[1] / 599, decoded[-1].shape[2] / 801
        assert height * down >= min(90, height) and width * right >= min(90, width)
    assert len({pixels.shape for pixels in decoded}) == 2  # a half and a quarter


def test_no_crop_of_a_white_jpeg_has_a_dark_edge_at_any_scale(tmp_path):
    path = tmp_path / "white.jpg"
    for side in (101, 102, 206, 411):
        save_large(Image.new("RGB", (side, side), "white"), path)
        for key in KEYS:
            assert read_augmented(str(path), (12, 12), 3, 1.0, key, CROP).min() >= 253


def test_a_crop_is_a_function_of_image_and_key(images):
    crops = [
        pixels_of(decoder(images, CROP)[i, key])
        for i, key in ((4, KEYS[0]), (4, KEYS[0]), (4, KEYS[1]), (5, KEYS[0]))
    ]
    assert torch.equal(crops[0], crops[1])
    assert not any(torch.equal(crops[0], other) for other in crops[2:])


def test_without_a_crop_a_training_image_is_fitted_as_in_evaluation(images):
    ours, theirs = decoder(images, BatchAugment(hflip=1.0))[3, 7], decoder(images)[3, 7]
    assert torch.equal(pixels_of(ours), pixels_of(theirs))


@pytest.mark.parametrize("size", [(20_000, 10), (10, 20_000), (1, 1), (2, 300)], ids=str)
def test_odd_shapes_can_be_cropped(tmp_path, size):
    Image.new("RGB", size, (0, 200, 0)).save(tmp_path / "x.png")
    for key in KEYS[:5]:
        pixels = read_augmented(str(tmp_path / "x.png"), SIZE, 3, 1.0, key, CROP)
        assert pixels.shape == (3, *SIZE)
        assert (pixels == torch.tensor([0, 200, 0], dtype=torch.uint8)[:, None, None]).all()


# arrays


def test_images_of_an_array_are_given_as_they_are():
    fake = cast(ArrayImages, make_fake(3, 1, 8, 12, "train").images)
    for augment in (None, CROP):
        sample = decoder(fake, augment)[2, KEYS[0]]
        assert torch.equal(pixels_of(sample), fake.images[2])
        assert sample.label == fake.labels[2]


# transforms of torchvision


def test_per_image_transforms_are_torchvisions_seeded_by_the_key(images):
    transforms = [T.RandomPosterize(2, p=0.5), T.RandomRotation(40)]
    several = decoder(images, BatchAugment(crop_scale=(0.5, 1.0), per_image=transforms))
    plain = decoder(images, BatchAugment(crop_scale=(0.5, 1.0)))
    for i, key in enumerate(KEYS[:6]):
        before = pixels_of(plain[i, key])
        torch.manual_seed(key)
        expected = transforms[1](transforms[0](before))
        assert torch.equal(pixels_of(several[i, key]), expected)


def test_per_image_transforms_leave_the_global_random_numbers_alone(images):
    augment = BatchAugment(per_image=[T.ColorJitter(0.5), T.RandomRotation(40)])
    before = torch.get_rng_state()
    once = pixels_of(decoder(images, augment)[1, KEYS[0]])
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    assert torch.equal(pixels_of(decoder(images, augment)[1, KEYS[0]]), once)


def test_evaluation_does_not_depend_on_the_key(images):
    ours, theirs = (pixels_of(decoder(images)[1, key]) for key in KEYS[:2])
    assert torch.equal(ours, theirs)


# bad images


def test_in_evaluation_a_bad_image_is_left_out_and_told(images):
    (path,) = spoil(images, 4)
    batch = collate([decoder(images)[i, KEYS[i]] for i in (3, 4, 5)])
    assert len(batch.images) == len(batch.labels) == 2
    assert batch.keys.tolist() == [KEYS[3], KEYS[5]]
    ((i, reason),) = batch.bad
    assert i == 4
    assert path in reason and "not an image" in reason


def test_in_training_another_image_takes_its_place_and_its_key_stays(images):
    spoil(images, 4)
    for key in KEYS[:10]:
        sample = decoder(images, CROP)[4, key]
        assert pixels_of(sample).shape == (3, *SIZE)
        assert sample.key == key
        assert {i for i, _ in sample.bad} == {4}


def test_the_label_is_that_of_the_image_in_its_place(images):
    spoil(images, *range(10))  # all ants
    for key in KEYS[:20]:
        sample = decoder(images, CROP)[3, key]
        assert sample.label == 1
        assert pixels_of(sample).shape == (3, *SIZE)
        assert {i for i, _ in sample.bad} <= set(range(10))


def test_what_takes_its_place_is_a_function_of_the_key_and_not_always_the_same(images):
    spoil(images, 4)
    training = decoder(images, BatchAugment())
    once, again = ([pixels_of(training[4, key]) for key in KEYS] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert len({pixels.numpy().tobytes() for pixels in once}) > 12  # of the 19 others


def test_where_nothing_can_be_read_it_gives_up_and_tells(images):
    spoil(images, *range(20))
    with pytest.raises(UnreadableImage, match=r"of 20 images none can be read: .*004\.jpg"):
        decoder(images, CROP)[4, KEYS[0]]


def test_a_batch_of_nothing_but_bad_images_is_empty(images):
    spoil(images, 0, 1)
    batch = collate([decoder(images)[i, KEYS[i]] for i in (0, 1)])
    assert len(batch.labels) == len(batch.keys) == len(batch.images) == 0
    assert batch.labels.dtype == batch.keys.dtype == torch.int64
    assert [i for i, _ in batch.bad] == [0, 1]


def test_a_file_that_breaks_off_is_bad_with_and_without_a_crop(tmp_path):
    picture(64, 64).save(tmp_path / "cut.jpg")
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    for augment in (CROP, BatchAugment()):
        with pytest.raises(UnreadableImage, match=r"cut\.jpg: .*truncated"):
            read_augmented(str(tmp_path / "cut.jpg"), SIZE, 3, 1.0, KEYS[0], augment)


@pytest.mark.parametrize("augment", [None, CROP])
def test_a_program_error_is_not_taken_for_a_bad_image(images, augment, monkeypatch):
    def broken(*_, **__):
        raise AttributeError("a bug")

    monkeypatch.setattr("vitfw.data.decode.read_fitted", broken)
    monkeypatch.setattr("vitfw.data.decode.ImageFile", broken)
    with pytest.raises(AttributeError, match="a bug"):
        decoder(images, augment)[0, 0]
