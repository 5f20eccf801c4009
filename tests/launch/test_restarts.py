"""`--max-restarts`: a rank that fails is restarted and resumes from the last checkpoint."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from realness.launch import restarts
from realness.launch.restarts import supervise
from realness.trainer.config import ConfigError
from realness.trainer.distributed.exit_codes import EXIT_OK, EXIT_STOPPED
from realness.trainer.distributed.signals import STOP_SIGNALS
from tests.helpers.handlers import handlers_restored
from tests.helpers.ranks import (
    TIMEOUT_SECONDS,
    finish,
    start_training,
    tiny_arguments,
    write_images,
)

COUNT = """
from pathlib import Path
runs = Path({file!r})
n = len(runs.read_text())
runs.write_text("x" * (n + 1))
"""


def counting(tmp_path: Path, then: str) -> tuple[list[str], Path]:
    """A command that counts its runs in a file and then runs `then`, which knows the count n."""
    file = tmp_path / "runs"
    file.write_text("")
    return [sys.executable, "-c", COUNT.format(file=str(file)) + then], file


@pytest.fixture(autouse=True)
def supervisor_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shortens the waiting times, and removes the signal handlers afterwards."""
    monkeypatch.setattr(restarts, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(restarts, "LOOK_SECONDS", 0.05)
    with handlers_restored():
        yield


def test_it_gives_up_after_the_failures_allowed(tmp_path: Path) -> None:
    command, runs = counting(tmp_path, "exit(3)")
    assert supervise(command, 2, tmp_path, silence_s=60) == 3
    assert len(runs.read_text()) == 3


def test_a_new_checkpoint_sets_the_count_back(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    pointer = tmp_path / "checkpoints" / "latest"
    progress = f"if n < 4: Path({str(pointer)!r}).write_text(str(n))\nexit(3)"
    command, runs = counting(tmp_path, progress)
    assert supervise(command, 1, tmp_path, silence_s=60) == 3
    # Four runs with progress, the last of them the first of two failures in a row.
    assert len(runs.read_text()) == 5


@pytest.mark.parametrize("code", [0, 2, 75])
def test_what_a_repetition_would_not_change_is_not_repeated(tmp_path: Path, code: int) -> None:
    command, runs = counting(tmp_path, f"exit({code})")
    assert supervise(command, 5, tmp_path, silence_s=60) == code
    assert len(runs.read_text()) == 1


def test_a_process_without_a_sign_of_life_is_killed(tmp_path: Path) -> None:
    # The second run sends no heartbeat, so that it does not end late on a busy machine.
    beat = "import os, time; os.write(int(os.environ['REALNESS_SUPERVISOR_PIPE']), b'.')"
    command, runs = counting(tmp_path, f"if n == 0:\n    {beat}; time.sleep(600)")
    assert supervise(command, 1, tmp_path, silence_s=1.0) == EXIT_OK
    assert len(runs.read_text()) == 2


SIGNAL_TO_PARENT = """
import os, signal, time
signal.signal({number}, {handler})
os.kill(os.getppid(), {number})
time.sleep(600)
"""


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_requests_to_stop_are_passed_on(tmp_path: Path, number: signal.Signals) -> None:
    handler = "lambda *_: os._exit(75)"
    then = SIGNAL_TO_PARENT.format(number=int(number), handler=handler)
    command, runs = counting(tmp_path, then)
    assert supervise(command, 5, tmp_path, silence_s=60) == EXIT_STOPPED
    assert len(runs.read_text()) == 1


def test_a_process_that_has_no_handlers_yet_was_stopped_too(tmp_path: Path) -> None:
    then = SIGNAL_TO_PARENT.format(number=int(signal.SIGTERM), handler="signal.SIG_DFL")
    command, runs = counting(tmp_path, then)
    assert supervise(command, 5, tmp_path, silence_s=60) == EXIT_STOPPED
    assert len(runs.read_text()) == 1


def test_torchrun_restarts_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    with pytest.raises(ConfigError, match="torchrun"):
        supervise(["true"], 1, tmp_path, silence_s=60)


@pytest.mark.slow
def test_a_killed_rank_is_started_again_and_the_run_completes(tmp_path: Path) -> None:
    data, run_dir = write_images(tmp_path / "images"), tmp_path / "run"
    intervals = ("--checkpoint-kimg", "0.08", "--total-kimg", "0.32")
    arguments = tiny_arguments(data, run_dir, *intervals, "--max-restarts", "1")
    ranks = start_training(arguments, 2)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (run_dir / "checkpoints" / "latest").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (training,) = psutil.Process(ranks[1].pid).children()
    training.kill()
    codes, output = finish(ranks)
    assert codes == [EXIT_OK, EXIT_OK], output
    assert "restart 1 of 1" in output
    assert "resuming at" in output
    records = [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]
    assert [record["images"] for record in records] == list(range(8, 321, 8))
