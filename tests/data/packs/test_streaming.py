import itertools
import re
from pathlib import Path

import boto3
import pytest
import torch
from moto.server import ThreadedMotoServer
from torchvision.io import write_png

from vitfw.data.augment.batch_augment import BatchAugment
from vitfw.data.counter_rng import sample_keys
from vitfw.data.images import ArrayImages, FileImages
from vitfw.data.packs.pack_folder import pack_folder
from vitfw.data.packs.pack_manifest import Manifest, packed_fact, read_manifest
from vitfw.data.packs.pack_options import PackOptions
from vitfw.data.packs.shard_order import ShardOrder
from vitfw.data.packs.streaming import StreamLoader
from vitfw.errors import ConfigError

SIZES = [7, 7, 7, 7, 7, 3]  # of the shards: 38 samples
COUNT = 203
LABELS = torch.arange(COUNT) % 10


def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (COUNT, 3, 8, 8), generator=generator).to(torch.uint8)


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    facts = Manifest("x", tuple("abcdefghij"), 3, 8, 1.0, (8, 8), (0.5,) * 3, (0.2,) * 3, {}, {})
    splits = {
        "train": ArrayImages(images(), LABELS),
        "val": ArrayImages(images()[:37], LABELS[:37]),
    }
    pack_folder(folder, facts, splits, PackOptions(chunk_mb=0.005))
    return folder


def loader(root: Path | str, split: str = "train", batch_size: int = 16, **more) -> StreamLoader:
    manifest = read_manifest(root, more.get("storage_options"))
    more = {"seed": 3, "shuffle": split == "train", **more}
    return StreamLoader(root, manifest, split, batch_size, (8, 8), **more)


def epoch(stream: StreamLoader, number: int = 0) -> list:
    stream.sampler.set_epoch(number)
    return [(*(part.clone() for part in batch[:3]), batch.step) for batch in stream]


def same(one: list, other: list) -> bool:
    return len(one) == len(other) and all(
        a[3] == b[3] and all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))
        for a, b in zip(one, other, strict=True)
    )


def places(*, epoch: int = 0, **more) -> list[list[int]]:
    order = ShardOrder(SIZES, more.pop("batch_size", 4), 5, more.pop("shuffle", True), **more)
    order.set_epoch(epoch)
    found = [batch.tolist() for batch in order.batches()]
    assert len(found) == len(order)
    return found


def test_an_epoch_gives_samples_once_and_another_epoch_another_order():
    first, second = places(), places(epoch=1)
    flat = [place for batch in first for place in batch]
    assert len(flat) == len(set(flat)) == 36  # of 38: the odd end is dropped
    assert first != second and places() == first


