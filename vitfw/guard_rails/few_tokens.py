"""The rule on tokens: which key makes them too few, and what to type there."""

import math

from vitfw.guard_rails.plan import Plan

FEWEST_TOKENS = 16
MADE_FEW = {
    "model.patch_size": "each image is cut into",
    "model.img_size": "each image is cut into",
    "model.flexi_patch_sizes": "the largest of model.flexi_patch_sizes cuts each image into",
    "augment.progressive.sizes": "the smallest of augment.progressive.sizes gives",
}
SIDE = math.isqrt(FEWEST_TOKENS)  # of the grid


def few_tokens(plan: Plan) -> str | None:
    few = {key: count for key, count in plan.token_counts.items() if count < FEWEST_TOKENS}
    if not few:
        return None
    key, count = next(iter(few.items()))
    return (
        f"{MADE_FEW[key]} {count} tokens; with fewer than {FEWEST_TOKENS} attention has little to "
        f"compare: {more_tokens(plan, key)}"
    )


def more_tokens(plan: Plan, key: str) -> str:
    """What to type where `key` makes them few."""
    if key == "model.flexi_patch_sizes":
        return f"none of them above {plan.img_side // SIDE}"
    larger = SIDE * (plan.patch_side or 1)
    if key == "augment.progressive.sizes":
        return f"none of them below {larger}"
    most = plan.img_side // SIDE
    sizes = [size for size in range(1, most + 1) if plan.img_side % size == 0]
    if plan.stem:
        sizes = [size for size in sizes if size > 1 and size & (size - 1) == 0]
    if key == "model.img_size" or not sizes:
        return f"model.img_size={larger} or larger"
    return f"model.patch_size={sizes[-1]}"
