"""A bank of linear heads against one head in a plain loop, scikit-learn, and the whole net."""

import copy
from functools import partial

import lightning as L
import pytest
import timm
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import MixedPrecision
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.amp import GradScaler
from torch.utils.data import DataLoader, TensorDataset

from vitfw.errors import ConfigError
from vitfw.models.vit import VisionTransformer
from vitfw.training.linear_probe import LinearProbe, check_features
from vitfw.training.optimizers import lamb, sam, sgd, timm_optimizer
from vitfw.training.pooled_features import pooled
from vitfw.training.schedules import cosine

SMALL = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 16, "depth": 1, "num_heads": 2}
BATCHES = [24, 24, 24]
EPOCHS = 4


def small_net(**options) -> VisionTransformer:
    return VisionTransformer(**{**SMALL, "num_classes": 5, **options}).eval()


@pytest.fixture
def problem():
    """72 features of 16 channels, and their labels of 5 classes."""
    draw = torch.Generator().manual_seed(1)
    labels = torch.randint(5, (72,), generator=draw)
    centres = torch.randn(5, 16, generator=draw)
    return centres[labels] + torch.randn(72, 16, generator=draw) + 2.0, labels


def fitted(problem, net=None, epochs=EPOCHS, plugins=None, **options) -> LinearProbe:
    """A probe after a fit on batches in a fixed order, validated on the same features."""
    options.setdefault("optimizer", partial(sgd, lr=0.5, weight_decay=0.0, nesterov=False))
    probe = LinearProbe(
        net or small_net(),
        num_classes=5,
        scheduler=partial(cosine, warmup=0),
        total_steps=epochs * len(BATCHES),
        steps_per_epoch=len(BATCHES),
        **options,
    )
    loader = DataLoader(TensorDataset(*problem), batch_size=24)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        plugins=plugins,
    )
    trainer.fit(probe, loader, loader)
    return probe


