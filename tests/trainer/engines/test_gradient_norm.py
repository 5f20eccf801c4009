"""The logged gradient norms are those of the whole gradient, at every ZeRO stage."""

from __future__ import annotations

import gc
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from realness.trainer.config import EngineConfig, OptimizerConfig, TrainConfig
from realness.trainer.engines.optimizers import GradientNorm, build_optimizer
from realness.trainer.randomness import Stream
from realness.trainer.reporting import write_report
from realness.trainer.updates.cuda_graphs import NUM_WARM_UPDATES, GraphedUpdate
from realness.trainer.updates.schedule import plan_d_update
from realness.trainer.updates.sharded_gan import build_gan
from realness.trainer.updates.step import update_d, update_g
from tests.helpers.engine_runs import play
from tests.helpers.plain_gan import PlainGan, images, tiny
from tests.helpers.ranks import run_command, run_on_ranks, tiny_arguments, write_images
from tests.helpers.recorded_graph import RecordedGraph
from tests.helpers.systems import systems
from tests.helpers.watching import Watch

pytestmark = pytest.mark.slow

BATCH = 8
STEPS = 3
CLIPS = 0.02


@dataclass(frozen=True)
class Case:
    """The stage of both networks, the norm to clip at, and whether updates take two passes."""

    stage: int
    clip: float = 0.0
    accumulates: bool = False
    offload: bool = False

    def config(self, num_ranks: int, deepspeed_config: str) -> TrainConfig:
        config = tiny(BATCH, generator="resnet" if self.accumulates else "dcgan", clip=self.clip)
        return replace(
            config,
            optimizer=replace(config.optimizer, log_grad_norm=True),
            engine=replace(
                config.engine,
                zero_g=self.stage,  # type: ignore[arg-type]
                zero_d=self.stage,  # type: ignore[arg-type]
                micro_batch=BATCH // num_ranks // 2 if self.accumulates else 0,
                offload_optimizer=self.offload,
                deepspeed_config=deepspeed_config,
            ),
        )


CASES = [
    *(Case(stage) for stage in range(4)),
    *(Case(stage, CLIPS) for stage in (0, 2)),
    *(Case(stage, accumulates=True) for stage in (0, 2, 3)),
    Case(2, CLIPS, offload=True),
]


class MeasuredGan(PlainGan):
    """The plain run, which records the norm of every gradient in float64."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.norms: dict[str, list[float]] = {"G": [], "D": []}

    def _update(self, module: nn.Module, adam: torch.optim.Adam, loss: Tensor) -> None:
        weights = list(module.parameters())
        gradients = torch.autograd.grad(loss, weights, retain_graph=True)
        squares = sum(gradient.double().square().sum().item() for gradient in gradients)
        self.norms["G" if module is self.g else "D"].append(math.sqrt(squares))
        super()._update(module, adam, loss)


def measure(cases: list[Case], num_ranks: int, deepspeed_config: str) -> list[dict[str, float]]:
    """For each case, the mean norm over all steps but the last, and the norm of the last."""
    results = []
    for case in cases:
        gan = build_gan(case.config(num_ranks, deepspeed_config), torch.device("cpu"))
        found: dict[str, float] = {}
        for interval, steps in (("mean", range(STEPS - 1)), ("last", range(STEPS - 1, STEPS))):
            play(gan, steps)
            for engine in (gan.g, gan.d):
                assert engine.grad_norm is not None
                found[f"{engine.name} {interval}"] = engine.grad_norm.read()
        assert all(math.isnan(engine.grad_norm.read()) for engine in (gan.g, gan.d))  # type: ignore[union-attr]
        results.append(found)
        gan.close()
    return results


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_logged_norms_are_those_of_the_whole_gradient(num_ranks: int, shard_all: Path) -> None:
    answers = run_on_ranks(num_ranks, measure, CASES, num_ranks, str(shard_all))
    for number, case in enumerate(CASES):
        plain = MeasuredGan(case.config(num_ranks, ""))
        plain.play(range(STEPS))
        for name, norms in plain.norms.items():
            assert not case.clip or min(norms) > 1.5 * CLIPS  # so that clipping would show
            expected = {"mean": sum(norms[:-1]) / (STEPS - 1), "last": norms[-1]}
            for answer in answers:
                found = answer[number]
                for interval, value in expected.items():
                    assert found[f"{name} {interval}"] == pytest.approx(value, rel=1e-4), case


def watch(cases: list[Case], num_ranks: int, deepspeed_config: str) -> list[dict[str, int]]:
    """The waits of the second update of each network."""
    results = []
    for case in cases:
        # DeepSpeed's engines wait for the device when they are collected: not in our updates.
        gc.collect()
        gan = build_gan(case.config(num_ranks, deepspeed_config), torch.device("cpu"))
        for step in range(2):
            with Watch() as seen:
                update_d(gan, images(Stream.D_REAL, step, BATCH)[: gan.local_batch], step * BATCH)
                update_g(gan, images(Stream.G_REAL, step, BATCH)[: gan.local_batch], step * BATCH)
            results.append(dict(seen.waits))
        gan.close()
    return results[1::2]


def test_logging_the_norm_waits_for_nothing(shard_all: Path) -> None:
    """Except for DeepSpeed's own check at ZeRO 3, once per update."""
    cases = [Case(stage) for stage in range(4)]
    for answer in run_on_ranks(2, watch, cases, 2, str(shard_all)):
        assert answer == [{}, {}, {}, {"utils.py:is_invalid_grad_norm": 2}]


