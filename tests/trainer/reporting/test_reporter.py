"""Reporting: the reporter as a whole, the progress line, the environment."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from realness.trainer.reporting import (
    Reporter,
    describe_environment,
    read_stats,
    write_environment,
)
from realness.trainer.reporting import reporter as reporter_module
from realness.trainer.reporting.faults import FaultLog
from realness.trainer.reporting.progress import ProgressLine, duration, fields
from realness.trainer.reporting.realness import Realness
from tests.helpers.reporting_runs import captured_console, run_python

RECORD = {
    "images": 6400,
    "img_per_s": 71.25,
    "eta_s": 7384.0,
    "loss_d": 5.1,
    "loss_g": -1.25,
    "score_real": 0.31,
    "score_fake": -0.2,
    "r1": 0.051,
    "memory_gib": 3.2,
    "gpu_memory_gib": 61.5,
    "data_wait_percent": 1.25,
    "bad_images": 2,
}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *[(0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (425, "7m05s"), (12000, "3h20m")],
        *[(187200, "2d04h"), (math.inf, "?"), (math.nan, "?"), (-1, "?")],
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_progress_fields() -> None:
    assert fields(RECORD, 640_000) == [
        "6.4 / 640 kimg (1.0%)",
        "71.2 img/s",
        "ETA 2h03m",
        "loss D 5.100 G -1.250",
        "score real +0.31 fake -0.20",
        "R1 0.051",
        "61.5 GiB",
        "data wait 1.2%",
        "2 bad images",
    ]
    assert fields({"images": 10}, 200) == ["10 / 200 images (5.0%)"]


@pytest.mark.parametrize("width", [30, 80, 120, 200])
def test_progress_never_wraps_on_a_terminal(width: int) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=width, _environ={"TERM": "xterm"})
    line = ProgressLine(640_000, console)
    line.update(RECORD)
    line.message("[red]taken literally[/red]")
    line.update(RECORD)
    line.close()
    drawn = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue()))
    assert all(len(row) < width for row in drawn)
    assert sum(row.startswith("6.4 / 640 kimg (1.0%)") for row in drawn) >= 2
    assert "[red]taken literally[/red]" in text.getvalue()


def test_progress_is_sparse_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("realness.trainer.reporting.progress.time.monotonic", lambda: clock[0])
    console, text = captured_console()
    line = ProgressLine(1000, console)
    for images in range(1, 21):
        line.update({"images": images})
        clock[0] += 1.0
    line.close()
    shown = [int(row.split(" ")[0]) for row in text.getvalue().splitlines()]
    assert shown == [1, 6, 11, 16, 20]


def _write_to_a_full_disk(reporter: Reporter) -> None:
    with reporter.hold("metrics.csv", "the scores are lost."):
        raise OSError(errno.ENOSPC, "No space left on device")


CALLS: dict[str, Callable[[Reporter], object]] = {
    "log": lambda reporter: reporter.log({}),
    "log_scores": lambda reporter: reporter.log_scores(1, {"FID": 1.0}, 2.0),
    "save_grid": lambda reporter: reporter.save_grid(torch.zeros(0), "x"),
    "save_realness": lambda reporter: reporter.save_realness(
        Realness(1, [0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5])
    ),
    "working": lambda reporter: reporter.working("x"),
    "hold": _write_to_a_full_disk,
    "message": lambda reporter: reporter.message("x"),
    "warn": lambda reporter: reporter.warn("x"),
    "write_report": lambda reporter: reporter.write_report(),
    "close": lambda reporter: reporter.close(),
}


@pytest.mark.parametrize("name", [name for name in vars(Reporter) if not name.startswith("_")])
def test_a_disabled_reporter_does_nothing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In every public method, before and after it is closed."""
    reporter = Reporter(tmp_path / "run", total_images=1000, enabled=False)
    assert CALLS[name](reporter) is None
    reporter.close()
    assert CALLS[name](reporter) is None
    assert os.listdir(tmp_path) == []
    assert capsys.readouterr() == ("", "")


def test_a_disabled_reporter_runs_the_block_that_it_holds(tmp_path: Path) -> None:
    """Only disk errors are suppressed: an error in the program still ends the run."""
    reporter = Reporter(tmp_path / "run", total_images=1000, enabled=False)
    with pytest.raises(ZeroDivisionError), reporter.hold("metrics.csv", "they are lost."):
        raise ZeroDivisionError


