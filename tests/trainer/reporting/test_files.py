"""Reporting: statistics, events and grids as files, through kills, resumes and full disks."""

from __future__ import annotations

import io
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from realness.trainer.reporting import (
    Reporter,
    StatsLog,
    make_grid,
    read_stats,
    write_grid,
)
from realness.trainer.reporting.grid import layout
from realness.trainer.storage.files import atomic_writer
from tests.helpers.reporting_runs import captured_console, run_python


def test_stats_come_back_as_written(tmp_path: Path) -> None:
    log = StatsLog(tmp_path / "stats.jsonl")
    scalars: dict[str, Any] = {"own": torch.tensor(2.5), "np": np.float32(0.5)}
    log.append({"images": 64, "loss_d": 0.1, **scalars})
    log.append({"images": 128, "loss_d": math.nan, "loss_g": math.inf})
    log.close()
    assert read_stats(tmp_path / "stats.jsonl") == [
        {"images": 64, "loss_d": 0.1, "own": 2.5, "np": 0.5},
        {"images": 128, "loss_d": None, "loss_g": None},
    ]


def test_stats_are_strict_json(tmp_path: Path) -> None:
    log = StatsLog(tmp_path / "stats.jsonl")
    log.append({"images": 1, "loss_d": math.nan, "loss_g": -math.inf})
    log.close()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads((tmp_path / "stats.jsonl").read_text(), parse_constant=refuse)


def test_every_record_survives_sigkill(tmp_path: Path) -> None:
    done = run_python(
        "import os, signal, sys; from pathlib import Path\n"
        "from realness.trainer.reporting import StatsLog\n"
        "log = StatsLog(Path(sys.argv[1]))\n"
        "for i in range(1, 101): log.append({'images': i})\n"
        "os.kill(os.getpid(), signal.SIGKILL)",
        tmp_path / "stats.jsonl",
    )
    assert done.returncode == -signal.SIGKILL
    assert [record["images"] for record in read_stats(tmp_path / "stats.jsonl")] == [*range(1, 101)]


