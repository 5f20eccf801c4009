"""The memory of a run stays flat over hundreds of grids, reports, metrics and checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from realness.trainer.reporting.stats import read_stats
from tests.helpers.ranks import run_command, tiny_arguments, write_images

WARM_UP, ROUNDS = 60, 300
KIB_PER_ROUND = 20


@pytest.mark.slow
def test_memory_stays_flat_over_grids_metrics_and_checkpoints(tmp_path: Path) -> None:
    """Every iteration writes a record, a grid, a report, a score and a checkpoint."""
    data = write_images(tmp_path / "images", 16)
    each = [word for name in ("log", "sample", "metrics", "checkpoint") for word in
            (f"--{name}-kimg", "0.008")]  # fmt: skip
    length = ["--total-kimg", str(0.008 * (WARM_UP + ROUNDS)), "--metrics-images", "16"]
    arguments = tiny_arguments(data, tmp_path / "run", *each, *length, "--device", "cpu")
    assert run_command(arguments) == 0
    records = read_stats(tmp_path / "run" / "stats.jsonl")
    used_kib = np.array([item["memory_gib"] for item in records if "memory_gib" in item]) * 2**20
    assert len(used_kib) == WARM_UP + ROUNDS
    # Least values, because the allocator takes some MiB at times and returns them later.
    first, last = used_kib[WARM_UP : WARM_UP + 60].min(), used_kib[-60:].min()
    print(f"from {first:,.0f} to {last:,.0f} KiB")
    assert last - first < KIB_PER_ROUND * ROUNDS
