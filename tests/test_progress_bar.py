"""Long work on a terminal, in a log, in a worker; short work, of which nothing is shown."""

import io
import logging
import os
import re
import time

import pytest
from rich.console import Console
from torch.utils.data import DataLoader

from vitfw import console as shown
from vitfw import progress_bar
from vitfw.progress_bar import LongWork, clock, counted, fetching


@pytest.fixture
def lines(caplog, monkeypatch):
    """What is said where there is no terminal: at most ten lines, a moment apart."""
    monkeypatch.setattr(progress_bar, "console", Console(file=io.StringIO()))
    monkeypatch.setattr(progress_bar, "SECONDS_BEFORE_LINES", 0.02)
    monkeypatch.setattr(shown.log, "propagate", True)
    caplog.set_level(logging.INFO, "vitfw")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of 80 columns, on which bars appear at once."""
    screen = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    monkeypatch.setattr(progress_bar, "console", screen)
    monkeypatch.setattr(shown, "console", screen)
    monkeypatch.setattr(progress_bar, "SECONDS_BEFORE_BAR", 0.0)
    monkeypatch.setattr(progress_bar, "SECONDS_BETWEEN_BARS", 0.01)
    return screen


def wait_for(something, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not something():
        assert time.monotonic() < until
        time.sleep(0.005)


def plain(screen: Console) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.file.getvalue())


def test_lines_count_up_to_the_total(lines):
    with LongWork("packing train", 2000) as work:
        for told in range(1, 5):
            work.update(500)
            wait_for(lambda told=told: len(lines()) >= told)
    counts = [re.match(r"packing train: ([\d,]+)/2,000 \((\d+) %\)", line) for line in lines()]
    assert [match.groups() for match in counts if match] == [
        ("500", "25"),
        ("1,000", "50"),
        ("1,500", "75"),
        ("2,000", "100"),
    ]
    assert len(counts) == 4


def test_the_last_line_tells_what_was_done_since_the_one_before(lines):
    with LongWork("test", 100, "batches") as work:
        work.update(40)
        wait_for(lines)
        work.update(60)
    assert lines()[-1].startswith("test: 100/100 (100 %), ")
    assert lines()[-1].endswith(" batches/s")


def test_a_line_tells_the_time_that_is_left(lines, monkeypatch):
    now = iter([0.0, *[30.0] * 9])
    monkeypatch.setattr(progress_bar, "monotonic", lambda: next(now))
    work = LongWork("predicting", 4000)
    work.update(1000)
    assert work.line() == "predicting: 1,000/4,000 (25 %), 33 img/s, 1:30 left"


def test_bytes_are_told_in_units(monkeypatch):
    now = iter([0.0, *[10.0] * 9])
    monkeypatch.setattr(progress_bar, "monotonic", lambda: next(now))
    work = LongWork("downloading food-101.tar.gz", 4_996_278_331, "bytes")
    work.update(1_250_000_000)
    assert work.line() == (
        "downloading food-101.tar.gz: 1.2 GB/5.0 GB (25 %), 125.0 MB/s, 0:30 left"
    )


def test_slow_work_is_told_of_once_a_minute_not_every_ten_seconds(lines, monkeypatch):
    with LongWork("validation", 1000, "batches") as work:
        wait_for(lines)
        work.update()  # 0.1 %: not enough for another line
        time.sleep(0.2)
        assert len(lines()) == 1
        monkeypatch.setattr(progress_bar, "SECONDS_WITHOUT_LINE", 0.0)
        wait_for(lambda: len(lines()) > 1)


def test_nothing_is_said_of_short_work(caplog, monkeypatch):
    monkeypatch.setattr(shown.log, "propagate", True)
    caplog.set_level(logging.INFO, "vitfw")
    with LongWork("packing train", 10) as work:
        work.update(10)
    assert caplog.records == []


def test_nothing_is_drawn_of_short_work(terminal, monkeypatch):
    monkeypatch.setattr(progress_bar, "SECONDS_BEFORE_BAR", 60.0)
    with LongWork("packing train", 10) as work:
        work.update(10)
    assert plain(terminal) == ""


def test_work_that_breaks_does_not_say_that_it_was_done(lines):
    with pytest.raises(OSError, match="disk"), LongWork("packing train", 10) as work:
        work.update(5)
        wait_for(lines)
        work.update(4)
        raise OSError("disk")
    assert not any("9/10" in line for line in lines())


def test_a_bar_on_a_terminal_shows_share_and_rate_and_goes(terminal, lines, monkeypatch):
    monkeypatch.setattr(progress_bar, "console", terminal)
    with LongWork("features of train images", 60_000) as work:
        work.update(45_000)
        wait_for(lambda: "75%" in plain(terminal))
        assert "img/s" in plain(terminal)
    assert terminal.file.getvalue().endswith("\x1b[2K")  # the line is erased
    assert lines() == []


@pytest.mark.parametrize("total", [None, 1_281_167])
def test_a_bar_of_any_name_fits_into_80_columns(terminal, total):
    with LongWork("fetching the weights of huggingface:someone/some-very-long-name", total) as work:
        work.update(640_000)
        wait_for(lambda: "img/s" in plain(terminal))
    for line in re.split(r"[\r\n]", plain(terminal)):
        assert len(line) <= 80


class Telling:
    """A data set whose items take long, and say so."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        with LongWork("in a worker") as work:
            time.sleep(0.1)
        return os.getpid() if not work._watcher.ident else 0


def test_worker_processes_and_other_ranks_say_nothing(lines, monkeypatch):
    asked = list(DataLoader(Telling(), batch_size=None, num_workers=1))
    assert all(pid not in (0, os.getpid()) for pid in asked)
    monkeypatch.setattr(progress_bar.rank_zero_only, "rank", 1)
    with LongWork("on rank 1", 10) as work:
        work.update(5)
        time.sleep(0.1)
    assert lines() == []


def test_a_download_of_another_library_is_told_of_without_a_terminal(lines, capsys):
    with fetching("the weights of timm:vit_tiny_patch16_224"):
        wait_for(lines)
    assert re.fullmatch(r"fetching the weights of timm:\S+: 0:0\d so far", lines()[0])


@pytest.mark.parametrize(
    "seconds, text", [(0.4, "0:00"), (65, "1:05"), (3599.6, "1:00:00"), (7384, "2:03:04")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize("size, text", [(999, "1 kB"), (1_250_000, "1.2 MB"), (5e9, "5.0 GB")])
def test_counted(size, text):
    assert counted(int(size), "bytes") == text
