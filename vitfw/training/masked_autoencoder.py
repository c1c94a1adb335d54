"""Pre-training without labels: a masked autoencoder around our VisionTransformer.

B batch, N patches, C channels, P patch size, H and W the image's sides.
"""

from typing import Any

import torch
from torch import Tensor, nn

from vitfw.data.augment.mixing import Mixing
from vitfw.data.counter_rng import sample_keys, uniforms
from vitfw.errors import ConfigError
from vitfw.models.mae import (
    MaeDecoder,
    check_decoder,
    check_maskable,
    encode_visible,
    mask_by_noise,
    masked_error,
    patch_statistics,
    patchify,
    unpatchify,
    unused_parameters,
    visible_patches,
)
from vitfw.models.patch_embed import as_pair, grid_of
from vitfw.models.vit import VisionTransformer
from vitfw.target import target_of
from vitfw.training.batch_mean import BatchMean
from vitfw.training.learner import Batch, Learner
from vitfw.training.losses import CrossEntropy
from vitfw.training.param_groups import LAYERS

OURS = f"{VisionTransformer.__module__}.{VisionTransformer.__name__}"
EVALUATION_SEED = 0  # masks of validation and test are the same in every run
AVERAGED = "average is of the encoder alone, which its decoder would not fit; choose average=none"
CROSS_ENTROPY = target_of(CrossEntropy)  # what `loss` is unasked


class MaskedAutoencoder(Learner):
    """Hide `mask_ratio` of an image's patches and learn to predict their pixels from the others.

    `net` is the encoder: its blocks see the visible patches only, its pooling and head are not
    used, and frozen. With `norm_pix_loss` a patch is predicted as it is with its own mean and
    standard deviation taken out. Labels are not looked at, and so neither are the `num_classes`
    and the `loss` that every method is given.

    Masks are drawn anew for every training batch. In validation and test an image's is a function
    of its place in the split, so that `val/loss` can be compared from epoch to epoch.

    Raises:
        ValueError: patches of this `net` cannot be hidden, there are too few of them, the decoder
            cannot be built, or weights are to be averaged.

    Source: He et al. 2022, "Masked autoencoders are scalable vision learners".
    """

    def __init__(
        self,
        net: nn.Module,
        mask_ratio: float = 0.75,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        norm_pix_loss: bool = True,
        num_classes: int = 0,
        loss: nn.Module | None = None,
        **training: Any,
    ):
        if not isinstance(net, VisionTransformer):
            raise ValueError(refused_net(type(net).__name__))
        if training.get("average") is not None:
            raise ValueError(AVERAGED)
        check_maskable(net.options)
        embed = net.patch_embed
        visible_patches(embed.num_patches, mask_ratio)
        super().__init__(net, **training)
        self.mask_ratio = mask_ratio
        self.norm_pix_loss = norm_pix_loss
        self.decoder = MaeDecoder(
            net.embed_dim,
            embed.grid_size,
            embed.patch_size,
            embed.in_chans,
            net.num_prefix_tokens,
            decoder_dim,
            decoder_depth,
            decoder_num_heads,
        )
        for parameter in unused_parameters(net):
            parameter.requires_grad_(False)
        self.val_loss = BatchMean()
        self.test_loss = BatchMean()
        self.seen = 0  # images, of the split that is being evaluated

    @property
    def encoder(self) -> VisionTransformer:
        assert isinstance(self.net, VisionTransformer)
        return self.net

    @property
    def trained(self) -> nn.Module:
        return EncoderAndDecoder(self.encoder, self.decoder)

    def predict(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's output [B, N, P · P · C], and which patches were masked, [B, N] bool.

        `noise` [B, N]: the patches where it is least are seen.
        """
        masking = mask_by_noise(noise, visible_patches(noise.shape[1], self.mask_ratio))
        tokens = encode_visible(self.encoder, images, masking.kept)
        predicted = self.decoder(tokens, masking.restore, self.encoder.patch_embed.grid(images))
        return predicted.float(), masking.masked

    def error(self, images: Tensor, noise: Tensor) -> Tensor:
        """The mean squared error on the masked patches of a batch."""
        predicted, masked = self.predict(images, noise)
        target = patchify(images.float(), self.encoder.patch_embed.patch_size)
        if self.norm_pix_loss:
            mean, std = patch_statistics(target)
            target = (target - mean) / std
        return masked_error(predicted, target, masked)

    def reconstruct(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The predicted images [B, C, H, W], and which of their pixels were masked, [B, 1, H, W].

        With `norm_pix_loss` each patch gets its own mean and standard deviation back, which the
        prediction does not tell.
        """
        patch_size, grid = (
            self.encoder.patch_embed.patch_size,
            self.encoder.patch_embed.grid(images),
        )
        predicted, masked = self.predict(images, noise)
        if self.norm_pix_loss:
            mean, std = patch_statistics(patchify(images.float(), patch_size))
            predicted = predicted * std + mean
        pixels = masked[:, :, None].expand(-1, -1, patch_size[0] * patch_size[1])
        return unpatchify(predicted, patch_size, grid), unpatchify(pixels, patch_size, grid)

    def patches_of(self, images: Tensor) -> int:
        down, across = self.encoder.patch_embed.grid(images)
        return down * across

    def fixed_noise(self, images: Tensor, first: int) -> Tensor:
        """[B, N], for the images of this process's split from number `first` on."""
        place = torch.arange(first, first + len(images), device=images.device)
        index = place * self.trainer.world_size + self.trainer.global_rank
        patches = torch.arange(self.patches_of(images), device=images.device)
        return uniforms(sample_keys(EVALUATION_SEED, 0, index)[:, None], patches)

    def loss_of(self, batch: Batch) -> Tensor:
        images = batch[0]
        shape = len(images), self.patches_of(images)
        # Of float32 whatever the precision: patches of equal noise are masked in their order.
        noise = torch.rand(shape, dtype=torch.float32, device=images.device)
        return self.error(images, noise)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch[0], batch_idx, self.val_loss)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch[0], batch_idx, self.test_loss)

    def _evaluate(self, images: Tensor, batch_idx: int, mean_loss: BatchMean) -> None:
        first = self.seen if batch_idx else 0
        loss = self.error(images, self.fixed_noise(images, first))
        mean_loss.update(loss, weight=len(images))
        self.seen = first + len(images)

    def on_validation_epoch_end(self) -> None:
        self.log_at_step({"val/loss": self.val_loss.compute()})
        self.val_loss.reset()

    def on_test_epoch_end(self) -> None:
        self.log_at_step({"test/loss": self.test_loss.compute()})
        self.test_loss.reset()