def test_shards_are_read_one_after_the_other():
    shards = [place // 7 for batch in places(batch_size=1) for place in batch]
    changes = sum(a != b for a, b in itertools.pairwise(shards))
    assert changes == len(SIZES) - 1


@pytest.mark.parametrize("groups", [1, 2])
def test_processes_see_together_what_they_should(groups):
    ranks = [places(batch_size=2, rank=r, world=4, groups=groups) for r in range(4)]
    alone = places(batch_size=8)
    steps = [sorted(itertools.chain(*batches)) for batches in zip(*ranks, strict=True)]
    flat = list(itertools.chain(*steps))
    assert len(flat) == len(set(flat)) == 32
    if groups == 1:
        assert steps == [sorted(batch) for batch in alone]


def test_each_group_reads_its_own_shards():
    read = [
        {place // 7 for batch in places(batch_size=2, rank=r, world=4, groups=2) for place in batch}
        for r in range(4)
    ]
    assert len(read[0] | read[1]) <= 4 and len((read[0] | read[1]) & (read[2] | read[3])) <= 1


def test_evaluation_gives_every_sample_once_over_all_processes():
    ranks = [places(shuffle=False, rank=r, world=3) for r in range(3)]
    flat = [place for batches in ranks for batch in batches for place in batch]
    assert flat == list(range(38))
    assert {len(batch) for batches in ranks for batch in batches[:-1]} == {4}


def test_groups_have_to_divide_the_processes():
    with pytest.raises(ConfigError, match="data.groups=2 does not divide the 3 processes"):
        places(world=3, groups=2)
    with pytest.raises(ConfigError, match="data.groups=3 does not divide the 1 process;"):
        places(groups=3)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_batches_of_workers_taken_in_turn_are_those_of_the_process(workers):
    order = ShardOrder(SIZES, 4, 5, True)
    order.first_batch = 1
    read = [
        [int(place) for _, visited in order.of_worker(worker, workers) for place in visited]
        for worker in range(workers)
    ]
    cut = [[flat[i : i + 4] for i in range(0, len(flat), 4)] for flat in read]
    turns = [cut[k % workers][k // workers] for k in range(len(order) - 1)]
    assert turns == [batch.tolist() for batch in order.batches()]


def test_batches_hold_the_packed_pixels_labels_and_keys(packed):
    for number in (0, 1):
        keys = sample_keys(3, number, torch.arange(COUNT))
        for pixels, labels, found, _ in epoch(loader(packed), number):
            index = torch.tensor([int((keys == key).nonzero()) for key in found])
            assert torch.equal(pixels, images()[index])
            assert torch.equal(labels, LABELS[index])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_do_not_depend_on_workers_and_live_workers_follow_the_epoch(packed):
    alone = loader(packed)
    expected = [epoch(alone, number) for number in (0, 1, 5)]
    assert len(expected[0]) == len(alone) == COUNT // 16
    assert [batch[3] for batch in expected[2]] == list(range(60, 72))
    for workers in (1, 3):
        stream = loader(packed, num_workers=workers)
        for number, batches in zip((0, 1, 5), expected, strict=True):
            assert same(epoch(stream, number), batches)


def test_an_epoch_that_was_left_early_does_not_disturb_the_next(packed):
    stream = loader(packed, num_workers=2)
    for _ in zip(range(2), stream, strict=False):
        pass
    assert same(epoch(stream, 1), epoch(loader(packed), 1))


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0)])
def test_stopped_in_an_epoch_the_rest_is_the_same_with_other_workers(packed, before, after):
    whole = epoch(loader(packed), 4)
    stream = loader(packed, num_workers=before)
    stream.sampler.set_epoch(4)
    for given, _ in enumerate(stream, 1):
        if given == 5:
            break
    resumed = loader(packed, num_workers=after)
    resumed.load_state_dict(stream.state_dict())
    assert same(epoch(resumed, 4), whole[5:])
    assert same(epoch(resumed, 5), epoch(loader(packed), 5))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_is_whole_with_fewer_batches_than_workers(packed, workers):
    batches = [
        batch
        for rank in range(2)
        for batch in epoch(loader(packed, "val", 16, rank=rank, world=2, num_workers=workers))
    ]
    assert torch.equal(torch.cat([batch[0] for batch in batches]), images()[:37])
    assert [len(batch[1]) for batch in batches] == [16, 2, 16, 3]


def test_encoded_images_are_decoded_to_size_and_cropped_by_key(tmp_path):
    big = torch.nn.functional.interpolate(images()[:12].float(), (24, 20)).to(torch.uint8)
    for i, pixels in enumerate(big):
        write_png(pixels, str(tmp_path / f"{i}.png"))
    files = FileImages.of([tmp_path / f"{i}.png" for i in range(12)], [0] * 12)
    facts = Manifest("x", ("a",), 3, 32, 1.0, None, (0.5,) * 3, (0.2,) * 3, {}, {})
    pack_folder(tmp_path / "pack", facts, {"train": files, "val": files}, PackOptions(size=32))
    ((evaluated, *_),) = epoch(loader(tmp_path / "pack", "val", 12))
    assert evaluated.shape == (12, 3, 8, 8)
    crops = [
        epoch(loader(tmp_path / "pack", batch_size=4, augment=augment, num_workers=workers))
        for augment, workers in [(BatchAugment(crop_scale=(0.1, 0.5)), 0)] * 2 + [(None, 0)]
    ]
    assert same(crops[0], crops[1]) and not same(crops[0], crops[2])


@pytest.fixture(scope="module")
def bucket(packed):
    """The pack uploaded to an S3-compatible server on this machine."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {
        "endpoint_url": f"http://{host}:{port}",
        "region_name": "us-east-1",
        "aws_access_key_id": "none",
        "aws_secret_access_key": "none",
    }
    client = boto3.client("s3", **options)
    client.create_bucket(Bucket="shards")
    for path in packed.rglob("*.*"):
        client.upload_file(str(path), "shards", f"sets/x/{path.relative_to(packed)}")
    yield options
    server.stop()


def test_a_secret_that_would_be_written_into_checkpoints_is_refused(bucket):
    with pytest.raises(ConfigError, match=r"storage_options\.aws_secret_access_key .*checkpoint"):
        packed_fact("s3://shards/sets/x", bucket, "name")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bucket_gives_what_the_folder_gives_and_is_read_once(bucket, packed, tmp_path, workers):
    remote = {"storage_options": bucket, "cache_dir": tmp_path, "num_workers": workers}
    stream = loader("s3://shards/sets/x", **remote)
    for number in (0, 1):
        assert same(epoch(stream, number), epoch(loader(packed), number))
    kept = {path.name for path in tmp_path.rglob("*.bin")}
    assert kept == {path.name for path in (packed / "train").glob("*.bin")}


@pytest.mark.slow
def test_a_full_cache_is_emptied_as_shards_are_read(bucket, packed, tmp_path):
    remote = {"storage_options": bucket, "cache_dir": tmp_path, "cache_gb": 2e-5, "num_workers": 2}
    stream = loader("s3://shards/sets/x", **remote)
    for number in (0, 1):
        assert same(epoch(stream, number), epoch(loader(packed), number))
    assert not list(tmp_path.rglob("*.bin"))


def test_a_store_that_cannot_be_read_is_one_line(bucket):
    nowhere = {**bucket, "endpoint_url": "http://127.0.0.1:9"}
    for root, options, said in [
        ("s3://shards/nothing", bucket, "no nothing/pack.json there"),
        ("s3://other-bucket/x", bucket, "no bucket"),
        ("s3://shards/sets/x", nowhere, "cannot be reached"),
        ("s3://shards/sets/x", {"endpoint": "x"}, "data.storage_options do not fit"),
        ("gs://shards/sets/x", {}, "from a folder or from s3://"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(said)):
            read_manifest(root, options)


def test_half_an_upload_is_noticed(bucket):
    client = boto3.client("s3", **bucket)
    manifest = client.get_object(Bucket="shards", Key="sets/x/pack.json")["Body"].read()
    client.put_object(Bucket="shards", Key="half/pack.json", Body=manifest)
    with pytest.raises(ConfigError, match="no half/train/index.json there"):
        read_manifest("s3://shards/half", bucket)
    for split in ("train", "val"):
        client.put_object(Bucket="shards", Key=f"half/{split}/index.json", Body=b"{}")
    with pytest.raises(ConfigError, match="train/index.json is missing or not what"):
        read_manifest("s3://shards/half", bucket)


def test_no_pack_in_a_folder_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="vitfw pack data=NAME output="):
        read_manifest(tmp_path)
