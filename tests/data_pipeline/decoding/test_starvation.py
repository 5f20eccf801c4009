"""Time spent waiting for data: what is counted, what the progress line shows, who is warned."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from realness.data_pipeline import Catalog, ImageStream, open_catalog
from realness.data_pipeline.decoding.starvation import StarvationWatch
from realness.trainer.run.throughput import Pace
from tests.helpers.data_images import image_files, write_folder
from tests.helpers.streams import stream_of

READ_SECONDS = 0.01


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """A set on a disk that takes 10 ms an image."""
    catalog = open_catalog(write_folder(tmp_path, image_files(24)))
    read = Catalog.read

    def slow_read(self: Catalog, index: int) -> bytes:
        time.sleep(READ_SECONDS)
        return read(self, index)

    monkeypatch.setattr(Catalog, "read", slow_read)
    return catalog


def open_stream(catalog: Catalog, batch: int, purpose: int = 1) -> ImageStream:
    return stream_of(
        catalog, resolution=32, global_batch=batch, seed=7, purpose=purpose, mirror=True,
        decoder="threads", decode_threads=1, prefetch=1,
    )  # fmt: skip


@pytest.fixture
def stream(slow: Catalog) -> Iterator[ImageStream]:
    with open_stream(slow, 8) as stream:
        yield stream


def test_wait_seconds_is_the_time_the_consumer_waited(stream: ImageStream) -> None:
    started = time.perf_counter()
    for _ in range(4):
        next(stream)
    elapsed = time.perf_counter() - started
    starved = stream.wait_seconds
    # One thread at 10 ms an image: a consumer that does nothing waits nearly all the time.
    assert 0.8 * elapsed < starved <= elapsed
    time.sleep(0.5)
    next(stream)
    assert stream.wait_seconds - starved < 0.05


def test_progress_line_shows_the_share_of_the_time_waited(
    slow: Catalog, stream: ImageStream
) -> None:
    """Batches take 80 ms to read beside steps of 40 ms: about half of the time is spent waiting."""
    pace = Pace(slow, [stream])
    next(stream)
    pace.read(0)
    started, waited = time.perf_counter(), 0.0
    for _ in range(10):
        time.sleep(4 * READ_SECONDS)
        asked = time.perf_counter()
        next(stream)
        waited += time.perf_counter() - asked
        pace.add(8)
    shown = pace.read(0)["data_wait_percent"]
    assert shown == pytest.approx(100 * waited / (time.perf_counter() - started), abs=2)
    assert 30 < shown < 90
    # A step longer than the reading waits for nothing.
    for _ in range(3):
        time.sleep(0.2)
        next(stream)
    assert pace.read(0)["data_wait_percent"] < 10


def test_a_starved_run_says_so_once(
    slow: Catalog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(StarvationWatch, "WINDOW_SECONDS", 0.3)
    monkeypatch.setattr(StarvationWatch, "WINDOW_BATCHES", 3)
    for purpose in (1, 2):
        with open_stream(slow, 4, purpose) as stream:
            for _ in range(20):
                next(stream)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "waits for data" in message
    assert "--format raw" in message


@pytest.mark.parametrize(("waited", "warned"), [(0.15, 0), (0.25, 1)])
def test_starvation_is_a_share_of_the_time_after_the_first_batches(
    monkeypatch: pytest.MonkeyPatch, waited: float, warned: int
) -> None:
    """Steps of one second, each waiting `waited` of it, after a start of 100 s of waiting."""
    now = 0.0
    monkeypatch.setattr("realness.data_pipeline.decoding.starvation.time.perf_counter", lambda: now)
    messages: list[str] = []
    watch = StarvationWatch(messages.append, "help", num_first=3)
    now = total = 100.0
    for _ in range(40):
        watch.look(total)
        now, total = now + 1.0, total + waited
    assert len(messages) == warned
    assert messages == [f"training waits for data {waited:.0%} of the time; help"] * warned
