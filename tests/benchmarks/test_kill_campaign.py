"""benchmarks/kill_campaign.py: a short campaign, and that it detects losses."""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from tests.helpers import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    return importlib.import_module("kill_campaign")


@pytest.mark.slow
def test_nothing_is_lost_by_kills(kills: ModuleType, tmp_path: Path) -> None:
    """One kill of each kind, and one in each phase, over one run."""
    out = tmp_path / "out"
    tallies = kills.campaign(4, 1, tmp_path / "work", out, Console(quiet=True))
    assert [tally.kills for tally in tallies.values()] == [2, 1, 1]
    phases = {phase: sum(getattr(t, phase) for t in tallies.values()) for phase in kills.PHASES}
    assert sum(phases.values()) == 4
    assert phases["end"] == 1  # the others may pass into one another on a busy machine
    assert not out.exists(), [log.read_text() for log in out.iterdir()]
    assert [tally.runs_lost for tally in tallies.values()] == [0, 0, 0]
    assert [tally.images_lost for tally in tallies.values()] == [0, 0, 0]

    # It detects a record, a sample or a byte that differs.
    run = tmp_path / "work" / "straight"
    expected: dict[str, Any] = kills.outcome(run)
    assert len(expected["records"]) == kills.TOTAL // kills.BATCH
    kills.compare(kills.outcome(run), expected)
    for part, other in (("records", expected["records"][1:]), ("samples", b"")):
        with pytest.raises(kills.RunLost, match=f"its {part} differ"):
            kills.compare({**expected, part: other}, expected)
    share = next((run / "checkpoints" / f"{kills.TOTAL:012d}").glob("rank-*"))
    share.write_bytes(share.read_bytes()[:-1])
    with pytest.raises(kills.RunLost, match="not what its manifest says"):
        kills.verified_checkpoint(run)


def test_a_pointer_that_falls_back_counts_as_images_lost(
    kills: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`latest` was at 80 images before the kill, and is at 40 after it."""
    pointer = tmp_path / "checkpoints" / "latest"
    pointer.parent.mkdir()
    pointer.write_text("80")

    class Falling:
        def __init__(self, *_: Any) -> None:
            pass

        def is_running(self) -> bool:
            return True

        def kill(self, *_: Any) -> None:
            pointer.write_text("40")

        def finish(self) -> int:
            return -9

    monkeypatch.setattr(kills, "Attempt", Falling)
    monkeypatch.setattr(kills, "verified_checkpoint", kills.newest_checkpoint)
    monkeypatch.setattr(kills, "is_saving", lambda _: True)
    aim = ("launcher", "start_up", kills.Durations(0.0, 0.0))
    part = kills.kill_once([], tmp_path, tmp_path / "log", aim, random.Random(0))
    assert part == kills.Tally(kills=1, saving=1, images_lost=40, seconds=part.seconds)


def test_the_phase_is_that_of_this_attempt(
    kills: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records and lines of an attempt before it do not count."""
    log, stats = tmp_path / "log", tmp_path / "stats.jsonl"
    line = "8 / 640 images (1.2%)\n"
    log.write_text(line)
    stats.write_text('{"images": 640}\n')
    observer = kills.Observer(tmp_path, log)
    assert observer.phase() == "start_up"
    stats.write_text('{"images": 8}\n')
    log.write_text(line + line)
    assert observer.phase() == "training"
    with monkeypatch.context() as patched:
        patched.setattr(kills, "is_saving", lambda _: True)
        assert observer.phase() == "saving"
    stats.write_text('{"images": 8}\n{"images": 640}\n')
    assert observer.phase() == "end"
