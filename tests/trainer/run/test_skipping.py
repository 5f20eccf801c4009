"""Losses that are not finite: every rank skips the update, and a run recovers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from realness.trainer.config import EngineConfig, TrainConfig
from realness.trainer.distributed.exit_codes import EXIT_FAILED, EXIT_OK
from realness.trainer.distributed.ranks import rank
from realness.trainer.run.averages import Averages
from realness.trainer.updates import iteration
from realness.trainer.updates.sharded_gan import build_gan
from realness.trainer.updates.step import update_d, update_g
from tests.helpers.ranks import run_command, run_on_ranks, tiny_arguments, write_images
from tests.helpers.systems import BATCH, systems


class Spoiled:
    """An objective whose D loss is NaN, and G loss infinite, on one rank."""

    def __init__(self, objective: Any) -> None:
        self._objective = objective

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)

    def d_loss(self, *outputs: Any) -> Tensor:
        return self._objective.d_loss(*outputs) * (math.nan if rank() == 1 else 1)

    def g_loss(self, *outputs: Any) -> Tensor:
        return self._objective.g_loss(*outputs) * (math.inf if rank() == 1 else 1)


def play(config: TrainConfig) -> dict[str, Any]:
    """A good update, a bad one and a good one; weights after each, and the counted skips."""
    gan = build_gan(config, torch.device("cpu"))
    spoiled = replace(gan, objective=Spoiled(gan.objective))
    real = torch.rand(gan.local_batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    weights = []
    for step, current in enumerate((gan, spoiled, gan)):
        update_d(current, real, step * BATCH)
        update_g(current, real, step * BATCH)
        weights.append([])
        for engine in (gan.d, gan.g):
            with engine.weights_gathered():
                weights[-1] += [w.detach().numpy().copy() for w in engine.module.parameters()]
    updates, skips = gan.num_updates(), (gan.d.skips.read(), gan.g.skips.read())
    gan.close()
    return {"weights": weights, "updates": updates, "skips": skips}


@pytest.mark.slow
@pytest.mark.parametrize("stages", [(0, 0), (1, 2), (3, 3)])
@pytest.mark.parametrize("clip", [0.0, 0.1])
def test_every_rank_leaves_the_update_out(stages: tuple[int, int], clip: float) -> None:
    config = systems()["realness"]
    config = replace(
        config,
        engine=EngineConfig(zero_g=stages[0], zero_d=stages[1], device="cpu"),  # type: ignore[arg-type]
        optimizer=replace(config.optimizer, clip_grad_norm=clip),
    )
    for answer in run_on_ranks(2, play, config):
        before, skipped, after = answer["weights"]
        assert all(np.array_equal(a, b) for a, b in zip(before, skipped, strict=True))
        assert not any(np.array_equal(a, b) for a, b in zip(skipped, after, strict=True))
        assert all(np.isfinite(w).all() for w in after)
        assert answer["updates"] == {"G": 2, "D": 2}
        assert answer["skips"] == ((1, 0), (1, 0))


def test_rmsprop_leaves_the_update_out() -> None:
    for answer in run_on_ranks(2, play, systems()["0gp-sample"]):
        before, skipped, after = answer["weights"]
        assert all(np.array_equal(a, b) for a, b in zip(before, skipped, strict=True))
        assert all(np.isfinite(w).all() for w in after)


def test_means_are_of_the_finite_values() -> None:
    averages = Averages()
    for value in (1.0, math.nan, 3.0):
        averages.add({"loss": torch.tensor(value), "never": torch.tensor(math.inf)})
    means = averages.read()
    assert means["loss"] == 2
    assert math.isnan(means["never"])
    assert averages.read() == {}


def spoil(first: int, last: int, times: int) -> None:
    """NaN instead of real images from `first` to `last`, at most `times` times."""
    seen = [0]

    def train(gan: Any, real: Tensor, images: int, **named: Any) -> dict[str, Tensor]:
        if first <= images < last and seen[0] < times:
            seen[0] += 1
            real = torch.full_like(real, math.nan)
        return update_d(gan, real, images, **named)

    iteration.update_d = train  # type: ignore[assignment]


def spoil_once() -> None:
    spoil(160, 240, 5)


def spoil_always() -> None:
    spoil(160, 10**9, 10**9)


def run(folder: Path, prepare: Any) -> int:
    data = write_images(folder / "images")
    lengths = ("--total-kimg", "0.32", "--checkpoint-kimg", "0.08", "--max-skipped", "5")
    arguments = tiny_arguments(data, folder / "run", *lengths, "--resample", "none")
    return run_command([*arguments, "--device", "cpu"], prepare)


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = (folder / "run" / "stats.jsonl").read_text().splitlines()
    return [(record["images"], record["loss_d"]) for record in map(json.loads, lines)]


@pytest.mark.slow
def test_a_passing_fault_is_undone(tmp_path: Path) -> None:
    """A run that lost five updates returns to its checkpoint and ends as if it had lost none."""
    assert run(tmp_path / "good", None) == EXIT_OK
    assert run(tmp_path / "spoiled", spoil_once) == EXIT_OK
    assert losses(tmp_path / "spoiled") == losses(tmp_path / "good")


@pytest.mark.slow
def test_a_run_that_diverges_again_ends(tmp_path: Path) -> None:
    assert run(tmp_path, spoil_always) == EXIT_FAILED
    latest = tmp_path / "run" / "checkpoints" / "latest"
    assert latest.read_text().strip() == "000000000160"
