"""Weights into a net that is no VisionTransformer of ours: all but a classifier's must fit."""

from collections.abc import Mapping

from torch import Tensor, nn

from vitfw.checkpoint import misfit, refuse_disagreement, refuse_integers
from vitfw.interop.report import LoadReport
from vitfw.interop.source import Weights
from vitfw.training.freezing import classifier_prefixes


def fit_by_name(
    net: nn.Module, weights: Weights, report: LoadReport, others: str | None = None
) -> dict[str, Tensor]:
    """What to load into `net`: every one of its tensors.

    The classifier's may be of other classes, or missing as a whole. `others` says why one that
    would fit is not loaded.

    Raises:
        ConfigError: names the tensors that are missing, left over, or of another shape.
    """
    own, given = net.state_dict(), weights.raw
    refuse_integers(weights.source, given, own)
    heads = classifier_prefixes(net)
    state: dict[str, Tensor] = {}
    missing, misfits = [], []
    for name, tensor in own.items():
        if others is not None and name.startswith(heads):
            state[name] = tensor
            report.remade[name] = others
        elif name in given and given[name].shape == tensor.shape:
            state[name] = given[name]
            report.loaded.append(name)
        elif (start := prefix_of(name, heads)) and (name in given or not any_of(given, start)):
            state[name] = tensor
            report.remade[name] = "for other classes" if name in given else "the weights have none"
        elif name in given:
            misfits.append(misfit(name, given[name], tensor))
        else:
            missing.append(name)
    left = [name for name in given if name not in own]
    report.ignored.update({name: "another classifier" for name in left if name.startswith(heads)})
    unknown = [name for name in left if name not in report.ignored]
    hint = "; only vitfw's VisionTransformer is fitted to other sizes" if misfits else ""
    refuse_disagreement(weights.source, missing, unknown, misfits, hint)
    return state


def prefix_of(name: str, prefixes: tuple[str, ...]) -> str | None:
    """The one that `name` begins with, if any does."""
    return next((prefix for prefix in prefixes if name.startswith(prefix)), None)


def any_of(given: Mapping[str, Tensor], start: str) -> bool:
    return any(name.startswith(start) for name in given)
