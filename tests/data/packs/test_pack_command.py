"""What `vitfw pack` says to a person."""

import pytest

from vitfw.cli.main import main
from vitfw.data.packs.pack_manifest import read_manifest

FAKE = ["pack", "data=fake", "data.num_images=40", "num_workers=0"]


def refused(capfd, *words: str) -> str:
    assert main(list(words)) == 2
    (line,) = capfd.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["num_workers=-1"], "num_workers=-1 must be a whole number of at least 0, or null"),
        (["num_workers=x"], "num_workers=x must be a whole number of at least 0, or null"),
        (["quality=raww"], "quality=raww is neither 1 to 100 nor raw"),
        (["size=1.5"], "size=1.5 must be a whole number of pixels"),
        (["output=s3://bucket/x"], "output=s3://bucket/x: packs are written to a folder, and"),
        (["output="], "output= is empty: give the folder of a pack, output=FOLDER"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_written(capfd, tmp_path, words, said):
    output = [] if words[0].startswith("output") else [f"output={tmp_path}/pack"]
    assert said in refused(capfd, *FAKE, *output, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data=stream", "output=x"], "data=stream is packed already: copy its folder"),
        (["data=stream", "data.root=x", "output=x"], "data=stream is packed already"),
        (["verify=s3://bucket/x"], "verify=s3://bucket/x: packs are written to a folder, and"),
        (["verify="], "verify= is empty: give the folder of a pack, verify=FOLDER"),
    ],
)
def test_what_is_no_packing_is_one_line(capfd, words, said):
    assert said in refused(capfd, "pack", *words)


def test_raw_is_asked_for_by_a_word_and_90_is_the_default(tmp_path):
    for words, quality in [(["quality=raw"], "raw"), (["quality=50"], 50), ([], 90)]:
        output = tmp_path / str(quality)
        assert main([*FAKE, *words, f"output={output}"]) == 0
        assert read_manifest(output).made_with["quality"] == quality


def test_a_pack_that_was_damaged_is_not_called_whole(capfd, tmp_path):
    command = [*FAKE, f"output={tmp_path}/pack"]
    assert main(command) == 0
    assert main(command) == 0
    told = " ".join(capfd.readouterr().out.split())
    assert "packed before; to compare its checksums: vitfw pack verify=" in told
    shard = tmp_path / "pack" / "val" / "shard-000000.bin"
    shard.write_bytes(shard.read_bytes()[:-1])
    said = "val/shard-000000.bin is missing or not what pack.json says; remove "
    assert said in refused(capfd, *command)
    assert said in refused(capfd, "pack", f"verify={tmp_path}/pack")
