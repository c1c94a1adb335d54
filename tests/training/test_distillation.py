"""Distillation against closed forms in float64, timm's tasks, and what a student learns by it."""

import copy
from functools import cache

import lightning as L
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from scipy.special import log_softmax, softmax
from timm.task import LogitDistillationTask, TokenDistillationTask
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from vitfw.config import compose, to_plain
from vitfw.errors import ConfigError
from vitfw.models.vit import VisionTransformer
from vitfw.training.distillation import DistilledClassifier, check_config, hard_loss, soft_loss
from vitfw.training.optimizers import adamw
from vitfw.training.weight_average import ema

B, K = 16, 4
LABELS = torch.arange(B) % K


class Unattached(DistilledClassifier):
    """Computes losses without a trainer."""

    repeated = False


def make_net(dist_token: bool = True, **options) -> VisionTransformer:
    tiny = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 16, "num_heads": 2}
    net = VisionTransformer(
        **tiny, depth=1, num_classes=K, dist_token=dist_token, zero_head=False, **options
    )
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


def make_teacher() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, K))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(B, 1, 8, 8)


# ── the formulas ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_the_loss_with_a_token_is_deits_in_float64(images, kind):
    """Equations 2 and 3 of the paper, written out in NumPy, with the two heads apart."""
    net, teacher = make_net().double(), make_teacher().double()
    learner = Unattached(net, K, teacher, kind=kind, alpha=0.3, temperature=2.5)
    learner.double()
    loss = learner.loss_of((images.double(), LABELS)).item()
    tokens = net.forward_features(images.double())
    z_class = net.head(tokens[:, 0]).float().double().detach().numpy()
    z_token = net.head_dist(tokens[:, 1]).float().double().detach().numpy()
    z_teacher = teacher(images.double()).float().double().detach().numpy()
    rows = np.arange(B)
    of_labels = -log_softmax(z_class, axis=1)[rows, LABELS].mean()
    if kind == "hard":
        of_teacher = -log_softmax(z_token, axis=1)[rows, z_teacher.argmax(axis=1)].mean()
    else:
        p = softmax(z_teacher / 2.5, axis=1)
        log_ratio = log_softmax(z_teacher / 2.5, axis=1) - log_softmax(z_token / 2.5, axis=1)
        of_teacher = 2.5**2 * (p * log_ratio).sum(axis=1).mean()
    assert loss == pytest.approx(0.7 * of_labels + 0.3 * of_teacher, rel=1e-6)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_token_distillation_is_timms(kind):
    theirs, teacher = timms("deit_tiny_distilled_patch16_224"), coloured_teacher()
    ours = Unattached(copy.deepcopy(theirs), K, teacher, kind, alpha=0.4, temperature=2.0)
    told = {"distill_type": kind, "temperature": 2.0, "task_loss_weight": 0.6, "verbose": False}
    check_same_loss_and_gradients(ours, TokenDistillationTask(theirs, teacher, **told))


def test_soft_distillation_without_a_token_is_timms():
    theirs, teacher = timms("vit_tiny_patch16_224"), coloured_teacher()
    options = {"alpha": 0.4, "temperature": 2.0, "token": False}
    ours = Unattached(copy.deepcopy(theirs), K, teacher, "soft", **options)
    told = {"temperature": 2.0, "task_loss_weight": 0.6, "verbose": False}
    check_same_loss_and_gradients(ours, LogitDistillationTask(theirs, teacher, **told))


ALIKE = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # for both, so that timm changes nothing


def timms(name: str) -> nn.Module:
    tiny = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    net = timm.create_model(name, num_classes=K, **tiny)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    net.pretrained_cfg = ALIKE
    return net


def coloured_teacher() -> nn.Module:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, K)).eval()
    teacher.pretrained_cfg = ALIKE
    teacher.num_classes = K
    return teacher