@pytest.mark.parametrize("torn", [b"", b'{"images": 500, "lo', b'{"images": 500', b"\0\0\0\0"])
def test_resume_cuts_back_to_the_checkpoint(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "stats.jsonl"
    lines = [json.dumps({"images": images}).encode() + b"\n" for images in (100, 200, 300, 400)]
    path.write_bytes(b"".join(lines) + torn)
    log = StatsLog(path, start_images=200)
    log.append({"images": 300, "again": 1})
    log.close()
    assert log.num_dropped == 2 + bool(torn)
    assert path.read_bytes() == b"".join(lines[:2]) + b'{"images": 300, "again": 1}\n'


def test_a_missing_line_end_is_repaired(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    path.write_bytes(b'{"images": 100}\n{"images": 200}')
    log = StatsLog(path, start_images=200)
    log.append({"images": 300})
    log.close()
    assert [record["images"] for record in read_stats(path)] == [100, 200, 300]


def test_a_new_run_drops_all_old_records(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    path.write_bytes(b'{"images": 100}\n')
    StatsLog(path).close()
    assert path.read_bytes() == b""


class FullDisk:
    """A raw file that takes `room` bytes and then fails like a full disk."""

    def __init__(self, file: io.FileIO, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        if self.room == 0:
            raise OSError(28, "No space left on device")
        taken = self.file.write(data[: self.room]) or 0
        self.room -= taken
        return taken

    def truncate(self, size: int) -> int:
        return self.file.truncate(size)

    def close(self) -> None:
        self.file.close()


def test_records_wait_while_the_disk_is_full(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    log = StatsLog(path)
    log.append({"images": 1})
    disk = FullDisk(log._file, room=7)
    log._file = disk  # type: ignore[assignment]
    for images in (2, 3):
        with pytest.raises(OSError, match="No space left"):
            log.append({"images": images})
    assert [record["images"] for record in read_stats(path)] == [1]
    disk.room = 10**6
    log.append({"images": 4})
    log.close()
    assert path.read_text() == "".join(f'{{"images": {images}}}\n' for images in (1, 2, 3, 4))


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    """The values that TensorBoard itself reads, after it purges orphaned steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, round(event.value, 5)) for event in events.Scalars(tag)]


def test_events_of_a_killed_run_are_hidden_on_resume(tmp_path: Path) -> None:
    reporter = Reporter(tmp_path, total_images=1000, console=captured_console()[0])
    for images in (100, 200, 300, 400):
        reporter.log({"images": images, "loss_d": 1.0, "fid": 5.0})
    reporter.close()
    reporter = Reporter(
        tmp_path, total_images=1000, start_images=200, console=captured_console()[0]
    )
    for images in (300, 500):
        reporter.log({"images": images, "loss_d": 2.0})
    reporter.close()
    folder = tmp_path / "tensorboard"
    assert scalars(folder, "loss/D") == [(100, 1.0), (200, 1.0), (300, 2.0), (500, 2.0)]
    assert scalars(folder, "other/fid") == [(100, 5.0), (200, 5.0)]


EVENTS_FAIL_FOR_REAL = """
import resource, sys, threading, time
from pathlib import Path
from realness.trainer.reporting import tensorboard
threading.excepthook = lambda _: None  # the writer's thread ends with a traceback
def fails(images):
    try:
        log.append({"images": images, "loss_d": images})
    except OSError:
        return True
    return False
log = tensorboard.EventLog(Path(sys.argv[1]))
before = fails(1)
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (60, unlimited[1]))  # no file may pass 60 bytes
during = fails(2)
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
too_soon = fails(3)
tensorboard.RETRY_SECONDS = 0.0
after = fails(4)
log.close()
print(before, during, too_soon, after)
"""


def test_events_start_a_new_file_after_a_failure(tmp_path: Path) -> None:
    done = run_python(EVENTS_FAIL_FOR_REAL, tmp_path)
    assert done.stdout.split() == ["False", "True", "True", "False"], done.stderr
    assert len(list(tmp_path.iterdir())) == 2
    assert scalars(tmp_path, "loss/D")[-1] == (4, 4.0)


@given(st.integers(1, 400))
def test_layout_holds_all_images_without_an_empty_row_or_column(num_images: int) -> None:
    rows, columns = layout(num_images)
    assert rows * columns >= num_images
    assert (rows - 1) * columns < num_images
    assert rows == 1 or columns <= num_images
    assert columns >= rows or num_images <= 2


@pytest.mark.parametrize(
    ("num_images", "expected"), [(1, (1, 1)), (16, (4, 4)), (32, (4, 8)), (64, (8, 8))]
)
def test_layout_of_usual_batches(num_images: int, expected: tuple[int, int]) -> None:
    assert layout(num_images) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_grid_tiles_are_the_images(dtype: torch.dtype) -> None:
    pixels = torch.randint(0, 256, (7, 3, 5, 9), generator=torch.Generator().manual_seed(0))
    images = (pixels.double() / 127.5 - 1).to(dtype).contiguous(memory_format=torch.channels_last)
    grid = np.asarray(make_grid(images))
    rows, columns = layout(7)
    assert grid.shape == (rows * 5, columns * 9, 3)
    for k in range(7):
        row, column = divmod(k, columns)
        tile = grid[row * 5 : row * 5 + 5, column * 9 : column * 9 + 9].astype(int)
        # bfloat16 has 8 bits of mantissa: half a grey level near 0, one near the ends.
        error = np.abs(tile - pixels[k].permute(1, 2, 0).numpy()).max()
        assert error <= (1 if dtype == torch.bfloat16 else 0)


def test_grid_clips_and_shows_nan_as_black() -> None:
    values = torch.tensor([-3.0, -1.0, 1.0, 3.0, math.nan, math.inf])
    grid = np.asarray(make_grid(values.view(1, 1, 1, 6).expand(1, 3, 1, 6)))
    assert grid[0, :, 0].tolist() == [0, 0, 255, 255, 0, 255]


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 1, 8, 8), (0, 3, 8, 8)])
def test_grid_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \[B, 3, H, W\], got \["):
        make_grid(torch.zeros(shape))


def test_a_grid_of_large_images_stays_small() -> None:
    done = run_python(
        "import resource, torch; from realness.trainer.reporting import make_grid\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "images = torch.rand(1, 3, 1024, 1024).expand(500, 3, 1024, 1024)\n"
        "make_grid(images[:1]); before = peak()\n"
        "print(make_grid(images).size, peak() - before)"
    )
    size, growth = done.stdout.rsplit(maxsplit=1)
    assert size == "(8192, 4096)", done.stderr
    # MiB. The canvas takes 128; all 500 images would take 1,500 as bytes and 6,000 as floats.
    assert float(growth) < 256


def test_grid_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "ema.png"
    write_grid(torch.zeros(4, 3, 8, 8), path, images_seen=1200)
    with Image.open(path) as image:
        assert (image.size, image.info["images_seen"]) == ((16, 16), "1200")
    before = path.read_bytes()

    def write_half() -> None:
        with atomic_writer(path) as file:
            file.write(b"half")
            raise KeyError("killed here")

    with pytest.raises(KeyError, match="killed here"):
        write_half()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["ema.png"]


def test_a_grid_names_its_rows() -> None:
    """Each tile is where its row says, beside a margin that holds the names."""
    images = torch.linspace(-1, 1, 6).view(6, 1, 1, 1).expand(6, 3, 16, 16)
    grid = np.asarray(make_grid(images, row_names=["cat", "dog\n"])).astype(int)
    margin = grid.shape[1] - 3 * 16
    assert margin > 12
    assert grid.shape[0] == 32
    assert len(np.unique(grid[:16, :margin])) > 1
    tiles = grid[:, margin:].reshape(2, 16, 3, 16, 3).transpose(0, 2, 1, 3, 4).reshape(6, -1)
    assert (tiles == np.round(np.linspace(0, 255, 6))[:, None]).all()
    capped = np.asarray(make_grid(images, 3 * 256, row_names=["cat", "dog"]))
    assert capped.shape[0] == 16
