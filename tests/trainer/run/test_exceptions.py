"""What an exception leaves: a checkpoint, if it comes between two iterations of one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from realness.data_pipeline import DataError, ImageStream
from realness.trainer.distributed.exit_codes import EXIT_FAILED, EXIT_OK
from tests.helpers.ranks import run_command, tiny_arguments, write_images

LENGTHS = ("--total-kimg", "0.08", "--device", "cpu")


def lose_the_images(num_batches: int) -> None:
    """From now on, streams return so many batches together, and then fail."""
    get, left = ImageStream.__next__, [num_batches]

    def get_or_fail(self: ImageStream) -> torch.Tensor:
        if left[0] == 0:
            raise DataError("the disk has gone")
        left[0] -= 1
        return get(self)

    ImageStream.__next__ = get_or_fail


# The grid of real images takes one batch, and an iteration two: for D, and for G.
def fail_between_iterations() -> None:
    lose_the_images(1 + 2 * 5)


def fail_within_an_iteration() -> None:
    lose_the_images(1 + 2 * 5 + 1)


@pytest.mark.slow
def test_only_whole_iterations_are_saved(tmp_path: Path) -> None:
    data = write_images(tmp_path / "images")
    within = tiny_arguments(data, tmp_path / "within", *LENGTHS)
    assert run_command(within, fail_within_an_iteration) == EXIT_FAILED
    assert not (tmp_path / "within" / "checkpoints" / "latest").exists()

    between = tiny_arguments(data, tmp_path / "between", *LENGTHS)
    assert run_command(between, fail_between_iterations) == EXIT_FAILED
    pointer = tmp_path / "between" / "checkpoints" / "latest"
    assert pointer.read_text() == f"{40:012d}\n"

    straight = tiny_arguments(data, tmp_path / "straight", *LENGTHS)
    assert run_command(between) == run_command(straight) == EXIT_OK
    manifests = [
        json.loads((tmp_path / name / "checkpoints" / f"{80:012d}" / "checkpoint.json").read_text())
        for name in ("between", "straight")
    ]
    assert manifests[0] == manifests[1]
