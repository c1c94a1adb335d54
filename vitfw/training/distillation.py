"""Learning from a teacher's answers beside the labels, with DeiT's distillation token or without.

B batch, K classes.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitfw.errors import ConfigError, nearest
from vitfw.training.batch_mean import BatchMean
from vitfw.training.classifier import Classifier
from vitfw.training.learner import Batch

KINDS = ("hard", "soft")


class DistilledClassifier(Classifier):
    """A Classifier whose loss is (1 − alpha) · labels + alpha · teacher.

    `teacher` maps the same images to logits [B, K]. It is used in evaluation mode and without
    gradients, and is part of neither the module's parameters nor its state.

    With `token` the net has a distillation head: it learns from the teacher and the ordinary head
    from the labels; evaluation takes the mean of both (Touvron et al. 2021, §4). Without it the
    ordinary head learns from both (Hinton et al. 2015). `train/loss_teacher` is the teacher's part.

    Raises:
        ConfigError: another `kind`; `alpha` outside [0, 1]; `temperature` not above 0; `token` with
            a net that has no distillation head.
    """

    def __init__(
        self,
        net: nn.Module,
        num_classes: int,
        teacher: nn.Module,
        kind: str = "hard",
        alpha: float = 0.5,
        temperature: float = 3.0,
        token: bool = True,
        **options: Any,
    ):
        super().__init__(net, num_classes, **options)
        check_options(kind, alpha, temperature)
        if token:
            if not has_distillation_head(net):
                raise ConfigError(no_token("model=deit_ti16_distilled, model.dist_token=true"))
            cast(Any, net).distilled_training = True
        self._teacher = (teacher.eval().requires_grad_(False),)  # in a tuple it is no submodule
        self.kind = kind
        self.alpha = alpha
        self.temperature = temperature
        self.token = token
        self.teacher_loss = BatchMean()

    @property
    def teacher(self) -> nn.Module:
        return self._teacher[0]

    def on_train_start(self) -> None:
        super().on_train_start()
        weight = next(self.net.parameters())
        self.teacher.to(weight.device, weight.dtype)

    def loss_of(self, batch: Batch) -> Tensor:
        images, targets = batch
        with torch.no_grad():
            taught = self.teacher(images).float()  # [B, K]
        answers = self.net(images)
        logits, distilled = answers if self.token else (answers, answers)
        logits, distilled = logits.float(), distilled.float()  # [B, K] both
        self.count_training((logits + distilled) / 2, targets)
        if self.kind == "hard":
            from_teacher = hard_loss(distilled, taught)
        else:
            from_teacher = soft_loss(distilled, taught, self.temperature)
        if not self.repeated:
            self.teacher_loss.update(from_teacher.detach(), weight=len(images))
        return (1.0 - self.alpha) * self.loss(logits, targets) + self.alpha * from_teacher

    def training_metrics(self) -> dict[str, Tensor]:
        measured = {**super().training_metrics(), "train/loss_teacher": self.teacher_loss.compute()}
        self.teacher_loss.reset()
        return measured


def hard_loss(logits: Tensor, taught: Tensor) -> Tensor:
    """Cross-entropy with the teacher's most probable class as the label, not smoothed.

    Source: Touvron et al. 2021, eq. 3.
    """
    return F.cross_entropy(logits, taught.argmax(dim=1))


def soft_loss(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student), both softened by the temperature T; the mean over images.

    DeiT's published code divides by the number of classes as well, its paper does not.

    Source: Touvron et al. 2021, eq. 2; Hinton et al. 2015, §2.
    """
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.log_softmax(taught / temperature, dim=1)
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def has_distillation_head(net: nn.Module) -> bool:
    """Whether it gives two logits when asked: ours with `dist_token`, timm's distilled models."""
    return hasattr(net, "distilled_training") and getattr(net, "head_dist", None) is not None


def check_config(cfg: dict[str, Any]) -> None:
    """What a plain config tells of a distillation that cannot be, before any data are read.

    A model that is neither ours nor timm's is not looked at.

    Raises:
        ConfigError: no teacher; an option that makes no sense; a model without the token.
    """
    method, model = cfg["method"], cfg["model"]
    check_options(method["kind"], method["alpha"], method["temperature"])
    if not method["teacher"]:
        raise ConfigError(
            "distillation needs a teacher: type method.teacher=PATH of a vitfw checkpoint, "
            "method.teacher=timm:NAME, or method.teacher=timm:NAME@PATH of its weights"
        )
    if not method["token"]:
        return
    if "dist_token" in model:
        if not model["dist_token"]:
            raise ConfigError(no_token("model=deit_ti16_distilled, model.dist_token=true"))
    elif model["_target_"] == "vitfw.interop.timm_model.create" and not distilled_in_timm(
        model["name"]
    ):
        raise ConfigError(no_token("model.name=deit_tiny_distilled_patch16_224"))


def distilled_in_timm(name: str) -> bool:
    """Whether timm's architecture has a distillation head; who builds it refuses an unknown one."""
    import timm

    if not timm.is_model(name):
        return True
    with torch.device("meta"):
        return has_distillation_head(timm.create_model(name))


def no_token(remedy: str) -> str:
    return (
        "method.token=true needs a model with a distillation token, which this one has not; type "
        f"{remedy}, or method.token=false to teach the ordinary head"
    )


def check_options(kind: str, alpha: float, temperature: float) -> None:
    """Raises ConfigError for options of the loss that make no sense."""
    if kind not in KINDS:
        hint = nearest(str(kind), KINDS)
        raise ConfigError(f"method.kind={kind} is unknown; use {' or '.join(KINDS)}{hint}")
    if not 0.0 <= alpha <= 1.0:
        raise ConfigError(
            f"method.alpha={alpha} is the teacher's share of the loss, from 0 to 1, such as 0.5"
        )
    if temperature <= 0.0:
        raise ConfigError(f"method.temperature={temperature} must be above 0, such as 3")