def norms_of_captured_updates(captured: bool) -> list[float]:
    """D's norm in each of several updates, of which the later ones are replays if `captured`."""
    config = systems()["standard"]
    config = replace(
        config,
        optimizer=replace(config.optimizer, log_grad_norm=True),
        engine=EngineConfig(device="cpu", zero_g=0, zero_d=0, cuda_graphs=True),
    )
    gan = build_gan(config, torch.device("cpu"))
    update = GraphedUpdate(update_d, plan_d_update, RecordedGraph) if captured else update_d
    norms = []
    for step in range(NUM_WARM_UPDATES + 3):
        update(gan, images(Stream.D_REAL, step, config.num_real), step * config.batch_size)
        assert gan.d.grad_norm is not None
        norms.append(gan.d.grad_norm.read())
    gan.close()
    return norms


def test_captured_updates_report_their_norms() -> None:
    (eager,), (replayed,) = (run_on_ranks(1, norms_of_captured_updates, on) for on in (False, True))
    assert len(set(eager)) == len(eager)
    assert replayed == eager


def test_norms_that_are_not_finite_are_left_out() -> None:
    weight = nn.Parameter(torch.zeros(2))
    optimizer = build_optimizer(OptimizerConfig(), [weight], 0.1)
    norm = GradientNorm(optimizer, max_norm=0.0, sharded=False, device=weight.device)
    assert math.isnan(norm.read())
    for gradient in ([3.0, 4.0], [math.inf, 0.0], [math.nan, 1.0], [0.0, 7.0]):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    assert norm.read() == 6.0
    assert math.isnan(norm.read())


def log_of(folder: Path, *options: str) -> list[dict[str, float]]:
    run = folder / "run"
    arguments = tiny_arguments(write_images(folder / "images", 16), run, *options)
    assert run_command([*arguments, "--total-kimg", "0.016"]) == 0
    return [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("option", [("--log-grad-norm",), ("--clip-grad-norm", "0.5")])
def test_the_norms_are_logged_and_drawn(option: tuple[str, ...], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    records = log_of(tmp_path, *option)
    assert len(records) == 2
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    for name in ("grad_norm_d", "grad_norm_g"):
        logged = [record[name] for record in records]
        assert min(logged) > 0
        drawn = [event.value for event in events.Scalars(f"gradient/{name}")]
        assert drawn == pytest.approx(logged)
    assert "Gradient norms" in write_report(tmp_path / "run").read_text()


def test_nothing_is_measured_unasked(tmp_path: Path) -> None:
    assert not any("grad_norm" in key for record in log_of(tmp_path) for key in record)
    assert "Gradient norms" not in write_report(tmp_path / "run").read_text()
