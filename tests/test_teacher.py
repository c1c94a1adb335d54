"""Teachers: what they see of the student's images, where they come from, what is refused."""

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision.transforms.v2.functional as TF
from torch import nn

from vitfw.checkpoint import AtomicCheckpointIO, Passport
from vitfw.errors import ConfigError
from vitfw.inference import load_net
from vitfw.models.vit import VisionTransformer
from vitfw.teacher import ImagesOf, Teacher, check_teacher, load_teacher

CLASSES = ["a", "b", "c"]
TINY = {"img_size": 16, "patch_size": 4, "in_chans": 1, "num_classes": 3, "embed_dim": 16}
TINY |= {"depth": 1, "num_heads": 2}
MEAN, STD = [0.3, 0.4, 0.5], [0.1, 0.2, 0.25]


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """One of ours, of grey images of 16 × 16 px."""
    model = {"_target_": "vitfw.models.vit.VisionTransformer", **TINY}
    net = VisionTransformer(**TINY)
    nn.init.normal_(net.head.weight)
    passport = Passport({"model": model}, CLASSES, 1, [16, 16], 1.0, [0.3], [0.2], {})
    weights = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    content = {"state_dict": weights, "vitfw": vars(passport)}
    AtomicCheckpointIO().save_checkpoint(content, tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> tuple[Path, nn.Module]:
    """A file of weights of timm's smallest residual net, and the net."""
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=3).eval()
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    safetensors.torch.save_file(net.state_dict(), path)
    return path, net


def normalised(pixels: torch.Tensor, mean, std) -> torch.Tensor:
    return TF.normalize(pixels, list(mean), list(std))


# ── what it sees ──────────────────────────────────────────────────────────────────────────────


def test_a_checkpoint_sees_pixels_as_in_its_own_training(checkpoint):
    pixels = torch.rand(4, 1, 16, 16)
    net, _ = load_net(checkpoint)
    teacher = load_teacher(str(checkpoint), CLASSES, [0.7], [0.5])
    wanted = net(normalised(pixels, [0.3], [0.2]))
    torch.testing.assert_close(teacher(normalised(pixels, [0.7], [0.5])), wanted)


def test_images_of_another_size_are_resized_as_torchvision_does(checkpoint):
    pixels = torch.rand(4, 1, 24, 20)
    net, _ = load_net(checkpoint)
    teacher = load_teacher(str(checkpoint), CLASSES, [0.7], [0.5])
    resized = TF.resize(pixels, [16, 16], TF.InterpolationMode.BICUBIC, antialias=True)
    wanted = net(normalised(resized, [0.3], [0.2]))
    seen = teacher(normalised(pixels, [0.7], [0.5]))
    torch.testing.assert_close(seen, wanted, atol=1e-4, rtol=1e-4)


def test_grey_images_are_given_to_all_channels_of_a_teacher_of_colours():
    pixels = torch.rand(2, 1, 8, 8)
    teacher = Teacher(nn.Identity(), ImagesOf((8, 8), MEAN, STD), [0.7], [0.5])
    wanted = normalised(pixels.expand(-1, 3, -1, -1), MEAN, STD)
    torch.testing.assert_close(teacher(normalised(pixels, [0.7], [0.5])), wanted)


def test_timms_model_with_weights_of_a_file_sees_what_timm_says_of_it(weights):
    path, net = weights
    pixels = torch.rand(2, 3, 160, 160)
    teacher = load_teacher(f"timm:test_resnet@{path}", CLASSES, MEAN, STD)
    cfg = net.pretrained_cfg
    assert teacher.img_size == tuple(cfg["input_size"][1:]) == (160, 160)
    with torch.no_grad():
        wanted = net(normalised(pixels, cfg["mean"], cfg["std"]))
        seen = teacher(normalised(pixels, MEAN, STD))
    torch.testing.assert_close(seen, wanted, atol=1e-4, rtol=1e-4)


def test_timms_published_weights_are_those_that_timm_fetches(monkeypatch):
    """The hub is stood in for by weights that are known."""
    asked = {}
    build = timm.create_model

    def create(name, pretrained=False, **options):
        asked[name] = pretrained
        made = build(name, **options)
        nn.init.constant_(made.fc.bias, 7.0)
        return made

    monkeypatch.setattr(timm, "create_model", create)
    thousand = [str(number) for number in range(1000)]
    teacher = load_teacher("timm:test_resnet.r160_in1k", thousand, MEAN, STD)
    assert asked == {"test_resnet.r160_in1k": True}
    assert teacher.state_dict()["net.fc.bias"].eq(7.0).all()


def test_it_is_frozen_and_in_evaluation_mode(checkpoint):
    teacher = load_teacher(str(checkpoint), CLASSES, [0.5], [0.5])
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())


# ── what is refused ───────────────────────────────────────────────────────────────────────────


def refused(spec: str, said: str, classes=CLASSES, mean=MEAN) -> None:
    with pytest.raises(ConfigError, match=said):
        load_teacher(spec, classes, mean, [0.5] * len(mean))


def test_a_teacher_of_other_classes_is_refused(checkpoint, weights):
    path, _ = weights
    grey = [0.5]
    refused(str(checkpoint), "tells 3 classes apart, the data have 2", ["a", "b"], grey)
    refused(str(checkpoint), "class 1 is 'b', that of the data 'c'", ["a", "c", "b"], grey)
    refused("timm:resnet18", "tells 1,000 classes apart, the data have 3; train one on these data")
    refused(f"timm:test_resnet@{path}", r"fc\.weight \[3, .*\] instead of \[4", [*CLASSES, "d"])


def test_a_teacher_of_other_channels_is_refused(checkpoint):
    refused(str(checkpoint), "takes images of 1 channel, the data have 3 channels")


def test_a_file_that_is_not_there_is_refused_before_it_is_loaded(tmp_path):
    for spec in (f"{tmp_path}/no.ckpt", f"timm:resnet18@{tmp_path}/no.pth"):
        with pytest.raises(ConfigError, match=r"there is no file .*no\.(ckpt|pth)"):
            check_teacher(spec)


@pytest.mark.parametrize(
    "name, said",
    [
        ("resnett18", "timm has no model 'resnett18'; did you mean resnet18"),
        (
            "resnet18.a1_in1",
            "timm has no weights of resnet18.a1_in1; did you mean resnet18.a1_in1k",
        ),
        ("vit_giant_patch14_224", "no weights of vit_giant_patch14_224; to give a file of them"),
    ],
)
def test_a_name_that_timm_does_not_have_is_refused_before_it_is_fetched(name, said):
    with pytest.raises(ConfigError, match=said):
        check_teacher(f"timm:{name}")


def test_a_checkpoint_of_ours_is_not_taken_for_weights_of_timms(checkpoint):
    refused(f"timm:resnet18@{checkpoint}", f"type method.teacher={checkpoint}")


def test_a_name_without_weights_can_be_given_a_file(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"")
    check_teacher(f"timm:vit_giant_patch14_224@{tmp_path}/w.pth")
