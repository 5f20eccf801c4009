"""Every system of the papers, with the same update code, on one rank and on several."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from realness.trainer.config import ConfigError, FakeAsRealConfig, TrainConfig, with_fields
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.randomness import Stream
from realness.trainer.updates.fake_as_real import lowest, lowest_over_ranks
from realness.trainer.updates.sharded_gan import build_gan
from realness.trainer.updates.step import update_d, update_g
from tests.helpers.labels import labels
from tests.helpers.plain_gan import ANOTHER_ORDER, ANOTHER_ORDER_LOSS
from tests.helpers.ranks import run_on_ranks
from tests.helpers.systems import BATCH, systems

STEPS = 3


def batch(gan: Any, stream: Stream, update: int, count: int) -> Tensor:
    """This rank's rows of a synthetic global batch of `count` images, as network input."""
    generator = torch.Generator().manual_seed(1000 * stream + update)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    rows = count // world_size()
    return gan.normalise(images[rank() * rows : (rank() + 1) * rows], stream, update * BATCH)


def play(config: TrainConfig) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Weights and last statistics after a few iterations."""
    # Adam's division turns rounding of near-zero gradients into steps of full size.
    config = with_fields(config, optimizer_eps=1e-3)
    gan = build_gan(config, torch.device("cpu"))
    k_d, k_g, stats = config.optimizer.k_d, config.optimizer.k_g, {}
    for step in range(STEPS):
        for update in range(step * k_d, (step + 1) * k_d):
            real = batch(gan, Stream.D_REAL, update, config.num_real)
            chosen = labels(gan, Stream.D_REAL, update, config.num_real)
            stats |= update_d(gan, real, update * BATCH, labels=chosen)
        for update in range(step * k_g, (step + 1) * k_g):
            needed = gan.objective.needs_real_in_g_step
            real = batch(gan, Stream.G_REAL, update, BATCH) if needed else None
            chosen = labels(gan, Stream.G_REAL, update, BATCH)
            stats |= update_g(gan, real, update * BATCH, labels=chosen)
    state = {
        f"{engine.name}/{name}": value.numpy().copy()
        for engine in (gan.g, gan.d)
        for name, value in engine.module.state_dict().items()
    }
    gan.close()
    return state, {name: value.item() for name, value in stats.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", systems())
def test_the_number_of_ranks_does_not_matter(name: str) -> None:
    config = systems()[name]
    # Adam's division turns rounding of near-zero gradients into steps of full size.
    config = with_fields(config, optimizer_eps=1e-3)
    [(expected, alone)] = run_on_ranks(1, play, config)
    ranks = run_on_ranks(2, play, config)
    for state, _ in ranks:
        for key, value in expected.items():
            if "relativistic" in name and key == "D/head.bias":
                continue  # it cancels in every pair, so that only rounding remains
            error = np.linalg.norm(state[key] - value) / (np.linalg.norm(value) + 1e-12)
            assert error < ANOTHER_ORDER, f"{key}: relative error {error:.1e}"
    for key, value in alone.items():
        mean = sum(stats[key] for _, stats in ranks) / len(ranks)
        assert np.isfinite(value)
        assert mean == pytest.approx(value, rel=ANOTHER_ORDER, abs=ANOTHER_ORDER_LOSS), key


def choose(count: int) -> tuple[Tensor, Tensor]:
    candidates = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    rows = len(candidates) // world_size()
    mine = candidates[rank() * rows : (rank() + 1) * rows]
    return lowest_over_ranks(mine, mine[:, 0].contiguous(), count), candidates


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("count", [4, 12])
def test_far_takes_the_lowest_scores_of_all_ranks(ranks: int, count: int) -> None:
    answers = run_on_ranks(ranks, choose, count)
    chosen = torch.cat([mine for mine, _ in answers])
    candidates = answers[0][1]
    expected = candidates[candidates[:, 0].argsort()[:count]]
    assert torch.equal(chosen, expected)
    assert torch.equal(lowest(candidates, candidates[:, 0], count), expected)


def test_each_member_of_an_ensemble_chooses_among_its_own() -> None:
    scores = torch.tensor([3.0, 30.0, 1.0, 10.0, 2.0, 20.0])  # members 0 and 1 in turn
    chosen = lowest(scores[:, None], scores, 2, num_members=2).flatten()
    assert chosen.tolist() == [1.0, 10.0, 2.0, 20.0]


def test_far_shares_must_divide() -> None:
    config = replace(
        systems()["far"], far=FakeAsRealConfig(far_fakes=3, far_candidates=16), batch_size=8
    )
    with pytest.raises(ConfigError, match="--far-fakes=3 is not divisible by the 2 ranks"):
        config.check_ranks(2)
