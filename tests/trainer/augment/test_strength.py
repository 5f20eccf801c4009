"""The probability of augmentation: ADA's controller, schedules, and what p means."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from realness.trainer.augment.configs import AdaptiveConfig, DiffAugmentConfig, FixedConfig
from realness.trainer.augment.strength import (
    AdaptiveStrength,
    FixedStrength,
    ScheduledStrength,
    leak_warning,
)
from realness.trainer.distributed.ranks import rank, world_size
from tests.helpers.ranks import run_on_ranks
from tests.helpers.recorded_graph import RecordedGraph

BATCH = 8
NUM_UPDATES = 80
SETTINGS: dict[str, Any] = {"target": 0.25, "speed_kimg": 0.4, "undecided": 0.5}


def scores() -> Tensor:
    """Scores [NUM_UPDATES, BATCH] of D that overfits, recovers and overfits again."""
    random = np.random.default_rng(2)
    level = 1.5 * np.sin(np.arange(NUM_UPDATES) / 12)
    return torch.from_numpy(random.normal(level[:, None] + 0.5, 1, (NUM_UPDATES, BATCH))).float()


def by_hand(values: np.ndarray) -> list[float]:
    """p after each update: section 3.1 in floats."""
    p, seen = 0.0, []
    for update in range(NUM_UPDATES):
        if update % 4 == 3:
            r_t = np.sign(values[update - 3 : update + 1] - 0.5).mean()
            p += np.sign(r_t - 0.25) * 4 * BATCH / 400
            p = min(1.0, max(0.0, p))
        seen.append(p)
    return seen


def observed() -> tuple[list[float], dict[str, list[float]]]:
    """p after each update of this rank's share of the scores, and the last state."""
    strength = AdaptiveStrength(BATCH, **SETTINGS)
    seen = []
    for row in scores():
        strength.observe(row.chunk(world_size())[rank()])
        seen.append(strength.p(0).item())
    return seen, {name: value.tolist() for name, value in strength.tensors().items()}


def test_p_follows_the_papers_rule() -> None:
    found, _ = observed()
    np.testing.assert_allclose(found, by_hand(scores().numpy()), atol=1e-6)
    assert min(found[40:]) == 0
    assert max(found) > 0.3


def test_p_reaches_the_target_speed_and_stops_at_one() -> None:
    strength = AdaptiveStrength(BATCH, speed_kimg=0.4)
    seen = []
    for _ in range(4 * 14):
        strength.observe(torch.ones(BATCH))
        seen.append(strength.p(0).item())
    # 400 images are 12.5 changes of 32 images.
    assert seen[47] == pytest.approx(0.96)
    assert seen[51:] == [1.0] * 5
    assert strength.measures()["r_t"] == 1


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.slow
def test_all_numbers_of_ranks_agree_to_the_bit(ranks: int) -> None:
    assert run_on_ranks(ranks, observed) == [observed()] * ranks


def test_scores_that_are_not_finite_do_not_spoil_p() -> None:
    strength = AdaptiveStrength(2, target=0.6, speed_kimg=1)
    for row in ([math.nan, 1], [math.inf, 1], [1, 1], [1, 1]):
        strength.observe(torch.tensor(row))
    assert strength.p(0).item() == pytest.approx(8 / 1000)
    for _ in range(4):
        strength.observe(torch.full((2,), math.nan))
    assert strength.p(0).item() == pytest.approx(8 / 1000)


def test_a_state_that_is_loaded_in_place_goes_on_alike() -> None:
    whole, first, second = (AdaptiveStrength(BATCH, **SETTINGS) for _ in range(3))
    rows = scores()
    for row in rows:
        whole.observe(row)
    for row in rows[:30]:
        first.observe(row)
    for name, value in second.tensors().items():
        value.copy_(first.tensors()[name])
    for row in rows[30:]:
        second.observe(row)
    for name, value in whole.tensors().items():
        assert torch.equal(value, second.tensors()[name]), name


def test_updates_can_be_captured() -> None:
    eager, captured = AdaptiveStrength(BATCH, **SETTINGS), AdaptiveStrength(BATCH, **SETTINGS)
    rows = scores()
    shown = torch.empty(BATCH)
    graph = RecordedGraph()
    graph.capture(lambda: captured.observe(shown))
    for row in rows:
        eager.observe(row)
        shown.copy_(row)
        graph.replay()
        assert torch.equal(eager.p(0), captured.p(0))
    assert eager.tensors()["num_updates"] == captured.tensors()["num_updates"] == NUM_UPDATES


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_a_schedule_is_its_formula(shape: Any) -> None:
    strength = ScheduledStrength(0.1, 0.4, kimg=20, shape=shape)
    for images in (0, 5_000, 13_333, 20_000, 1_000_000):
        t = min(1, images / 20_000)
        expected = 0.1 + 0.3 * t
        if shape == "cosine":
            expected = 0.1 + (1 - (1 + math.cos(math.pi * t)) / 2) * 0.3
        p = strength.p(images)
        assert p.dtype == torch.float32
        assert p.shape == ()
        assert p.item() == pytest.approx(expected, rel=2.0**-22)
        assert torch.equal(p, strength.p(torch.tensor(images)))


def test_a_schedule_is_recomputed_by_a_graph() -> None:
    strength, images = ScheduledStrength(0, 0.3, kimg=20), torch.tensor(100)
    graph = RecordedGraph()
    p = graph.capture(lambda: strength.p(images))
    images.fill_(10_000)
    graph.replay()
    assert torch.equal(p, strength.p(10_000))


def test_a_fixed_strength_is_fixed() -> None:
    strength = FixedStrength(0.3)
    strength.observe(torch.ones(4))
    assert strength.p(10**9).item() == pytest.approx(0.3)
    assert strength.tensors() == strength.measures() == {}


def test_a_warning_says_what_a_high_p_means() -> None:
    assert leak_warning(0.8) == ""
    assert "0.81" in leak_warning(0.81)
    assert "too small" in leak_warning(0.81)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FixedStrength(1.2), r"p=1.2; a probability lies between 0 and 1"),
        (lambda: FixedStrength(math.nan), r"p=nan"),
        (lambda: ScheduledStrength(-0.1, 0.4, 10), r"start=-0.1"),
        (lambda: ScheduledStrength(0, 2, 10), r"end=2"),
        (lambda: ScheduledStrength(0, 0.3, 0), r"kimg=0; expected a length above 0"),
        (lambda: ScheduledStrength(0, 0.3, 1, "sine"), r"use linear or cosine"),  # type: ignore[arg-type]
        (lambda: AdaptiveStrength(8, target=1), r"target=1; .*between -1 and 1"),
        (lambda: AdaptiveStrength(8, speed_kimg=0), r"speed_kimg=0; use a number above 0"),
    ],
)
def test_bad_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_only_adas_transforms_are_said_to_leak() -> None:
    """DiffAugment's policies change every image by design."""
    assert AdaptiveConfig().can_leak
    assert not DiffAugmentConfig().can_leak
    assert FixedConfig(augment_p=1.0).can_leak
    assert not FixedConfig(augment_ops="color,translation", augment_p=1.0).can_leak
