"""Time spent waiting for a core: the kernel's counters, and the advice given on a busy machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from realness.trainer.run.contention import BUSY, MIN_SECONDS, BusyAdvice, CoreWaits


def write_times(tasks: Path, **threads: tuple[int, int]) -> None:
    for name, (ran, waited) in threads.items():
        (tasks / name).mkdir(exist_ok=True)
        (tasks / name / "schedstat").write_text(f"{ran} {waited} 7\n")


def test_the_share_is_that_of_all_threads_since_the_last_read(tmp_path: Path) -> None:
    write_times(tmp_path, a=(1000, 500), b=(2000, 0))
    waits = CoreWaits(tmp_path)
    assert waits.read() == 0
    # 300 + 100 ns on a core and 100 + 0 ns waiting; c is new, and all of its times count.
    write_times(tmp_path, a=(1300, 600), b=(2100, 0))
    assert waits.read() == pytest.approx(100 / 500)
    write_times(tmp_path, a=(1300, 600), b=(2100, 0), c=(10, 30))
    assert waits.read() == pytest.approx(30 / 40)


def test_a_kernel_without_the_counters_reports_no_waiting(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    waits = CoreWaits(tmp_path)
    assert waits.read() == 0
    (tmp_path / "a" / "schedstat").write_text("unknown\n")
    assert waits.read() == 0


def test_advice_is_given_once_and_only_for_a_machine_that_stays_busy() -> None:
    advice = BusyAdvice()
    times = [MIN_SECONDS * k for k in range(1, 8)]
    shares = [BUSY + 0.1, 0.0, BUSY + 0.1, BUSY + 0.1, BUSY + 0.1, 0.9, 0.9]
    given = [advice.advise(share, time) for share, time in zip(shares, times, strict=True)]
    assert [text is not None for text in given] == [False] * 3 + [True] + [False] * 3
    assert given[3] is not None
    assert "40% of the time" in given[3]
    assert "OMP_NUM_THREADS" in given[3]


def test_short_intervals_are_added_up() -> None:
    """Records may follow each other within milliseconds; a share of these means little."""
    advice = BusyAdvice()
    given = [advice.advise(k % 2, MIN_SECONDS * k / 10) for k in range(1, 31)]
    assert [k for k, text in enumerate(given, start=1) if text] == [20]
