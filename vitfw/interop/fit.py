"""Weights into a net that need not be of the same size: resampled, re-made, or refused."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitfw.checkpoint import misfit, refuse_disagreement, refuse_integers, some
from vitfw.interop.compare import check_options, hint, note_on_images
from vitfw.interop.fit_by_name import fit_by_name
from vitfw.interop.report import LoadReport
from vitfw.interop.source import Weights, read_source
from vitfw.interop.stretch import PREFIXES, fit_kernel, fit_positions, prefix_rows
from vitfw.models.attention import fuse_qkv, split_qkv
from vitfw.models.vit import VisionTransformer
from vitfw.training.freezing import head_of

# What the net may have and the weights not: it starts as it was initialised. Or the other way
# round: it is left out, for this reason. Both are reported.
OPTIONAL = {
    "head.": "the model has no head",
    "head_dist.": "the model has no distillation head",
    "cls_token": "the model has no class token",
    "dist_token": "the model has no distillation token",
    "reg_token": "the model has no register tokens",
    "attn_pool.": "the model does not pool by attention",
    "seq_pool.": "the model does not pool by a learned mean",
}


def initialise_from(
    net: nn.Module,
    source: str | nn.Module,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] = (),
) -> LoadReport:
    """Load the weights that `source` names into `net`, and say what became of each tensor.

    `source` is a file, a folder, `timm:NAME`, `torchvision:NAME`, `huggingface:NAME`, or a model
    object. `mean` and `std` are those that the net's images will be normalised with, `classes`
    the names of what its head is to tell apart: a head for others is not loaded.

    Raises:
        ConfigError: the source cannot be read; the weights are of another architecture: the
            message names the tensors, or the options, that disagree.
    """
    return fit(net, read_source(source), mean, std, classes)


def fit(
    net: nn.Module,
    weights: Weights,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] = (),
) -> LoadReport:
    """`initialise_from` for weights that have been read."""
    report = LoadReport(weights.source, weights.format)
    others = other_classes(weights.classes, classes)
    if isinstance(net, VisionTransformer):
        state = Fitting(net, weights, report, others).state()
        check_options(net, weights, report)
    else:
        state = fit_by_name(net, weights, report, others)
    net.load_state_dict(state)
    report.notes[:0] = weights.notes
    taken = (*report.loaded, *report.changed)
    if odd := [name for name in taken if not torch.isfinite(state[name]).all()]:
        report.notes.append(f"not all numbers are finite in {some(odd)}")
    report.notes.extend(note_on_images(weights, mean, std))
    if classes and not weights.classes and head_of(net) & set(report.loaded):
        report.notes.append(
            f"the weights do not tell their classes; their head is taken for these {len(classes)}"
        )
    return report


@dataclass
class Fitting:
    """One fitting of weights to a VisionTransformer."""

    net: VisionTransformer
    weights: Weights
    report: LoadReport
    others: str | None = None  # the classes of a head of theirs that is not to be loaded

    def state(self) -> dict[str, Tensor]:
        """What to load into the net: every one of its tensors.

        Raises:
            ConfigError: the weights are of another model; names the tensors that disagree.
        """
        own = self.net.state_dict()
        self.refuse_odd_shapes(own)
        separate = any(name.endswith("attn.q_proj.weight") for name in own)
        given = (split_qkv if separate else fuse_qkv)(self.weights.state)
        refuse_integers(self.weights.source, given, own)
        given = self.move_positions(self.move_norm(given, own), own)
        heads = self.other_heads(given, own)
        self.report.ignored.update(self.weights.ignored)
        fitted: dict[str, Tensor] = {}
        missing, misfits = [], []
        for name, tensor in own.items():
            if name.startswith(tuple(heads)):
                self.report.remade[name] = heads[name.partition(".")[0] + "."]
                fitted[name] = tensor
            elif name in given:
                fit = self.fit(name, given[name], tensor)
                if fit is None:
                    misfits.append(misfit(name, given[name], tensor))
                else:
                    fitted[name] = fit
            elif self.may_be_new(name, given) or (name == "pos_embed" and self.positions_fixed):
                self.report.remade[name] = self.report.ignored.pop(name, "the weights have none")
                fitted[name] = tensor
            else:
                missing.append(name)
        left = [name for name in given if name not in own and not self.leave(name, own)]
        unknown = [*self.weights.unknown, *left]
        refuse_disagreement(
            self.weights.source, missing, unknown, misfits, hint(self.net, self.weights)
        )
        return fitted

    def refuse_odd_shapes(self, own: Mapping[str, Tensor]) -> None:
        """Raises ConfigError for tensors that cannot be counted, cut or joined as others are."""
        state = self.weights.state
        odd = [
            misfit(name, state[name], own[name])
            if name in own
            else f"{name} {list(state[name].shape)}"
            for name in odd_shapes(state)
        ]
        refuse_disagreement(self.weights.source, [], [], odd)

    def may_be_new(self, name: str, given: Mapping[str, Tensor]) -> bool:
        """Whether a tensor that the weights lack may be left as it is: not one part of a whole."""
        start = next((start for start in OPTIONAL if name.startswith(start)), None)
        return start is not None and not any(theirs.startswith(start) for theirs in given)

    @property
    def positions_fixed(self) -> bool:
        table = self.net.pos_embed
        return table is not None and not table.requires_grad

    def move_norm(self, given: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The final norm under the name that the net has it by, before or after the pooling."""
        for old, new, where in (("norm.", "fc_norm.", "after"), ("fc_norm.", "norm.", "before")):
            there = [name for name in given if name.startswith(old)]
            here = {name for name in own if name.startswith(new)}
            if there and here and not here & set(given) and not set(there) & set(own):
                moved = {new + name.removeprefix(old): given[name] for name in there}
                for name in [name for name in own if name in moved]:
                    self.report.changed[name] = f"the final norm, moved {where} the pooling"
                return {name: given[name] for name in given if name not in there} | moved
        return given

    def move_positions(
        self, given: dict[str, Tensor], own: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Prefix tokens with their positions added, for a net that gives positions to patches."""
        if not self.net.no_embed_class or "pos_embed" not in given or "pos_embed" not in own:
            return given
        moved = {}
        for name, rows in prefix_rows(given["pos_embed"], self.net, self.weights).items():
            fits = name in given and name in own and given[name].shape == own[name].shape
            if fits and rows.shape == own[name].shape and rows.any():
                moved[name] = given[name] + rows
                self.report.changed[name] = "its position added, which this model has not apart"
        return given | moved

    def other_heads(self, given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str]:
        """How the names of heads begin that are for other classes or features, and which."""
        heads = {}
        for start in ("head.", "head_dist."):
            theirs, ours = given.get(f"{start}weight"), own.get(f"{start}weight")
            if theirs is None or ours is None or theirs.ndim != 2:
                continue
            if theirs.shape == ours.shape:
                if self.others is not None:
                    heads[start] = self.others
                continue
            axis, what = (0, "classes") if len(theirs) != len(ours) else (1, "features")
            heads[start] = f"{theirs.shape[axis]} {what} there, {ours.shape[axis]} here"
        return heads

    def leave(self, name: str, own: Mapping[str, Tensor]) -> bool:
        """Whether a tensor that the net has no place for may be left out; then it is reported."""
        for start, reason in OPTIONAL.items():
            if name.startswith(start) and not any(ours.startswith(start) for ours in own):
                self.report.ignored[name] = reason
                return True
        return False

    def fit(self, name: str, theirs: Tensor, ours: Tensor) -> Tensor | None:
        """`theirs` in the shape of `ours`; None where nothing makes it fit."""
        fit, done = theirs, ""
        if name == "pos_embed":
            fit, done = fit_positions(theirs, ours, self.net, self.weights)
        elif name == "patch_embed.proj.weight":
            fit, done = fit_kernel(theirs, ours, self.net, self.weights)
        elif name in PREFIXES and theirs.ndim == 3 and theirs.shape[1] != ours.shape[1]:
            self.report.remade[name] = f"{theirs.shape[1]} there, {ours.shape[1]} here"
            return ours
        if fit is None or fit.shape != ours.shape:
            return None
        if done:
            self.report.changed[name] = done
        elif name not in self.report.changed:
            self.report.loaded.append(name)
        return fit


def other_classes(theirs: Sequence[str], ours: Sequence[str]) -> str | None:
    """What to say of as many classes that are others, or in another order; None if they agree or
    one side does not tell.
    """
    if not theirs or not ours or len(theirs) != len(ours) or list(theirs) == list(ours):
        return None
    if set(theirs) == set(ours):
        return "the same classes there in another order"
    there, here = next(pair for pair in zip(theirs, ours, strict=True) if pair[0] != pair[1])
    return f"other classes: {there} there, {here} here"


def odd_shapes(state: Mapping[str, Tensor]) -> Iterator[str]:
    """Tokens with no number of rows, and queries, keys and values of different ones."""
    for name, tensor in state.items():
        joint = re.search(r"(^|\.)qkv\.(weight|bias)$", name)
        if joint and (not tensor.ndim or len(tensor) % 3):
            yield name
        part = re.fullmatch(r"(.*)[qkv]_proj\.(weight|bias)", name)
        query = state.get(f"{part[1]}q_proj.{part[2]}", tensor) if part else tensor
        if part and (not tensor.ndim or tensor.shape != query.shape):
            yield name
        if name in PREFIXES and tensor.ndim != 3:
            yield name
