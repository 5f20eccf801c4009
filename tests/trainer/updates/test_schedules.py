"""Schedules: their closed form, and updates whose settings move, against plain PyTorch."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from realness.trainer.config import ConfigError, TrainConfig, with_fields
from realness.trainer.config.schedule import Schedule
from realness.trainer.engines.optimizer_configs import AdamConfig
from realness.trainer.reporting.page.panels import panels
from realness.trainer.reporting.page.runs import load_run
from realness.trainer.updates.ema import Ema
from realness.trainer.updates.schedule import lr_factor
from realness.trainer.updates.sharded_gan import build_gan
from tests.helpers.engine_runs import Stretches, play, stretches
from tests.helpers.plain_gan import (
    ANOTHER_ORDER,
    ANOTHER_ORDER_LOSS,
    PlainGan,
    largest_error,
    tiny,
)
from tests.helpers.ranks import run_on_ranks
from tests.helpers.reporting_runs import make_run, records

BATCH, STEPS = 4, 6
SCHEDULED = dict(
    schedule_kimg=4 * BATCH / 1000, beta2=0.9, beta2_final=0.3, r1_gamma=2.0, r1_gamma_final=40.0,
    lr_decay="cosine", lr_final=0.25,
)  # fmt: skip
"""Six iterations, of which four are in the schedules."""


def scheduled() -> TrainConfig:
    return with_fields(tiny(BATCH, generator="resnet"), **SCHEDULED)


def moved(start: float, end: float, images: int, length: float) -> float:
    """The formula of R3GAN's code."""
    if images >= length:
        return end
    return start + (1 - (1 + math.cos(math.pi * images / length)) / 2) * (end - start)


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_a_schedule_is_its_formula_on_host_and_device(shape: Any) -> None:
    schedule = Schedule(0.9, 0.99, 20_000, shape)
    for images in (0, 1, 5_000, 13_333, 19_999, 20_000, 10**9):
        expected = moved(0.9, 0.99, images, 20_000)
        if shape == "linear":
            expected = 0.9 + 0.09 * min(1, images / 20_000)
        # A few roundings of float64 on the host, and one of float32 on the device.
        assert schedule.at(images) == pytest.approx(expected, rel=2.0**-50)
        value = schedule.on("cpu", images)
        assert (value.dtype, value.shape) == (torch.float32, ())
        assert value.item() == pytest.approx(expected, rel=2.0**-23)
        assert torch.equal(value, schedule.on("cpu", torch.tensor(images)))
    assert (schedule.at(0), schedule.at(20_000)) == (0.9, 0.99)


def test_learning_rates_end_with_the_schedule() -> None:
    """R3GAN: from 2e-4 to 5e-5 in 20 million images, whatever the length of the run."""
    lengths = dict(total_kimg=250_000.0, schedule_kimg=20_000.0)
    config = with_fields(TrainConfig(), lr_decay="cosine", lr_final=0.25, **lengths)
    for images in (0, 7_000_000, 20_000_000, 100_000_000):
        expected = moved(2e-4, 5e-5, images, 20e6)
        assert 2e-4 * lr_factor(config, images) == pytest.approx(expected, rel=1e-12)


def test_adam_gets_the_beta2_of_its_schedule_corrected_if_asked() -> None:
    config = AdamConfig(beta1=0.0, beta2=0.9, beta2_final=0.99)
    assert AdamConfig().settings_at(0.5) == {}
    assert config.settings_at(0.25) == {"betas": (0.0, pytest.approx(0.9225, rel=1e-15))}
    corrected = config.lazily_corrected(16 / 17)
    ends = [corrected.settings_at(progress)["betas"][1] for progress in (0.0, 1.0)]
    assert ends == pytest.approx([0.9 ** (16 / 17), 0.99 ** (16 / 17)], rel=1e-15)


def test_an_average_follows_its_half_life() -> None:
    """From a half-life of 0: first it is the network itself."""
    network = nn.Linear(1, 1, bias=False)
    (weights,) = network.parameters()
    ema, length = Ema(network, Schedule(0.0, 300.0, 400)), 400
    expected = 0.0
    for images in range(0, 801, 100):
        value = images + 1.0
        nn.init.constant_(weights, value)
        ema.update(network, 100, images)
        halflife = moved(0.0, 300.0, images, length)
        assert ema.halflife(images) == pytest.approx(halflife, rel=1e-12)
        weight = 1 - 0.5 ** (100 / halflife) if halflife else 1
        expected += weight * (value - expected)
        (average,) = ema.module.parameters()
        assert average.item() == pytest.approx(expected, rel=1e-5)


