"""The rules: what will not work, or not as meant. docs/guard_rails.md gives the reasons.

A rule is a function of a `Plan`; it returns None, or what it has to say: the number, and what to
type instead.
"""

import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

from vitfw.console import log
from vitfw.errors import ConfigError
from vitfw.guard_rails.few_tokens import FEWEST_TOKENS, few_tokens
from vitfw.guard_rails.plan import Plan

LARGEST_SHARE = 1 / 2  # of the training images in one batch
LR_FACTOR = 10.0
LONGEST_MEMORY = 1 / 3  # of an average, as a share of the run: e^-3 of it is then its start
MOST_ENLARGED = 4
LEAST_FALL = 0.9  # a learning rate that ends above this share of its peak is as good as constant
STILL = 0.05  # one that ends below it hardly moves the weights
LINE = 80  # columns of a warning


class Concern(NamedTuple):
    rule: str
    message: str


def large_batch(plan: Plan) -> str | None:
    share = plan.batch_size / plan.train_images
    if share <= LARGEST_SHARE:
        return None
    others = plan.batch_size // plan.device_batch
    most = int(plan.train_images * LARGEST_SHARE) // others
    remedy = f"data.batch_size={most} or less" if most else "trainer.accumulate_grad_batches=1"
    return (
        f"an optimizer step takes {plan.batch_size:,} images, {share:.1f} times the "
        f"{plan.train_images:,} training images: an epoch is hardly a step; {remedy}"
    )


def long_warmup(plan: Plan) -> str | None:
    if plan.warmup_steps == 0 or plan.warmup_steps < plan.total_steps:
        return None
    return (
        f"the warm-up takes {plan.warmup_steps:,} steps and the run has {plan.total_steps:,}: the "
        "learning rate never reaches its peak; scheduler.warmup=5%, or a larger trainer.max_epochs"
    )


def unreached_steps(plan: Plan) -> str | None:
    if plan.max_steps is None or plan.max_steps <= plan.total_steps:
        return None
    return (
        f"trainer.max_steps={plan.max_steps:,} is never reached: trainer.max_epochs ends the run "
        f"after {plan.total_steps:,} steps; trainer.max_epochs=null"
    )


def unusual_lr(plan: Plan) -> str | None:
    if not plan.lr or not plan.usual_lr:
        return None
    ratio = plan.lr / plan.usual_lr
    above = ratio * (1 + 1e-9) >= LR_FACTOR
    below = ratio * (1 - 1e-9) <= 1 / LR_FACTOR and plan.from_scratch  # fine-tuning takes less
    if not above and not below:
        return None
    how = f"{ratio:.3g} times" if above else f"1/{1 / ratio:.3g} of"
    return (
        f"a learning rate of {plan.lr:.2g} is {how} the recipe's for batches of "
        f"{plan.batch_size:,} images, {plan.usual_lr:.2g}: "
        f"optimizer.lr={plan.usual_lr / plan.lr_factor:.2g}"
    )


def slow_average(plan: Plan) -> str | None:
    memory = plan.average_memory
    if memory is None or memory <= plan.total_steps * LONGEST_MEMORY:
        return None
    rest = float(f"{10 / plan.total_steps:.1g}")  # 1 − decay: a memory of a tenth of the run
    remedy = f"average.warmup=true or average.decay={1 - rest:g}" if rest < 1 else "average=none"
    return (
        f"the average of the weights reaches back {memory:,.0f} steps and the run has "
        f"{plan.total_steps:,}: it will not have forgotten its start; {remedy}"
    )


def still_average(plan: Plan) -> str | None:
    share = plan.last_lr_share
    if plan.average_start is None or share is None or share >= STILL:
        return None
    return (
        f"the learning rate ends at {share:.2g} of its peak, and average=swa averages "
        "weights that still move: scheduler=cosine scheduler.final=0.1, or scheduler=constant"
    )


def lowered_schedule_free(plan: Plan) -> str | None:
    share = plan.last_lr_share
    if not plan.schedule_free or share is None or share >= LEAST_FALL:
        return None
    return (
        f"the learning rate falls to {share:.2g} of its peak, and "
        "optimizer=schedule_free averages the weights in place of that: scheduler=constant"
    )


def late_average(plan: Plan) -> str | None:
    if plan.average_start is None or plan.average_start <= plan.total_steps:
        return None
    return (
        f"averaging begins at step {plan.average_start:,} and the run has {plan.total_steps:,}: "
        "average.start=75%"
    )


