"""What a net draws in a training step follows from the seed and the step, from nothing else."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vitfw.callbacks.step_seed import StepSeed
from vitfw.models.vit import VisionTransformer


def mask(seed: int, epoch: int = 0, batch: int = 0, rank: int = 0) -> torch.Tensor:
    """The dropout mask of a step."""
    place = SimpleNamespace(current_epoch=epoch, global_rank=rank)
    StepSeed(seed).on_train_batch_start(place, None, None, batch)
    return nn.Dropout(0.5)(torch.ones(4096))


def test_a_step_draws_the_same_mask_whatever_was_drawn_before():
    first = mask(seed=7, epoch=2, batch=30)
    torch.rand(1000)
    assert torch.equal(mask(seed=7, epoch=2, batch=30), first)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"seed": 0, "epoch": 1},
        {"seed": 0, "batch": 1},
        {"seed": 0, "rank": 1},
    ],
    ids=str,
)
def test_another_seed_epoch_batch_or_process_draws_another_mask(other):
    agreement = (mask(seed=0) == mask(**other)).float().mean()
    assert 0.45 < agreement < 0.55  # as two independent fair coins


def test_no_two_steps_of_a_run_are_seeded_alike():
    seeds = set()
    for epoch in range(20):
        for batch in range(20):
            for rank in range(2):
                place = SimpleNamespace(current_epoch=epoch, global_rank=rank)
                StepSeed(0).on_train_batch_start(place, None, None, batch)
                seeds.add(torch.initial_seed())
    assert len(seeds) == 20 * 20 * 2


def test_every_process_gets_the_patch_size_of_the_step_and_all_sizes_come_up():
    net = VisionTransformer(
        img_size=16, patch_size=4, embed_dim=8, depth=1, num_heads=1, flexi_patch_sizes=[2, 4, 8]
    )
    module = SimpleNamespace(net=net)

    def drawn(rank: int) -> list[int | None]:
        sizes = []
        for batch in range(40):
            place = SimpleNamespace(current_epoch=1, global_rank=rank)
            StepSeed(0).on_train_batch_start(place, module, None, batch)
            sizes.append(net.drawn_patch_size)
        return sizes

    assert drawn(0) == drawn(1)
    assert set(drawn(0)) == {2, 4, 8}
    seen = []
    net.patch_embed.register_forward_hook(lambda _, inputs, out: seen.append(out.shape[1]))
    net.train()(torch.zeros(1, 3, 16, 16))
    assert seen == [(16 // net.drawn_patch_size) ** 2]
    net.eval()(torch.zeros(1, 3, 16, 16))
    assert seen[1] == 16
