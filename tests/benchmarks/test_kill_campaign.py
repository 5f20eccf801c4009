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
    """Two kills of each kind, over one run."""
    tallies = kills.campaign(6, 1, tmp_path / "work", Console(quiet=True))
    assert [tally.kills for tally in tallies.values()] == [2, 2, 2]
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
    monkeypatch.setattr(kills, "LATEST_KILL_SECONDS", 0.0)
    monkeypatch.setattr(kills, "verified_checkpoint", kills.newest_checkpoint)
    monkeypatch.setattr(kills, "is_saving", lambda _: True)
    part = kills.kill_once([], tmp_path, tmp_path / "log", "launcher", random.Random(0))
    assert part == kills.Tally(1, 1, 0, 40, 0, part.seconds)