def alone(problem, lr: float, weight_decay: float = 0.0, batch_norm: bool = False) -> nn.Module:
    """torch's own pieces, one head, the same batches."""
    features, labels = problem
    head = nn.Linear(16, 5)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    norm = nn.BatchNorm1d(16, eps=1e-6, affine=False)
    model = nn.Sequential(norm, head) if batch_norm else head
    optimizer = torch.optim.SGD(
        [
            {"params": [head.weight], "weight_decay": weight_decay},
            {"params": [head.bias], "weight_decay": 0.0},
        ],
        lr=lr,
        momentum=0.9,
    )
    steps = EPOCHS * len(BATCHES)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for x, y in zip(features.split(BATCHES), labels.split(BATCHES), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def test_each_head_becomes_what_it_becomes_alone(problem):
    factors, decays = [0.001, 0.1, 1.0], [0.0, 0.05]
    probe = fitted(problem, lr_factors=factors, weight_decays=decays)
    expected = [alone(problem, 0.5 * lr, decay) for lr in factors for decay in decays]
    assert probe.names[3] == "lr_0.05_wd_0.05"
    for number, head in enumerate(expected):
        weight, bias = probe.folded_head(number)
        torch.testing.assert_close(weight, head.weight, atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(bias, head.bias, atol=2e-6, rtol=1e-5)


def test_batch_norm_is_folded_into_the_head(problem):
    probe = fitted(problem, lr_factors=[0.1, 1.0], batch_norm=True)
    features, _ = problem
    for number, factor in enumerate((0.1, 1.0)):
        expected = alone(problem, 0.5 * factor, batch_norm=True)(features)
        found = F.linear(features, *probe.folded_head(number))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_long_fit_reaches_scikit_learns_optimum(problem):
    """With decay λ = 1 on the weights: logistic regression of C = 1 / (λ n)."""
    features, labels = problem
    features = features - features.mean(dim=0)  # SGD is slow to find the bias otherwise
    probe = fitted((features, labels), epochs=60, lr_factors=[0.2], weight_decays=[1.0])
    exact = LogisticRegression(C=1 / len(labels), tol=1e-10, max_iter=10_000)
    exact.fit(features.double().numpy(), labels.numpy())
    expected = torch.from_numpy(exact.predict_log_proba(features.double().numpy())).float()
    found = F.linear(features, *probe.folded_head(0)).log_softmax(1)
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)


@pytest.mark.parametrize("scaled", [False, True], ids=["32-true", "16-mixed"])
def test_a_diverged_head_harms_no_other(problem, scaled):
    """Of scaled gradients none may be infinite, or no head takes that step."""
    plugins = [MixedPrecision("16-mixed", "cpu", GradScaler("cpu"))] if scaled else None
    probe = fitted(problem, lr_factors=[0.1, 1e38], plugins=plugins)
    torch.testing.assert_close(
        probe.folded_head(0)[0], alone(problem, 0.05).weight, atol=2e-6, rtol=1e-5
    )
    assert int(probe.best) == 0
    assert torch.isfinite(probe.trainer.callback_metrics["train/loss_epoch"])


def test_the_best_head_is_what_the_net_classifies_with(problem):
    features, labels = problem
    probe = fitted(problem, lr_factors=[1e-6, 1e-5, 0.3])
    accuracies = [
        float((F.linear(features, *probe.folded_head(i)).argmax(1) == labels).float().mean())
        for i in range(3)
    ]
    metrics = probe.trainer.callback_metrics
    assert float(metrics["val/accuracy"]) == pytest.approx(max(accuracies))
    assert float(metrics["val_grid/lr_0.15"]) == pytest.approx(accuracies[2])
    weight, bias = probe.folded_head(accuracies.index(max(accuracies)))
    assert torch.equal(probe.net.head.weight, weight)
    assert torch.equal(probe.net.head.bias, bias)


def test_of_equal_accuracies_the_least_loss_is_taken():
    probe = LinearProbe(small_net(), num_classes=5, lr_factors=[0.1, 0.2, 0.3, 0.4])
    probe.choose(torch.tensor([0.5, 0.9, 0.9, 0.9]), torch.tensor([0.1, 0.4, 0.3, torch.nan]))
    assert int(probe.best) == 2


@pytest.mark.parametrize(
    "net",
    [
        small_net(global_pool="avg", drop_rate=0.5),
        small_net(global_pool="token_avg"),
        small_net(dist_token=True),
        timm.create_model("resnet10t", num_classes=5, in_chans=1).eval(),
        timm.create_model(
            "deit_tiny_distilled_patch16_224", num_classes=5, in_chans=1, img_size=32, depth=1
        ).eval(),
    ],
    ids=["avg", "token_avg", "distilled", "timm_resnet", "timm_distilled"],
)
def test_a_head_on_features_gives_the_logits_of_the_whole_net(net):
    """Also where the net averages two heads, and the probe has one on both features."""
    net = copy.deepcopy(net)
    side = 32 if hasattr(net, "get_classifier") else 8
    images = torch.randn(3, 1, side, side)
    features = pooled(net, images)
    probe = LinearProbe(net, num_classes=5, lr_factors=[0.1, 1.0])
    for head in probe.heads:
        nn.init.normal_(head.weight)
        nn.init.normal_(head.bias)
    probe.choose(torch.tensor([0.2, 0.8]), torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(net(images), probe.logits(features)[:, 1], atol=1e-4, rtol=1e-4)


def test_the_net_below_its_classifier_stays_as_it_is(problem):
    net = timm.create_model("resnet10t", num_classes=5, in_chans=1)
    net.fc = nn.Linear(16, 5)
    before = {k: v.clone() for k, v in net.state_dict().items() if not k.startswith("fc.")}
    fitted(problem, net, lr_factors=[0.1, 1.0])
    assert not net.training
    for name, tensor in before.items():
        assert torch.equal(net.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_factors": []}, "lr_factors"),
        ({"lr_factors": [0.0, 1.0]}, "above 0"),
        ({"weight_decays": [-1.0]}, "0 or more"),
        ({"views": 3}, "views=3 is 1, or 2"),
        ({"average": lambda net, **counts: net}, "average=none"),
        ({"agc": 0.01}, "gradient_clip_val=null"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LinearProbe(small_net(), num_classes=5, **{"lr_factors": [1.0], **options})


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (sam, "such as optimizer=sgd"),
        (lamb, "optimizer.max_grad_norm=null"),
        (partial(timm_optimizer, name="lamb", lr=0.1), "optimizer.max_grad_norm=null"),
    ],
)
def test_an_optimizer_that_looks_at_all_heads_together_is_refused(optimizer, message):
    probe = LinearProbe(small_net(), num_classes=5, lr_factors=[1.0], optimizer=optimizer)
    with pytest.raises(ConfigError, match=message):
        probe.configure_optimizers()


def test_lamb_that_does_not_clip_trains_each_head_as_if_alone(problem):
    option = {"optimizer": partial(lamb, lr=0.1, max_grad_norm=None)}
    alone = fitted(problem, lr_factors=[0.1], **option)
    among = fitted(problem, lr_factors=[100.0, 0.1, 1.0], **option)
    for one, other in zip(alone.folded_head(0), among.folded_head(1), strict=True):
        torch.testing.assert_close(one, other)


def test_a_net_without_a_linear_classifier_is_refused():
    with pytest.raises(ValueError, match="must be linear"):
        LinearProbe(small_net(num_classes=0), num_classes=5, lr_factors=[1.0])
    with pytest.raises(ValueError, match="no classifier"):
        LinearProbe(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), 5, lr_factors=[1.0])


def test_random_parts_below_the_head_are_refused():
    net = small_net(global_pool="seq")
    check_features(net, ["head.weight", "head.bias"])
    with pytest.raises(ConfigError, match=r"into seq_pool\.\*; .*model\.global_pool=avg"):
        check_features(net, ["head.weight", "seq_pool.score.weight"])
