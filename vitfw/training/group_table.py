"""What an optimizer was given to do, as a table."""

from rich import box
from rich.table import Table
from rich.text import Text
from torch.optim import Optimizer

from vitfw.training.sam import SAM


def group_table(optimizer: Optimizer) -> Table:
    """One row a parameter group; `lr` is the schedule's peak."""
    table = Table(box=box.HORIZONTALS, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("group", overflow="fold")
    for heading in ("tensors", "parameters", "lr", "decay"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("stepped by", overflow="fold")
    for number, group in enumerate(optimizer.param_groups):
        table.add_row(
            Text(str(group.get("name", number))),
            f"{len(group['params']):,}",
            f"{sum(parameter.numel() for parameter in group['params']):,}",
            f"{group.get('initial_lr', group['lr']):.3g}",
            f"{group['weight_decay']:g}",
            stepped_by(optimizer, group.get("use_fallback", False)),
        )
    return table


def stepped_by(optimizer: Optimizer, fallback: bool) -> str:
    """The optimizer's name; what Muon falls back to is AdamW, with `nesterov` NAdamW."""
    if isinstance(optimizer, SAM):
        return f"SAM, {stepped_by(optimizer.base, fallback)}"
    if fallback:
        return "NAdamW" if optimizer.defaults["nesterov"] else "AdamW"
    return type(optimizer).__name__
