"""Packing and streaming as a person, or two machines, would do them."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from commands import TINY, run, start

from vitfw.data.packs.pack_manifest import read_manifest
from vitfw.data.packs.streaming import StreamLoader

PACK = ["pack", "data=fake", "data.num_images=6000", "chunk_mb=0.2", "num_workers=2"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    outcome = run(*PACK, "output=whole", cwd=folder)
    assert outcome.code == 0, outcome.err
    assert "train 5,400 images" in outcome.out and "data=stream data.root=whole" in outcome.out
    return folder / "whole"


@pytest.mark.slow
def test_killed_packing_goes_on_to_the_same_bytes(packed, tmp_path):
    process = start(*PACK, "output=killed", cwd=tmp_path)
    notes = tmp_path / "killed" / ".packing" / "train"
    deadline = time.monotonic() + 120
    while len(list(notes.glob("*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "pack.json").exists()
    outcome = run("pack", "verify=killed", cwd=tmp_path)
    assert outcome.code == 2 and "not finished" in outcome.err
    assert run(*PACK, "output=killed", cwd=tmp_path).code == 0
    assert contents(tmp_path / "killed") == contents(packed)


def test_another_pack_in_the_same_folder_is_refused(packed):
    outcome = run(*PACK, "size=64", "output=whole", cwd=packed.parent)
    assert outcome.code == 2
    assert outcome.errors == [
        "error: whole holds a pack already, of fake with size=256 instead of 64; "
        "give another output, or remove it"
    ]


def test_verify_says_that_every_checksum_is_right(packed):
    outcome = run("pack", f"verify={packed}", cwd=packed.parent)
    assert outcome.code == 0 and "every checksum is right" in outcome.out


@pytest.mark.slow
def test_training_from_a_pack_is_stopped_and_goes_on_bit_identical(packed, tmp_path):
    words = [
        "train",
        "data=stream",
        f"data.root={packed}",
        *TINY,
        "trainer.max_epochs=3",
        "data.num_workers=2",
        "callbacks.last.every_n_steps=7",
        "callbacks.last.min_seconds=0",
    ]
    assert run(*words, "run_dir=whole", cwd=tmp_path).code == 0
    process = start(*words, "run_dir=killed", cwd=tmp_path)
    last = tmp_path / "killed/checkpoints/last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    outcome = run(*words, "run_dir=killed", cwd=tmp_path)
    assert outcome.code == 0 and "going on from" in outcome.out
    weights = [
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "killed")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def one_process(rank: int, world: int, port: int, packed: str, out: str) -> None:
    """Read an epoch of training and of validation, and note the keys."""
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    manifest = read_manifest(packed)
    found = []
    for split, batch in (("train", 64 // world), ("val", 50)):
        stream = StreamLoader(
            packed,
            manifest,
            split,
            batch,
            (32, 32),
            shuffle=split == "train",
            rank=rank,
            world=world,
            num_workers=1,
        )
        found.append([read.keys.clone() for read in stream])
    torch.save(found, f"{out}/{world}-{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def read_by(world: int, packed: Path, out: Path) -> list[list[list[torch.Tensor]]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (world, port, str(packed), str(out))
    torch.multiprocessing.spawn(one_process, arguments, nprocs=world)
    return [torch.load(f"{out}/{world}-{rank}.pt") for rank in range(world)]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="gloo over TCP")
def test_two_processes_see_at_each_step_what_one_does(packed, tmp_path):
    ((train, val),) = read_by(1, packed, tmp_path)
    two = read_by(2, packed, tmp_path)
    assert len(train) == len(two[0][0]) == len(two[1][0]) == 5400 // 64
    for alone, *together in zip(train, two[0][0], two[1][0], strict=True):
        assert torch.equal(alone.sort().values, torch.cat(together).sort().values)
    seen = torch.cat([*two[0][1], *two[1][1]])
    assert len(seen) == 600 and torch.equal(seen.sort().values, torch.cat(val).sort().values)
