"""A batch that fits into memory: a fake plays out-of-memory; on a GPU it is real."""

import re

import pytest
import torch
from torch import nn

from vitfw.assemble import resolve_trainer
from vitfw.batch_size import (
    find_batch_size,
    fit_to_memory,
    is_out_of_memory,
    memory_trial,
)
from vitfw.building import build
from vitfw.config import compose, to_plain
from vitfw.errors import ConfigError
from vitfw.models.vit import VisionTransformer

CUDA_SAYS = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
CPU_SAYS = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 4398046511104 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.fixture(autouse=True)
def no_garbage(monkeypatch):
    """Collecting it takes half a second, and a fake leaves none; a GPU does."""
    if not torch.cuda.is_available():
        monkeypatch.setattr("vitfw.batch_size.gc.collect", lambda: 0)


def room_for(most: int, error: RuntimeError = CUDA_SAYS):
    """A machine on which batches of up to `most` images fit; it remembers what it was given."""
    tried = []

    def try_batch(size: int) -> None:
        tried.append(size)
        if size > most:
            raise error

    return try_batch, tried


def test_what_fits_is_left_as_it_is():
    try_batch, tried = room_for(256)
    assert find_batch_size(256, 3, try_batch) == (256, 3)
    assert tried == [256]


@pytest.mark.parametrize("error", [CUDA_SAYS, CPU_SAYS], ids=["cuda", "cpu"])
def test_a_batch_is_halved_and_accumulated_until_it_fits(error):
    try_batch, tried = room_for(40, error)
    assert find_batch_size(256, 2, try_batch) == (32, 16)
    assert tried == [256, 128, 64, 32]


@pytest.mark.parametrize("batch_size", [1, 2, 7, 96, 100, 127, 1000, 4096])
def test_an_optimizer_step_sees_as_many_images_as_before(batch_size):
    for most in (1, 3, 10, 33, 500):
        for accumulate in (1, 3):
            size, more = find_batch_size(batch_size, accumulate, room_for(most)[0])
            assert size * more == batch_size * accumulate
            assert 1 <= size <= most


def test_a_half_that_does_not_divide_gives_way_to_the_next_size_that_does():
    assert find_batch_size(100, 1, room_for(20)[0]) == (10, 10)  # 50, 25, not 12
    assert find_batch_size(7, 1, room_for(4)[0]) == (1, 7)


def test_where_no_image_fits_there_is_no_batch_size():
    try_batch, tried = room_for(0)
    assert find_batch_size(64, 1, try_batch) is None
    assert tried == [64, 32, 16, 8, 4, 2, 1]


def test_another_error_is_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
        find_batch_size(64, 1, room_for(8, RuntimeError("mat1 and mat2 shapes differ"))[0])


