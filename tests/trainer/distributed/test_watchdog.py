"""A rank that fails, hangs or dies ends the run on all ranks, and the message names it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from realness.trainer.distributed.exit_codes import EXIT_FAILED, EXIT_STOPPED, killed_by
from realness.trainer.distributed.heartbeats import Heartbeats, MainThread, Report
from tests.helpers import TESTS
from tests.helpers.ranks import (
    TIMEOUT_SECONDS,
    finish,
    start_training,
    tiny_arguments,
    write_images,
)
from tests.helpers.standing_training import StandingRanks

FAILING = TESTS / "helpers" / "failing_training.py"


def report(beat: int, place: str = "", still_s: float = 0.0) -> Report:
    return Report(beat, place, still_s)


def test_a_silent_rank_is_named_with_its_last_place() -> None:
    heartbeats = Heartbeats(silence_s=10, stall_s=100)
    heartbeats.record([report(0), report(0, "trainer.step, line 7")], now=0)
    heartbeats.record([report(1), report(1, "trainer.step, line 9")], now=5)
    heartbeats.record([report(2), report(1, "trainer.step, line 9")], now=14)
    assert heartbeats.diagnose(15) == ""
    verdict = heartbeats.diagnose(15.5)
    assert "rank 1 " in verdict
    assert "trainer.step, line 9" in verdict
    assert "rank 0" not in verdict


def test_silence_while_the_watching_process_slept_is_not_counted() -> None:
    heartbeats = Heartbeats(silence_s=10, stall_s=100)
    heartbeats.record([report(0), report(0)], now=0)
    heartbeats.reset_silence(50)
    assert heartbeats.diagnose(55) == ""
    assert "rank 0" in heartbeats.diagnose(61)


def test_a_stall_needs_every_rank_to_stand_still() -> None:
    heartbeats = Heartbeats(silence_s=10, stall_s=100)
    heartbeats.record([report(0, "step", 101), report(0, "decode", 3)], now=0)
    assert heartbeats.diagnose(1) == ""
    heartbeats.record([report(1, "step", 104), report(1, "decode", 101)], now=2)
    assert "rank 0: step; rank 1: decode" in heartbeats.diagnose(3)


def test_a_thread_moves_when_any_of_its_frames_does() -> None:
    thread = MainThread()

    def look(now: float) -> float:
        return thread.locate(sys._getframe(), now)[1]

    # Two calls of one function: the same code, from two places.
    assert [look(1.0), look(2.0)] == [0.0, 0.0]
    assert [look(now) for now in (5.0, 9.0)] == [0.0, 4.0]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


def start(images: Path, folder: Path) -> list[subprocess.Popen[str]]:
    arguments = tiny_arguments(images, folder / "run", "--rank-timeout-s", "40")
    folder.mkdir()
    return start_training([*arguments, "--total-kimg", "1000"], 2, folder / "log")


def wait_for_training(folder: Path) -> None:
    stats, deadline = folder / "run" / "stats.jsonl", time.monotonic() + TIMEOUT_SECONDS
    while not stats.is_file() or len(stats.read_text().splitlines()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_stopped_rank_ends_the_run_and_is_named(images: Path, tmp_path: Path) -> None:
    """Rank 0 hosts the rendezvous store, so losing it is a separate case."""
    runs = [start(images, tmp_path / str(victim)) for victim in (0, 1)]
    try:
        for victim, ranks in enumerate(runs):
            wait_for_training(tmp_path / str(victim))
            ranks[victim].send_signal(signal.SIGSTOP)
        for victim, ranks in enumerate(runs):
            assert ranks[1 - victim].wait(timeout=TIMEOUT_SECONDS) == EXIT_FAILED
    finally:
        for rank in (rank for ranks in runs for rank in ranks):
            rank.kill()
            rank.wait()
    for victim in (0, 1):
        log = (tmp_path / str(victim) / "log").read_text()
        said = [line for line in log.splitlines() if f"rank {victim} " in line]
        assert said, log
        assert "stopped or lost" in said[-1]


@pytest.mark.slow
def test_from_the_rendezvous_on_nobody_outlives_a_lost_rank_or_a_stop(
    images: Path, tmp_path: Path
) -> None:
    """All ranks sleep for longer than the test, so none notices by itself.

    The rank that is killed, or gets SIGTERM; the place; the ranks started; the codes expected.
    """
    cases = {
        "rank 1 is killed": ("build", 2, 1, signal.SIGKILL, [EXIT_FAILED, -9]),
        "rank 0 is killed": ("check", 2, 0, signal.SIGKILL, [-9, EXIT_FAILED]),
        "rank 1 is stopped": ("build", 2, 1, signal.SIGTERM, [EXIT_STOPPED, EXIT_STOPPED]),
        "rank 1 is missing": ("rendezvous", 1, 0, signal.SIGTERM, [EXIT_STOPPED]),
    }
    runs = {
        name: StandingRanks(images, tmp_path / name, place, num_started, 2)
        for name, (place, num_started, *_) in cases.items()
    }
    for name, (_, _, victim, number, _) in cases.items():
        runs[name].wait()
        os.kill(runs[name].pid(victim), number)
    for name, (_, _, victim, number, codes) in cases.items():
        run = runs[name]
        assert run.codes() == codes, (name, run.output())
        if number == signal.SIGKILL:
            lost = ("rank 0 at 127.0.0.1 has ended", "rank 1 was killed or has crashed")[victim]
            assert lost in run.output(), name
        else:
            assert "was stopped (SIGTERM) before training" in run.output(), name


@pytest.mark.slow
def test_a_second_sigterm_does_not_wait_for_an_update(images: Path, tmp_path: Path) -> None:
    run = StandingRanks(images, tmp_path / "run", "update", 1, 1)
    run.wait()
    while run.codes(patience_s=0.2) == [None]:
        os.kill(run.pid(0), signal.SIGTERM)
    assert run.codes() == [killed_by(signal.SIGTERM)]
    assert "a second SIGTERM" in run.output()


@pytest.mark.slow
def test_an_exception_on_one_rank_ends_all_with_its_traceback_alone(
    images: Path, tmp_path: Path
) -> None:
    arguments = tiny_arguments(images, tmp_path / "run", "--total-kimg", "1000")
    codes, output = finish(start_training(arguments, 2, program=FAILING))
    assert codes == [EXIT_FAILED, EXIT_FAILED]
    assert output.count("Traceback (most recent call last)") == 1
    assert "rank 1 failed:\nTraceback" in output
    assert "error: rank 1 failed: ValueError: the cat sat on the machine" in output