class ScheduledPlainGan(PlainGan):
    """The reference, with its settings set by hand before each iteration."""

    def _iterate(self, step: int) -> tuple[float, float]:
        images, length = step * BATCH, 4 * BATCH
        gamma = moved(2.0, 40.0, images, length)
        self.config = replace(self.config, penalty=replace(self.config.penalty, r1_gamma=gamma))
        for adam in (self.adam_g, self.adam_d):
            (group,) = adam.param_groups
            group["betas"] = (group["betas"][0], moved(0.9, 0.3, images, length))
            group["lr"] = moved(2e-4, 0.5e-4, images, length)
        return super()._iterate(step)


def trajectory(configs: list[TrainConfig]) -> list[tuple[Any, Stretches]]:
    results = []
    for config in configs:
        gan = build_gan(config, torch.device("cpu"))
        results.append((play(gan, range(STEPS)), stretches(gan)))
        gan.close()
    return results


@pytest.mark.slow
def test_scheduled_updates_are_those_of_plain_pytorch_on_any_ranks(shard_all: Path) -> None:
    """On one rank and on two, at every ZeRO stage: losses, weights and Adam's moments."""
    config = scheduled()
    reference, constant = ScheduledPlainGan(config), PlainGan(tiny(BATCH, generator="resnet"))
    losses = reference.play(range(STEPS))
    expected = reference.state()
    constant.play(range(STEPS))
    # A schedule that is ignored would be noticed: the moments of D are others.
    others = [(name, 0, values) for name, values in constant.state().items() if "D.exp" in name]
    assert largest_error(others, expected)[0] > 10 * ANOTHER_ORDER

    def at(g: int, d: int) -> TrainConfig:
        engine = replace(config.engine, zero_g=g, zero_d=d, deepspeed_config=str(shard_all))
        return replace(config, engine=engine)

    for ranks, stages in ((1, [(0, 1)]), (2, [(2, 3)])):
        answers = run_on_ranks(ranks, trajectory, [at(*pair) for pair in stages])
        for case in range(len(stages)):
            found = np.mean([answer[case][0] for answer in answers], axis=0)
            np.testing.assert_allclose(found, losses, rtol=ANOTHER_ORDER_LOSS)
            for answer in answers:
                error, name = largest_error(answer[case][1], expected)
                assert error < ANOTHER_ORDER, f"{ranks} ranks, {stages[case]}: {name} {error:.1e}"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(beta2_final=1.0), r"--beta2-final=1.0 must lie in \[0, 1\)"),
        (dict(r1_gamma_final=-1.0), "--r1-gamma-final=-1.0 must not be negative"),
        (dict(ema_halflife_kimg=0.0), "--ema-halflife-kimg=0.0 must be greater than 0"),
        (dict(ema_halflife_final_kimg=0.0), "--ema-halflife-final-kimg=0.0 must be greater than 0"),
        (dict(schedule_kimg=-1.0), "--schedule-kimg=-1.0 must not be negative"),
        (
            dict(schedule_kimg=5.0, lr_decay="linear", lr_decay_start_kimg=9.0),
            "--lr-decay-start-kimg=9 is not before --schedule-kimg=5",
        ),
        (
            dict(beta2_final=0.9, cuda_graphs=True, zero_g=0, zero_d=0),
            "--cuda-graphs does not combine with --beta2-final",
        ),
        (dict(optimizer="rmsprop", beta2_final=0.9), "not a setting of the chosen components"),
    ],
)
def test_schedules_that_cannot_be_followed_are_refused(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        with_fields(TrainConfig(), **fields)


def test_the_report_draws_the_schedules(tmp_path: Path) -> None:
    plain = records(8, 800)
    moving = dict(beta2=0.9, r1_gamma=1.0, r2_gamma=1.0, ema_halflife_kimg=3.0)
    run = load_run(make_run(tmp_path, [{**record, **moving} for record in plain]))
    drawn = {panel.title: [line.label for line in panel.series] for panel in panels(run)}
    assert drawn["Schedule of gamma"] == ["R1", "R2"]
    assert drawn["Schedule of beta2"] == ["beta2"]
    assert drawn["Schedule of the half-life"] == ["half-life"]
    without = load_run(make_run(tmp_path / "plain", plain))
    assert not any("Schedule" in panel.title for panel in panels(without))