def check_same_loss_and_gradients(ours: DistilledClassifier, task: nn.Module) -> None:
    images = torch.randn(B, 3, 8, 8)
    loss, wanted = ours.loss_of((images, LABELS)), task(images, LABELS)["loss"]
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    wanted.backward()
    theirs = task.trainable_module.parameters()
    for mine, other in zip(ours.net.parameters(), theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_the_two_heads_learn_from_different_masters(images):
    net = make_net()
    learner = Unattached(net, K, make_teacher(), alpha=1.0)
    learner.loss_of((images, LABELS)).backward()
    assert net.head.weight.grad.abs().max() == 0 < net.head_dist.weight.grad.abs().max()
    net.zero_grad()
    learner.alpha = 0.0
    learner.loss_of((images, LABELS)).backward()
    assert net.head_dist.weight.grad.abs().max() == 0 < net.head.weight.grad.abs().max()


def test_hot_soft_labels_tend_to_matching_the_logits():
    """Hinton et al. 2015, eq. 4: for a high temperature, the squared distance of centred logits."""
    z, v = torch.randn(B, K, dtype=torch.float64), torch.randn(B, K, dtype=torch.float64)
    centred = (z - z.mean(1, keepdim=True)) - (v - v.mean(1, keepdim=True))
    limit = centred.square().sum(dim=1).mean() / (2 * K)
    torch.testing.assert_close(soft_loss(z, v, 1e4), limit, rtol=1e-3, atol=0.0)


def test_a_teacher_that_is_sure_is_a_label():
    z, v = torch.randn(B, K, dtype=torch.float64), torch.randn(B, K, dtype=torch.float64)
    torch.testing.assert_close(soft_loss(z, 1e6 * v, 1.0), hard_loss(z, v))


# ── training ──────────────────────────────────────────────────────────────────────────────────


def fit(
    learner: L.LightningModule, data: TensorDataset, folder, steps: int, **options
) -> L.Trainer:
    options = {"logger": False, "enable_checkpointing": False} | options
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(learner, DataLoader(data, batch_size=64))
    return trainer


@pytest.mark.parametrize("token, kind", [(True, "hard"), (False, "soft")])
def test_a_student_comes_closer_to_its_teacher_than_one_without(tmp_path, token, kind):
    """The labels are noise, so that all that can be learned of these images is the teacher."""
    images = torch.randn(512, 1, 8, 8)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, K))
    nn.init.normal_(teacher[1].weight)
    taught = teacher(images).detach()
    data = TensorDataset(images, torch.randint(K, (512,)))
    start = make_net(token, weight_init="timm")
    agreement = {}
    for alpha in (0.0, 0.9):
        learner = DistilledClassifier(
            copy.deepcopy(start),
            K,
            teacher,
            kind,
            alpha,
            temperature=1.0,
            token=token,
            optimizer=lambda net: adamw(net, lr=1e-2),
        )
        fit(learner, data, tmp_path, steps=60)
        with torch.no_grad():
            answers = learner.net.eval()(images)
        agreement[alpha] = (answers.argmax(1) == taught.argmax(1)).float().mean().item()
    assert agreement[0.9] > agreement[0.0] + 0.15


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A learner after two steps, with averaged weights, its teacher before and its checkpoint."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("trained")
    teacher = make_teacher().train()
    for parameter in teacher.parameters():
        parameter.requires_grad_(True)
    before = copy.deepcopy(teacher.state_dict())
    learner = DistilledClassifier(
        make_net(), K, teacher, optimizer=lambda net: adamw(net, lr=1e-2), average=ema
    )
    data = TensorDataset(torch.randn(64, 1, 8, 8), torch.arange(64) % K)
    trainer = fit(learner, data, folder, steps=2)
    trainer.save_checkpoint(folder / "a.ckpt")
    return learner, before, torch.load(folder / "a.ckpt", weights_only=True)


def test_the_teacher_is_in_no_state_and_no_checkpoint(trained):
    learner, _, checkpoint = trained
    own = {id(p) for p in learner.teacher.parameters()}
    assert own and not own & {id(p) for p in learner.parameters()}
    shapes = {name: tensor.shape for name, tensor in learner.net.state_dict().items()}
    in_net = {n.removeprefix("net."): t.shape for n, t in checkpoint["state_dict"].items()}
    in_net = {name: shape for name, shape in in_net.items() if not name.startswith("average.")}
    assert in_net == shapes
    assert not any("teacher" in name for name in checkpoint["state_dict"])
    trained_count = sum(len(g["params"]) for g in learner.optimizers().param_groups)
    assert trained_count == len(list(learner.net.parameters()))


def test_the_teacher_stays_as_it_was_down_to_its_running_means(trained):
    learner, before, _ = trained
    after = learner.teacher.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not learner.teacher.training
    assert all(p.grad is None and not p.requires_grad for p in learner.teacher.parameters())


