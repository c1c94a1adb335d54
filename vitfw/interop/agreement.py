"""How far the logits of two nets are apart, and whether logits tell anything at all."""

import copy
import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vitfw.checkpoint import Passport
from vitfw.data.transforms import normalise
from vitfw.interop.export_graph import Normalised

Logits = Callable[[Tensor], Tensor]

HEAD = re.compile(r"(^|\.)(head|head_dist|fc|classifier)\.")


def with_drawn_head(net: nn.Module) -> nn.Module:
    """A copy with random numbers in its head, and wherever there were only zeros.

    Where a net gives all images the same logits, as with a head of zeros, they would agree whatever
    became of its other tensors. So this copy is written and compared before it.
    """
    copied, generator = copy.deepcopy(net), torch.Generator().manual_seed(0)
    for name, parameter in copied.named_parameters():
        if HEAD.search(name) or not parameter.any():
            parameter.data = 0.02 * torch.randn(parameter.shape, generator=generator)
    return copied


def batches_of(net: nn.Module, passport: Passport, is_graph: bool) -> list[Tensor]:
    """Seeded random images, 1, 2 and 5 of them, prepared for `net`."""
    generator, batches = torch.Generator().manual_seed(0), []
    for batch in (1, 2, 5):
        shape = (batch, passport.channels, *passport.img_size)
        pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        if isinstance(net, Normalised):
            images = pixels / 255
        else:
            images = normalise(pixels, torch.tensor(passport.mean), torch.tensor(passport.std))
        batches.append(images if is_graph else images.double())
    return batches


@torch.inference_mode()
def spread_of(net: nn.Module, passport: Passport) -> float:
    """How far the logits of images are from each other, as a share of the largest logit."""
    images = torch.cat(batches_of(net, passport, is_graph=True))
    logits = net(images)
    return share(logits - logits[:1], logits)


@torch.inference_mode()
def largest_difference(net: nn.Module, other: Logits, passport: Passport, is_graph: bool) -> float:
    """Between the logits of the two, as a share of the largest logit."""
    batches = batches_of(net, passport, is_graph)
    if not is_graph:
        net = copy.deepcopy(net).double()
    logits = torch.cat([net(images) for images in batches])
    return share(torch.cat([other(images) for images in batches]) - logits, logits)


def share(apart: Tensor, logits: Tensor) -> float:
    largest = logits.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return float(apart.abs().max() / largest)
