"""A run folder written by version 0.1.0, at commit fef951f, resumes with the current code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import DATA
from tests.helpers.ranks import finish, start_training, tiny_arguments

pytestmark = pytest.mark.slow

OLD = DATA / "run_0_1_0"
"""A run on 2 ranks at ZeRO 2, 8 images per iteration: its only checkpoint is the one at 32 images,
and stats.jsonl holds what the same process logged from there to 64."""

RESUMED_AT = 32
NUMBERS = ("loss_d", "loss_g", "r1", "score_real", "score_fake")

TOLERANCE = 32 * float(np.finfo(np.float32).eps)
"""An update passes through 16 layers (4 of G and 4 of D, forward and backward). Another order of
the sums may change the numbers, which are near 1, by one epsilon per layer, and the numbers logged
depend on two updates each.

Measured: 7e-8. With the optimisers' moments set to zero: 1e-5 after one iteration, 1e-2 after four.
"""


def read_records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_run_folder_of_version_0_1_0_resumes(tmp_path: Path, num_ranks: int) -> None:
    run = shutil.copytree(OLD, tmp_path / "run")
    expected = read_records(OLD)
    lengths = ("--total-kimg", "0.064", "--checkpoint-kimg", "0.032", "--sample-kimg", "0.032")
    options = ("--zero-g", "2", "--zero-d", "2", "--r1-gamma", "1")
    arguments = tiny_arguments(run / "images.zip", run, *lengths, *options)
    codes, output = finish(start_training(arguments, num_ranks))

    assert codes == [0] * num_ranks, output
    assert "at 0.0 kimg" in output
    assert "starting a new run" not in output
    found = read_records(run)
    old = [record for record in expected if record["images"] <= RESUMED_AT]
    assert found[: len(old)] == old, "the records before the checkpoint were not kept"
    assert [record["images"] for record in found] == [record["images"] for record in expected]
    for record, recorded in zip(found[len(old) :], expected[len(old) :], strict=True):
        for name in NUMBERS:
            assert record[name] == pytest.approx(recorded[name], rel=0, abs=TOLERANCE), (
                record["images"],
                name,
            )
