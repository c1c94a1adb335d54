"""The learning rate for a batch of another size than the one that it was tuned for."""

import math

from vitfw.errors import ConfigError, nearest

RULES = {
    "none": lambda ratio: 1.0,
    "linear": lambda ratio: ratio,
    "sqrt": math.sqrt,
}


def scaled_lr(lr: float, rule: str, batch_size: int, reference: int) -> float:
    """`lr`, which is meant for batches of `reference` images, for batches of `batch_size`.

    `linear` holds for SGD (Goyal et al. 2017); `sqrt` keeps the variance of the updates
    (Krizhevsky 2014) and holds for Adam and its kin (Malladi et al. 2022); `none` leaves it.

    Raises:
        ConfigError: the rule is none of these, or a size is below 1.
    """
    if rule not in RULES:
        hint = nearest(str(rule), RULES) or f"; known: {', '.join(RULES)}"
        raise ConfigError(f"lr_scaling={rule} does not exist{hint}")
    for key, size in (("lr_batch_size", reference), ("data.batch_size", batch_size)):
        if size < 1:
            raise ConfigError(f"{key}={size} is a number of images: 1 or more, such as {key}=256")
    return lr * RULES[rule](batch_size / reference)