def mixing_with_hard_labels(plan: Plan) -> str | None:
    if not plan.mixing or plan.takes_soft_targets:
        return None
    return (
        f"mixup and cutmix give two labels with shares, and {plan.loss} takes one: "
        "loss=cross_entropy, or augment.mixing.mixup=0 augment.mixing.cutmix=0"
    )


def monitoring_mixed_images(plan: Plan) -> str | None:
    monitored = [name for name in plan.monitored if name.startswith("train/accuracy")]
    if not plan.mixing or not monitored:
        return None
    return (
        f"a callback monitors {monitored[0]}: with mixup or cutmix that is how often the larger "
        "part of a mixed image is recognised; monitor val/accuracy"
    )


def mixing_alone(plan: Plan) -> str | None:
    if not plan.mixing or plan.device_batch > 1:
        return None
    return "mixup and cutmix pair the images of a batch, and a batch has 1: data.batch_size=2"


def no_validation(plan: Plan) -> str | None:
    if plan.val_images and plan.validates:
        return None
    if plan.val_images:
        return (
            "trainer.limit_val_batches=0 switches validation off: no epoch can be chosen as the "
            "best; leave it out"
        )
    return "there are 0 validation images: no epoch can be chosen as the best; data.val_share=0.1"


def enlarged_images(plan: Plan) -> str | None:
    if plan.native_side is None or not plan.from_scratch:
        return None
    if plan.img_side <= MOST_ENLARGED * plan.native_side:
        return None
    factor = plan.img_side / plan.native_side
    return (
        f"images of {plan.native_side} pixels are enlarged to {plan.img_side}, which costs "
        f"{factor**2:.0f} times the work and shows nothing new: model.img_size={plan.native_side} "
        f"and a patch size that gives at least {FEWEST_TOKENS} tokens; or init_from=… of "
        f"weights for {plan.img_side} pixels"
    )


def no_positions(plan: Plan) -> str | None:
    if plan.ordered:
        return None
    return (
        f"neither model.pos_embed nor model.rope tells the {plan.tokens} tokens where they are: an "
        "image with its patches shuffled gives the same logits; model.pos_embed=learn"
    )


def drop_path_of_one_block(plan: Plan) -> str | None:
    if plan.depth != 1 or not plan.drop_path_rate:
        return None
    return (
        f"model.drop_path_rate={plan.drop_path_rate:g} rises from 0 in the first block, and there "
        "is 1: nothing is dropped; model.drop_path_rate=0"
    )


def rounded_weights(plan: Plan) -> str | None:
    if plan.precision not in ("bf16-true", "16-true"):
        return None
    bits = 8 if plan.precision == "bf16-true" else 11
    return (
        f"with trainer.precision={plan.precision} the weights have {bits} bits, and steps smaller "
        f"than 1/{2**bits} of a weight are lost: trainer.precision={plan.precision[:-4]}mixed"
    )


def mirrored_classes(plan: Plan) -> str | None:
    if not plan.hflip or plan.usual_hflip:
        return None
    return (
        f"augment.hflip={plan.hflip:g} mirrors images of classes that do not survive it: "
        "augment.hflip=0"
    )


def idle_options(plan: Plan) -> str | None:
    if not plan.idle:
        return None
    told = [f"{key} does nothing here: {remedy}" for key, remedy in plan.idle.items()]
    return f"{'; '.join(told)}; or leave it out"


Rule = Callable[[Plan], str | None]
RULES: tuple[Rule, ...] = (
    *(few_tokens, enlarged_images, no_positions, drop_path_of_one_block),
    *(large_batch, unreached_steps, long_warmup, unusual_lr, rounded_weights, no_validation),
    *(slow_average, late_average, still_average, lowered_schedule_free),
    *(mixing_with_hard_labels, monitoring_mixed_images, mixing_alone, mirrored_classes),
    idle_options,
)


def check_plan(plan: Plan) -> list[Concern]:
    """What each rule has to say, in their order; empty where all is well."""
    said = [(rule.__name__, rule(plan)) for rule in RULES]
    return [Concern(name, message) for name, message in said if message]


def refuse(concerns: Sequence[Concern]) -> None:
    """Raises ConfigError with all of them, if there are any: what `strict=true` asks for."""
    if concerns:
        told = "; ".join(f"{rule}: {message}" for rule, message in concerns)
        raise ConfigError(f"{told} (strict=false goes on all the same)")


def warn(concerns: Sequence[Concern]) -> None:
    """One warning each, in lines of 80 columns."""
    for rule, message in concerns:
        lines = textwrap.wrap(
            f"warning ({rule}): {message}",
            LINE,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        log.warning("\n".join(lines))
