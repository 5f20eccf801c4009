"""Time spent waiting for data: what is counted, what the progress line shows, who is warned."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from realness.data_pipeline import Catalog, ImageStream, open_catalog
from realness.data_pipeline.decoding import starvation
from realness.data_pipeline.decoding.starvation import StarvationWatch, WaitClock
from realness.trainer.run import throughput
from realness.trainer.run.throughput import Pace
from tests.helpers.data_images import image_files, write_folder
from tests.helpers.streams import stream_of

PATIENCE_SECONDS = 60
READ_SECONDS, STEP_SECONDS = 1.0, 4.0


class Clock:
    """A clock that advances with steps, and with reads, which happen only while waited for.

    So no machine is too slow, and the time of the reads is exactly the time waited for the stream.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._is_waiting = False
        self._changed = threading.Condition()

    def wait_for_data(self, is_waiting: bool) -> None:
        """Whether reads may happen."""
        with self._changed:
            self._is_waiting = is_waiting
            self._changed.notify_all()

    def read(self) -> None:
        """Perform one read as soon as someone waits for it."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._is_waiting, PATIENCE_SECONDS)
            self.now += READ_SECONDS


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that reads whenever a WaitClock measures waiting."""
    clock, start, stop = Clock(), WaitClock.start, WaitClock.stop

    def start_and_read(self: WaitClock) -> None:
        start(self)
        clock.wait_for_data(True)

    def stop_reading(self: WaitClock) -> None:
        clock.wait_for_data(False)
        stop(self)

    monkeypatch.setattr(WaitClock, "start", start_and_read)
    monkeypatch.setattr(WaitClock, "stop", stop_reading)
    monkeypatch.setattr(starvation, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(throughput, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def slow(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """A set on a disk that takes one second per image."""
    catalog = open_catalog(write_folder(tmp_path, image_files(24)))
    read = Catalog.read

    def slow_read(self: Catalog, index: int) -> bytes:
        clock.read()
        return read(self, index)

    monkeypatch.setattr(Catalog, "read", slow_read)
    return catalog


def open_stream(catalog: Catalog, batch: int, purpose: int = 1) -> ImageStream:
    return stream_of(
        catalog, resolution=32, global_batch=batch, seed=7, purpose=purpose, mirror=True,
        decoder="threads", decode_threads=1, prefetch=1,
    )  # fmt: skip


@pytest.fixture
def stream(slow: Catalog, clock: Clock) -> Iterator[ImageStream]:
    with open_stream(slow, 8) as stream:
        yield stream
        clock.wait_for_data(True)  # for the thread that reads ahead, or it could not end


def test_wait_seconds_is_the_time_the_consumer_waited(stream: ImageStream, clock: Clock) -> None:
    for _ in range(4):
        next(stream)
    # A consumer that does nothing waits all the time: for 32 images, or more with read-ahead.
    assert stream.wait_seconds == clock.now >= 32 * READ_SECONDS
    clock.now += STEP_SECONDS
    next(stream)
    assert stream.wait_seconds == clock.now - STEP_SECONDS


def test_progress_line_shows_the_share_of_the_time_waited(
    slow: Catalog, stream: ImageStream, clock: Clock
) -> None:
    """Batches that take 8 s to read, with steps of 4 s."""
    pace = Pace(slow, [stream])
    next(stream)
    pace.read(0)
    started = clock.now
    for _ in range(10):
        clock.now += STEP_SECONDS
        next(stream)
        pace.add(8)
    seconds = clock.now - started
    shown = pace.read(0)["data_wait_percent"]
    assert shown == pytest.approx(100 * (1 - 10 * STEP_SECONDS / seconds))
    assert 50 < shown < 75
    clock.now += STEP_SECONDS
    assert pace.read(0)["data_wait_percent"] == 0


def test_a_starved_run_says_so_once(
    slow: Catalog,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(StarvationWatch, "WINDOW_BATCHES", 3)
    for purpose in (1, 2):
        with open_stream(slow, 4, purpose) as stream:
            for _ in range(20):
                next(stream)
            clock.wait_for_data(True)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "waits for data" in message
    assert "--format raw" in message


@pytest.mark.parametrize(("waited", "warned"), [(0.15, 0), (0.25, 1)])
def test_starvation_is_a_share_of_the_time_after_the_first_batches(
    monkeypatch: pytest.MonkeyPatch, waited: float, warned: int
) -> None:
    """Steps of one second, of which `waited` are waiting, after an initial wait of 100 s."""
    now = 0.0
    monkeypatch.setattr(starvation, "time", SimpleNamespace(perf_counter=lambda: now))
    messages: list[str] = []
    watch = StarvationWatch(messages.append, "help", num_first=3)
    now = total = 100.0
    for _ in range(40):
        watch.look(total)
        now, total = now + 1.0, total + waited
    assert len(messages) == warned
    assert messages == [f"training waits for data {waited:.0%} of the time; help"] * warned
