"""Weights into a net that need not be of the same size: resampled, re-made, or refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from vitfw.checkpoint import misfit, refuse_disagreement
from vitfw.interop.compare import DECISIVE, check_options, disagreements, note_on_images
from vitfw.interop.report import LoadReport
from vitfw.interop.source import Weights, read_source
from vitfw.interop.stretch import PREFIXES, fit_kernel, fit_positions, prefix_rows
from vitfw.models.attention import fuse_qkv, split_qkv
from vitfw.models.vit import VisionTransformer

# What a net may have that its weights lack: it starts as it was initialised, and is reported.
MAY_BE_NEW = (
    "head.",
    "head_dist.",
    "cls_token",
    "dist_token",
    "reg_token",
    "attn_pool.",
    "seq_pool.",
)
# What weights may have that the net lacks.
MAY_BE_LEFT = {
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
) -> LoadReport:
    """Load the weights that `source` names into `net`, and say what became of each tensor.

    `source` is a file, a folder, `timm:NAME`, `torchvision:NAME`, `huggingface:NAME`, or a model
    object. `mean` and `std` are those that the net's images will be normalised with.

    Raises:
        ConfigError: the source cannot be read; the weights are of another architecture: the
            message names the tensors, or the options, that disagree.
    """
    weights = read_source(source)
    report = LoadReport(weights.source, weights.format)
    if isinstance(net, VisionTransformer):
        state = Fitting(net, weights, report).state()
        check_options(net, weights, report)
    else:
        state = fit_by_name(net, weights, report)
    net.load_state_dict(state)
    report.notes.extend(note_on_images(weights, mean, std))
    return report


@dataclass
class Fitting:
    """One fitting of weights to a VisionTransformer."""

    net: VisionTransformer
    weights: Weights
    report: LoadReport

    def state(self) -> dict[str, Tensor]:
        """What to load into the net: every one of its tensors.

        Raises:
            ConfigError: the weights are of another model; names the tensors that disagree.
        """
        own = self.net.state_dict()
        self.refuse_odd_tokens(own)
        separate = any(name.endswith("attn.q_proj.weight") for name in own)
        given = (split_qkv if separate else fuse_qkv)(self.weights.state)
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
            elif name.startswith(MAY_BE_NEW) or (name == "pos_embed" and self.positions_fixed):
                self.report.remade[name] = "the weights have none"
                fitted[name] = tensor
            else:
                missing.append(name)
        left = [name for name in given if name not in own and not self.leave(name, own)]
        unknown = [*self.weights.unknown, *left]
        refuse_disagreement(self.weights.source, missing, unknown, misfits, self.hint())
        return fitted

    def refuse_odd_tokens(self, own: Mapping[str, Tensor]) -> None:
        """Raises ConfigError for tokens by which the rows of `pos_embed` cannot be counted."""
        theirs = {name: self.weights.state[name] for name in PREFIXES if name in self.weights.state}
        odd = [
            misfit(name, token, own[name]) if name in own else f"{name} {list(token.shape)}"
            for name, token in theirs.items()
            if token.ndim != 3
        ]
        refuse_disagreement(self.weights.source, [], [], odd)

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
            if theirs is None or ours is None or theirs.ndim != 2 or theirs.shape == ours.shape:
                continue
            axis, what = (0, "classes") if len(theirs) != len(ours) else (1, "features")
            heads[start] = f"{theirs.shape[axis]} {what} there, {ours.shape[axis]} here"
        return heads

    def leave(self, name: str, own: Mapping[str, Tensor]) -> bool:
        """Whether a tensor that the net has no place for may be left out; then it is reported."""
        for start, reason in MAY_BE_LEFT.items():
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

    def hint(self) -> str:
        """What to type for the model in the weights, as far as they tell."""
        norm = self.weights.state.get("blocks.0.norm1.weight")
        sizes = {}
        if norm is not None and norm.ndim == 1:
            names = [name for name in self.weights.state if name.startswith("blocks.")]
            sizes = {"embed_dim": len(norm), "depth": len({name.split(".")[1] for name in names})}
        typed = [
            f"model.{name}={size}" for name, size in sizes.items() if size != self.net.options[name]
        ]
        differing = disagreements(self.net, self.weights)
        typed += [f"model.{n}={theirs}" for n, (theirs, _) in differing.items() if n in DECISIVE]
        if (
            self.stem_here
            and "embed_layer" not in differing
            and not any(".stem." in name for name in self.weights.state)
        ):
            typed.append("model.embed_layer=conv")
        return f"; to match them: {' '.join(typed)}" if typed else ""

    @property
    def stem_here(self) -> bool:
        return self.net.options["embed_layer"] in ("conv_stem", "pool_stem")


def fit_by_name(net: nn.Module, weights: Weights, report: LoadReport) -> dict[str, Tensor]:
    """For a net that is no VisionTransformer: all tensors must fit, but the classifier's.

    Raises:
        ConfigError: names the tensors that are missing, left over, or of another shape.
    """
    own, given = net.state_dict(), weights.raw
    heads = classifier_names(net)
    state: dict[str, Tensor] = {}
    missing, misfits = [], []
    for name, tensor in own.items():
        if name in given and given[name].shape == tensor.shape:
            state[name] = given[name]
            report.loaded.append(name)
        elif name.startswith(heads):
            state[name] = tensor
            report.remade[name] = "for other classes" if name in given else "the weights have none"
        elif name in given:
            misfits.append(misfit(name, given[name], tensor))
        else:
            missing.append(name)
    left = [name for name in given if name not in own]
    report.ignored.update({name: "another classifier" for name in left if name.startswith(heads)})
    unknown = [name for name in left if name not in report.ignored]
    refuse_disagreement(weights.source, missing, unknown, misfits)
    return state


def classifier_names(net: nn.Module) -> tuple[str, ...]:
    """How the names of the classifier's tensors begin; timm's models say it themselves."""
    named = getattr(net, "pretrained_cfg", {}).get("classifier") or ("head", "fc", "classifier")
    return tuple(f"{name}." for name in ([named] if isinstance(named, str) else named))
