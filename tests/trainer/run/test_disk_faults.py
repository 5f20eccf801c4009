"""A disk that becomes full, or read-only, during a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from realness.trainer import checkpoint
from tests.helpers import ROOT, disk_faults
from tests.helpers.disk_faults import FILLED, FREED, MADE_READ_ONLY, MADE_WRITABLE, TOTAL
from tests.helpers.ranks import TIMEOUT_SECONDS, run_command, write_images

pytestmark = pytest.mark.slow


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[tuple[float, ...]]:
    return [(r["images"], r["loss_d"], r["loss_g"]) for r in records(run)]


def can_mount() -> bool:
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not can_mount(), reason="needs mount namespaces: unshare -rm")
def test_training_outlives_a_full_and_a_read_only_disk(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    assert run_command(disk_faults.arguments(tmp_path, "good")) == 0
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-m", disk_faults.__name__, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    output = " ".join(done.stdout.split())  # the console wraps lines
    assert done.returncode == 0, done.stdout
    codes = [line for line in done.stdout.splitlines() if line.startswith("EXIT")]
    assert codes == ["EXIT 0", "EXIT 1", "EXIT 0"], done.stdout

    passing, lasting = output.split("EXIT 0")[:2]
    for reason, begin, end in (
        ("No space left on device", FILLED, FREED),
        ("Read-only file system", MADE_READ_ONLY, MADE_WRITABLE),
    ):
        said = passing.count("NO CHECKPOINT"), passing.count(reason)
        assert min(said) > 0, done.stdout
        attempts = (end - begin) / 16 + 2
        assert passing.count(reason) <= attempts + 4, "not at most once a logging interval"
    assert passing.count("saving works again") == 2, done.stdout
    assert "ended without a checkpoint of the last images" in lasting

    good = tmp_path / "good"
    for name in ("passing-after", "lasting-after"):
        run = tmp_path / name
        assert losses(run) == losses(good)
        assert (run / "checkpoints" / "latest").read_text() == f"{TOTAL:012d}\n"
        last = Path("checkpoints", f"{TOTAL:012d}")
        assert checkpoint.read_manifest(run / last) == checkpoint.read_manifest(good / last)
        assert not list((run / "checkpoints").glob(".staging*"))
        assert (run / "report.html").exists()
