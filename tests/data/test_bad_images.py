"""The ledger of unreadable images: what it counts, says, and when it ends the run."""

import logging

import pytest

from vitfw.console import ConsoleHandler, console, log, log_to, stop_logging_to
from vitfw.data.bad_images import BadImages, TooManyBadImages


def entries(*numbers: int) -> list[tuple[str, str]]:
    return [(f"/p/{i}.jpg", f"cannot read /p/{i}.jpg: not an image") for i in numbers]


def shown_and_logged(act, tmp_path, monkeypatch) -> tuple[list[str], list[str]]:
    monkeypatch.setattr(log, "handlers", [ConsoleHandler()])
    log.setLevel(logging.INFO)
    handler = log_to(tmp_path / "train.log")
    with console.capture() as capture:
        act()
    stop_logging_to(handler)
    return capture.get().splitlines(), (tmp_path / "train.log").read_text().splitlines()


def test_the_first_three_are_shown_and_all_are_in_the_log(tmp_path, monkeypatch):
    bad = BadImages(1.0)
    shown, logged = shown_and_logged(
        lambda: [bad.note("train", entries(i), 10) for i in range(6)], tmp_path, monkeypatch
    )
    assert shown[:3] == [f"skipped: cannot read /p/{i}.jpg: not an image" for i in range(3)]
    assert len(shown) == 4
    assert "train.log" in shown[3]
    for i in range(6):
        assert sum(f"/p/{i}.jpg" in line for line in logged) == 1


def test_an_image_is_told_once_however_often_it_is_met(tmp_path, monkeypatch):
    bad = BadImages(1.0)
    shown, logged = shown_and_logged(
        lambda: [bad.note(split, entries(7, 7), 10) for split in ("train", "train", "val")],
        tmp_path,
        monkeypatch,
    )
    assert len(shown) == len(logged) == len(bad) == 1


def test_what_was_found_before_there_was_a_log_is_written_into_it(tmp_path, monkeypatch):
    bad = BadImages(1.0)
    bad.note("train", entries(1, 2, 3, 4, 5), 10)
    shown, logged = shown_and_logged(bad.retell, tmp_path, monkeypatch)
    assert not shown
    assert [line.split("read ")[1].split(":")[0] for line in logged] == [
        f"/p/{i}.jpg" for i in range(1, 6)
    ]


def test_what_several_processes_found_is_judged_together():
    ours, theirs = BadImages(0.02), BadImages(0.02)
    for ledger, number in ((ours, 1), (theirs, 2)):
        ledger.check_at_once = False
        ledger.note("train", entries(number, number + 10), 100)
        ledger.check()  # two of a hundred are allowed
    ours.merge(theirs.found, theirs.sizes)
    assert set(ours.reasons) == {f"/p/{i}.jpg" for i in (1, 2, 11, 12)}
    with pytest.raises(TooManyBadImages, match="4 of the 100 train images"):
        ours.check()


def test_reasons_are_kept_by_name():
    bad = BadImages(1.0)
    bad.note("train", entries(1), 10)
    bad.note("test", entries(4, 2), 10)
    assert bad.reasons == dict(entries(1, 4, 2))


@pytest.mark.parametrize("share, of, allowed", [(0.01, 200, 2), (0.1, 50, 5), (0.5, 3, 1)])
def test_so_many_as_the_share_allows_are_put_up_with_and_one_more_is_not(share, of, allowed):
    bad = BadImages(share)
    for i in range(allowed):
        bad.note("train", entries(i), of)
    with pytest.raises(TooManyBadImages):
        bad.note("train", entries(allowed), of)


def test_with_a_share_of_0_the_first_one_ends_the_run():
    with pytest.raises(TooManyBadImages):
        BadImages(0.0).note("val", entries(0), 10**6)


def test_nothing_bad_is_nothing_to_say():
    bad = BadImages(0.0)
    bad.note("train", [], 10)
    assert len(bad) == 0


def test_splits_are_counted_by_themselves():
    bad = BadImages(0.1)
    for first, split in ((10, "train"), (20, "val"), (30, "test")):
        bad.note(split, entries(first, first + 1), 20)
    with pytest.raises(TooManyBadImages, match="3 of the 20 val images"):
        bad.note("val", entries(22), 20)


def test_the_same_image_met_in_every_epoch_counts_once():
    bad = BadImages(0.1)
    for _ in range(50):
        bad.note("train", entries(0), 10)


def test_the_message_is_one_line_with_the_counts_the_setting_and_three_of_them():
    bad = BadImages(0.01)
    with pytest.raises(TooManyBadImages) as caught:
        bad.note("train", entries(*range(200)), 10_000)
    message = str(caught.value)
    assert "\n" not in message
    assert "200 of the 10,000 train images cannot be read" in message
    assert "data.max_bad_share=0.01" in message
    assert message.count("/p/") == 3