def test_what_pytorch_says_when_memory_runs_out_is_known():
    """The CPU's own words, from an allocation of a hundred terabytes and more."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


# ── the trial ─────────────────────────────────────────────────────────────────────────────────


class Recorder(nn.Module):
    """A net that notes the batches it is given, for all its copies."""

    def __init__(self, seen: list):
        super().__init__()
        self.head = nn.Linear(12, 3)
        self.note = seen.append

    def __deepcopy__(self, memo):
        twin = Recorder.__new__(Recorder)
        nn.Module.__init__(twin)
        twin.head, twin.note = nn.Linear(12, 3), self.note
        return twin

    def forward(self, images):
        logits = self.head(images.flatten(1))
        self.note((tuple(images.shape), images.dtype, logits.dtype))
        return logits


@pytest.mark.parametrize(
    ("precision", "images", "logits"),
    [
        ("32-true", torch.float32, torch.float32),
        ("bf16-mixed", torch.float32, torch.bfloat16),
        ("bf16-true", torch.bfloat16, torch.bfloat16),
    ],
)
def test_the_trial_trains_in_the_format_of_the_run(precision, images, logits):
    seen = []
    trial = memory_trial(
        Recorder(seen),
        nn.CrossEntropyLoss(),
        (3, 2, 2),
        3,
        lambda net: torch.optim.AdamW(net.parameters()),
        torch.device("cpu"),
        precision,
    )
    trial(5)
    assert seen == [((5, 3, 2, 2), images, logits)] * 2  # the second has the optimizer's state


@pytest.mark.parametrize("optimizer", ["muon", "sam", "schedule_free"])
def test_the_trial_leaves_net_and_random_numbers_as_they_are(optimizer):
    cfg = to_plain(compose("train", [f"optimizer={optimizer}", "model.depth=1"]))
    net = build(cfg["model"])
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    random = torch.random.get_rng_state()
    trial = memory_trial(
        net,
        build(cfg["loss"]),
        (1, 8, 8),
        10,
        build(cfg["optimizer"]),
        torch.device("cpu"),
        "32-true",
    )
    trial(2)
    assert torch.equal(torch.random.get_rng_state(), random)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in net.parameters())


def test_of_patch_sizes_that_are_drawn_the_trial_has_the_smallest():
    """Most tokens: [B, 1 + 16, D] of patches of 2 on images of 8 pixels."""
    net = VisionTransformer(
        img_size=8,
        patch_size=2,
        in_chans=1,
        num_classes=3,
        embed_dim=16,
        depth=1,
        num_heads=2,
        flexi_patch_sizes=[2, 4, 8],
    )
    seen = []

    def optimizer(trained):
        trained.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
        return torch.optim.SGD(trained.parameters(), lr=0.1)

    cpu = torch.device("cpu")
    memory_trial(net, nn.CrossEntropyLoss(), (1, 8, 8), 3, optimizer, cpu, "32-true")(2)
    assert seen == [17, 17]


def test_an_option_that_the_optimizer_refuses_is_told_in_one_line():
    with pytest.raises(ConfigError, match=r"^optimizer or scheduler: .*beta"):
        fit_to_memory(*configure("optimizer=adamw", "optimizer.betas=[1.5,0.9]"))


# ── in a run ──────────────────────────────────────────────────────────────────────────────────


def configure(*words: str):
    cfg = to_plain(compose("train", ["auto_batch_size=true", "run_dir=x", *words]))
    return cfg, resolve_trainer({**cfg["trainer"], "accelerator": "cpu"})


@pytest.fixture
def configured():
    return configure("model.depth=1")


def test_the_config_gets_the_numbers_that_fit(configured, monkeypatch, caplog):
    monkeypatch.setattr("vitfw.batch_size.trial_of", lambda cfg, options: room_for(20)[0])
    with caplog.at_level("INFO", "vitfw"):
        cfg, options = fit_to_memory(*configured)
    assert cfg["data"]["batch_size"] == 16
    assert cfg["trainer"]["accumulate_grad_batches"] == 4
    assert options["accumulate_grad_batches"] == 4
    (line,) = caplog.messages
    assert "data.batch_size=16 trainer.accumulate_grad_batches=4" in line


def test_a_real_trial_of_the_default_run_keeps_its_batch(configured):
    cfg, options = fit_to_memory(*configured)
    assert (cfg, options) == configured


def test_a_run_that_goes_on_keeps_the_batches_of_its_checkpoint(configured, monkeypatch):
    """Its place in the epoch is counted in them, so another trial must not change them."""
    monkeypatch.setattr("vitfw.batch_size.trial_of", lambda cfg, options: room_for(64)[0])
    cfg, options = configured
    saved = {"data": {"batch_size": 16}, "trainer": {"accumulate_grad_batches": 4}}
    assert fit_to_memory(cfg, options, saved)[0]["data"]["batch_size"] == 16
    other = {"data": {"batch_size": 16}, "trainer": {"accumulate_grad_batches": 2}}
    assert fit_to_memory(cfg, options, other)[0]["data"]["batch_size"] == 64


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], r"1 image .*lower model\.img_size, .*model\.grad_checkpointing=true$"),
        (["model.grad_checkpointing=true"], r"lower model\.img_size, .* or model\.embed_dim$"),
        (["model=timm", "model.name=resnet10t"], r"lower model\.img_size, or .* smaller model$"),
    ],
    ids=["ours", "ours, checkpointed", "timm's"],
)
def test_where_no_image_fits_it_is_said_what_this_model_can_lower(words, said, monkeypatch):
    monkeypatch.setattr("vitfw.batch_size.trial_of", lambda cfg, options: room_for(0)[0])
    with pytest.raises(ConfigError, match=said) as caught:
        fit_to_memory(*configure(*words))
    keys = re.findall(r"model\.\w+", str(caught.value))
    assert keys and all(key.partition(".")[2] in configure(*words)[0]["model"] for key in keys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=mae"], "MaskedAutoencoder trains otherwise"),
        (["method=linear_probe"], "LinearProbe trains otherwise"),
        (["optimizer=sam"], "optimizer=sam looks at each batch"),
        (["trainer.devices=2"], "type a smaller data.batch_size .* or trainer.devices=1"),
        (["trainer.devices=[0,1]"], "is for one process"),
        (["trainer.num_nodes=2"], "is for one process"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_run_whose_batch_cannot_be_found_by_trying_is_told_what_to_type(words, said):
    with pytest.raises(ConfigError, match=f"auto_batch_size=true .*{said}"):
        fit_to_memory(*configure(*words))


def test_a_process_among_others_of_torchrun_is_refused(configured, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="is for one process"):
        fit_to_memory(*configured)


def test_one_process_is_alone_however_it_is_asked_for(configured, monkeypatch):
    monkeypatch.setattr("vitfw.batch_size.trial_of", lambda cfg, options: room_for(64)[0])
    monkeypatch.setenv("WORLD_SIZE", "1")
    cfg, options = configured
    for devices in (1, "1", "auto", -1, [0]):
        assert fit_to_memory(cfg, {**options, "devices": devices})[0] == cfg


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_batch_found_trains_and_its_double_does_not():
    cfg = to_plain(compose("train", ["model=vit_ti16", "data=fake", "data.native_size=224"]))
    trial = memory_trial(
        build(cfg["model"]),
        build(cfg["loss"]),
        (3, 224, 224),
        10,
        build(cfg["optimizer"]),
        torch.device("cuda"),
        "bf16-mixed",
    )
    share = 4e9 / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        size, accumulate = find_batch_size(4096, 1, trial)
        assert size * accumulate == 4096 and size < 4096
        trial(size)
        with pytest.raises(torch.OutOfMemoryError):
            trial(2 * size)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