class EncoderAndDecoder(nn.Module):
    """What a masked autoencoder trains, as one net for the optimizer.

    The encoder's parameters keep their names (`blocks.0.attn.qkv.weight`), those of the decoder
    begin with `decoder.`.
    """

    def __init__(self, encoder: VisionTransformer, decoder: MaeDecoder):
        super().__init__()
        for name, child in encoder.named_children():
            self.add_module(name, child)
        for name, parameter in encoder.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        self.decoder = decoder
        self.exempt = encoder.no_weight_decay()

    def no_weight_decay(self) -> set[str]:
        return self.exempt | {f"decoder.{name}" for name in self.decoder.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The layers, for `optimizer.layer_decay`: the encoder's, and the decoder as the last."""
        return LAYERS


def refused_net(name: str) -> str:
    return (
        f"method=mae hides tokens of vitfw's own VisionTransformer, which {name} is not; choose "
        "another model, such as model=vit_mini4"
    )


def check_config(cfg: dict[str, Any]) -> None:
    """Whether a config with `method=mae` makes sense, before any data is read.

    Raises:
        ConfigError: its model cannot be masked, or another group asks for what pre-training
            without labels does not do; says what to type.
    """
    model, method = cfg["model"], cfg["method"]
    if model["_target_"] != OURS:
        raise ConfigError(refused_net(model["_target_"]))
    try:
        check_maskable(model)
        img_size, patch_size = as_pair(model["img_size"]), as_pair(model["patch_size"])
        down, across = grid_of(img_size, patch_size)
        visible_patches(down * across, method["mask_ratio"])
        check_decoder(method["decoder_dim"], method["decoder_depth"], method["decoder_num_heads"])
    except ValueError as error:
        raise ConfigError(f"method=mae: {error}") from error
    if cfg["average"].get("_target_"):
        raise ConfigError(AVERAGED)
    check_without_labels(cfg)


def check_without_labels(cfg: dict[str, Any]) -> None:
    """Raises ConfigError for what needs labels or logits."""
    if cfg["loss"]["_target_"] != CROSS_ENTROPY:
        raise ConfigError(
            f"loss={cfg['loss']['_target_'].rpartition('.')[2]}: method=mae has a loss of its own, "
            "the squared error of hidden pixels; leave loss out"
        )
    if cfg["data"].get("class_weights"):
        raise ConfigError(
            f"data.class_weights={cfg['data']['class_weights']} weighs labels, and method=mae has "
            "none; choose data.class_weights=null"
        )
    mixing = {k: v for k, v in (cfg["augment"].get("mixing") or {}).items() if k != "_target_"}
    if Mixing(**mixing).active:
        raise ConfigError(
            "augment.mixing blends images and their labels, and method=mae has no labels; choose "
            "augment.mixing.mixup=0.0 augment.mixing.cutmix=0.0"
        )
    best = (cfg.get("callbacks") or {}).get("best") or {}
    if str(best.get("monitor", "")).endswith(("accuracy", "accuracy_top5")):
        raise ConfigError(
            f"callbacks.best.monitor={best['monitor']}: method=mae measures no accuracy; choose "
            "recipe=mae, or callbacks.best.monitor=val/loss callbacks.best.mode=min"
        )
    if cfg.get("compile"):
        raise ConfigError(
            "compile=true compiles the classifier, which method=mae does not run; leave it out"
        )