def test_the_teacher_follows_the_precision_of_the_training(tmp_path):
    seen = []

    class Told(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(64, K)

        def forward(self, images):
            answer = self.net(images.flatten(1))
            seen.append((images.dtype, self.net.weight.dtype, answer.dtype))
            return answer

    data = TensorDataset(torch.randn(64, 1, 8, 8), torch.arange(64) % K)
    for precision in ("bf16-mixed", "bf16-true"):
        learner = DistilledClassifier(make_net(), K, Told(), optimizer=adamw)
        fit(learner, data, tmp_path, steps=1, precision=precision)
    half, full = torch.bfloat16, torch.float32
    assert seen == [(full, full, half), (half, half, half)]


def test_the_teachers_part_of_the_loss_is_logged(tmp_path):
    logged = {}

    class Recorder(L.pytorch.loggers.logger.Logger):
        name, version = "recorder", ""

        def log_metrics(self, metrics, step=None):
            logged.update(metrics)

        def log_hyperparams(self, params, *args, **kwargs):
            pass

    images = torch.randn(64, 1, 8, 8)
    net, teacher = make_net(), make_teacher().eval()
    tokens = net.forward_features(images)
    wanted = F.cross_entropy(net.head_dist(tokens[:, 1]), teacher(images).argmax(1)).item()
    learner = DistilledClassifier(net, K, teacher, optimizer=adamw)
    data = TensorDataset(images, torch.arange(64) % K)
    fit(learner, data, tmp_path, steps=1, logger=Recorder(), log_every_n_steps=1)
    assert logged["train/loss_teacher"] == pytest.approx(wanted, rel=1e-5)


def test_evaluation_takes_the_mean_of_both_heads(images):
    net = make_net()
    learner = Unattached(net, K, make_teacher()).eval()
    tokens = net.forward_features(images)
    mean = (net.head(tokens[:, 0]) + net.head_dist(tokens[:, 1])) / 2
    torch.testing.assert_close(learner(images), mean)


# ── what is refused ───────────────────────────────────────────────────────────────────────────


@cache
def default_config() -> dict:
    return to_plain(compose("train", ["method=distill"]))


def check(method: dict, model: dict) -> None:
    """Of the default config with these changes; a model of timm's has no option of ours."""
    default = default_config()
    method = {**default["method"], "teacher": "timm:resnet18", **method}
    model = model if "name" in model else {**default["model"], **model}
    check_config({**default, "method": method, "model": model})


TIMMS = {"_target_": "vitfw.interop.timm_model.create"}
WITH_TOKEN = {"dist_token": True}


@pytest.mark.parametrize(
    "method, model, said",
    [
        ({"teacher": None}, WITH_TOKEN, "needs a teacher: type method.teacher=PATH"),
        ({}, {}, r"type model=deit_ti16_distilled, model\.dist_token=true, or method\.token="),
        ({}, {**TIMMS, "name": "resnet18"}, "type model.name=deit_tiny_distilled"),
        ({"kind": "sofd"}, WITH_TOKEN, "kind=sofd is unknown.*did you mean soft"),
        ({"alpha": 2.0}, WITH_TOKEN, "alpha=2.0 is the teacher's share"),
        ({"temperature": 0.0}, WITH_TOKEN, "temperature=0.0 must be above 0"),
    ],
)
def test_a_config_that_cannot_be_is_refused_with_what_to_type(method, model, said):
    with pytest.raises(ConfigError, match=said):
        check(method, model)


@pytest.mark.parametrize(
    "method, model",
    [
        ({}, WITH_TOKEN),
        ({"token": False}, {}),
        ({"token": False}, {**TIMMS, "name": "resnet18"}),
        ({}, {**TIMMS, "name": "deit_tiny_distilled_patch16_224"}),
        ({}, {**TIMMS, "name": "levit_128s"}),
    ],
)
def test_a_config_that_can_be_is_not_refused(method, model):
    check(method, model)


def test_the_recipe_is_refused_on_a_model_without_the_token():
    recipe = ["recipe=deit_distilled", "method.teacher=timm:resnet18"]
    with pytest.raises(ConfigError, match="needs a model with a distillation token"):
        check_config(to_plain(compose("train", [*recipe, "model=deit_ti16"])))
    check_config(to_plain(compose("train", [*recipe, "model=deit_ti16_distilled"])))


def test_a_net_without_the_token_is_refused():
    with pytest.raises(ConfigError, match="or method.token=false to teach the ordinary head"):
        DistilledClassifier(make_net(dist_token=False), K, make_teacher())