def test_a_fault_in_the_report_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run_dir: Path) -> Path:
        raise ZeroDivisionError(f"while drawing {run_dir.name}")

    monkeypatch.setattr(reporter_module, "write_report", broken)
    console, text = captured_console()
    reporter = Reporter(tmp_path, total_images=10, console=console)
    assert reporter.write_report() is None
    reporter.close()
    assert "report.html was not written" in text.getvalue()
    assert "ZeroDivisionError: while drawing" in text.getvalue()


def test_reporter_clears_what_a_killed_one_staged(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / ".ema-1.png.123.tmp").write_bytes(b"half a picture")
    Reporter(tmp_path, total_images=10, console=captured_console()[0]).close()
    assert os.listdir(tmp_path / "samples") == []


def test_environment_names_versions_without_importing_them(tmp_path: Path) -> None:
    done = run_python(
        "import sys; from pathlib import Path\n"
        "from realness.trainer.reporting import write_environment\n"
        "write_environment(Path(sys.argv[1]), num_ranks=4)\n"
        "print([name for name in ('deepspeed', 'nvidia.dali', 'PIL._imagingtk')"
        " if name in sys.modules])",
        tmp_path,
    )
    assert done.stdout.strip() == "[]", done.stderr
    written = json.loads((tmp_path / "environment.json").read_text())
    assert written["num_ranks"] == 4
    assert written["torch"] == torch.__version__
    assert written["python"] == ".".join(map(str, sys.version_info[:3]))
    assert written["cpu_cores"] == len(os.sched_getaffinity(0))
    assert len(written["devices"]) == torch.cuda.device_count()
    assert written.keys() == describe_environment().keys()


def test_environment_knows_the_commit_only_of_its_own_checkout(tmp_path: Path) -> None:
    from realness.trainer.storage.environment import _commit

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    tracked, installed = tmp_path / "trainer", tmp_path / "venv"
    for folder in (tracked, installed):
        folder.mkdir()
        (folder / "a.py").write_text("1\n")
    assert _commit(tracked) is None
    git("init", "-q")
    git("add", "trainer")
    git("commit", "-q", "-m", "x")
    commit = git("rev-parse", "HEAD")
    assert _commit(tracked) == commit
    assert _commit(installed) is None
    (tracked / "a.py").write_text("2\n")
    assert _commit(tracked) == f"{commit}+changes"


def test_environment_is_written_whole(tmp_path: Path) -> None:
    assert write_environment(tmp_path, num_ranks=2)["num_ranks"] == 2
    assert os.listdir(tmp_path) == ["environment.json"]


DISK_FAILS_FOR_REAL = """
import io, json, resource, sys, torch
from pathlib import Path
from rich.console import Console
from realness.trainer.reporting import Reporter
text = io.StringIO()
run = Path(sys.argv[1])
(run / "config.json").write_text("{}")
reporter = Reporter(run, total_images=1000, console=Console(file=text, soft_wrap=True))
reporter.log({"images": 1, "loss_d": 0.5})
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (40, unlimited[1]))  # no file may pass 40 bytes
for images in range(2, 6):
    reporter.log({"images": images, "loss_d": 0.5})
    reporter.save_grid(torch.zeros(4, 3, 32, 32), f"ema-{images}")
    assert reporter.write_report() is None
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
reporter.log({"images": 6, "loss_d": 0.5})
reporter.save_grid(torch.zeros(4, 3, 32, 32), "ema-6")
assert reporter.write_report() == run / "report.html"
reporter.close()
print(text.getvalue())
"""


def test_training_goes_on_without_disk_and_recovers(tmp_path: Path) -> None:
    done = run_python(DISK_FAILS_FOR_REAL, tmp_path)
    assert done.returncode == 0, done.stderr
    for output in ("stats.jsonl", "sample grids", "report.html"):
        assert done.stdout.count(f"WARNING: cannot write {output}: File too large") == 1
        assert done.stdout.count(f"Writing {output} works again") == 1
    assert [r["images"] for r in read_stats(tmp_path / "stats.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["ema-6.png"]


def test_faults_are_said_once_each_and_bugs_are_not_held() -> None:
    said: list[str] = []
    faults = FaultLog(said.append)
    for _ in range(3):
        with faults.hold("a", "it waits."):
            raise OSError(28, "No space left on device")
    assert said == [
        "WARNING: cannot write a: No space left on device. Training continues; it waits."
    ]
    assert faults.broken("a")
    for _ in range(2):
        with faults.hold("a", "it waits."):
            pass
    assert said[1:] == ["Writing a works again."]
    with pytest.raises(ZeroDivisionError), faults.hold("a", "it waits."):
        raise ZeroDivisionError
