"""Updates captured as graphs equal the plain updates, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from realness.trainer.config import ConfigError, EngineConfig, TrainConfig, with_fields
from realness.trainer.distributed.device import pick_device
from realness.trainer.distributed.ranks import start_process_group, stop_process_group
from realness.trainer.randomness import Stream
from realness.trainer.updates.cuda_graphs import (
    NUM_WARM_UPDATES,
    CudaGraph,
    GraphedUpdate,
    capturing_stream,
)
from realness.trainer.updates.schedule import plan_d_update, plan_g_update
from realness.trainer.updates.sharded_gan import build_gan
from realness.trainer.updates.step import update_d, update_g
from tests.helpers.labels import labels
from tests.helpers.ranks import run_on_ranks
from tests.helpers.recorded_graph import NotCapturable, RecordedGraph
from tests.helpers.systems import BATCH, systems

# Twice the number of alternating plans, and enough for replays of each.
NUM_UPDATES = 2 * (NUM_WARM_UPDATES + 3)


def graphed(name: str, **engine: Any) -> TrainConfig:
    """A system whose lazy penalties are due in every other update."""
    config = systems()[name]
    fields = {"device": "cpu", "zero_g": 0, "zero_d": 0, "cuda_graphs": True}
    penalty = replace(config.penalty, penalty_images=2 * BATCH, path_length_images=2 * BATCH)
    return replace(config, penalty=penalty, engine=EngineConfig(**{**fields, **engine}))


def play(config: TrainConfig, new_graph: Callable[[], Any] | None) -> list[dict[str, Tensor]]:
    """Statistics and state after each update of both; without graphs for None."""
    device = torch.device(config.engine.device)
    gan = build_gan(config, device)
    d = GraphedUpdate(update_d, plan_d_update, new_graph) if new_graph else None
    g = GraphedUpdate(update_g, plan_g_update, new_graph) if new_graph else None
    seen = []
    for step in range(NUM_UPDATES):
        for network in (gan.g, gan.d):
            network.set_lr_factor(1 / (1 + step))
        generator = torch.Generator().manual_seed(step)
        images = torch.randint(0, 256, (2, BATCH, 3, 32, 32), generator=generator).byte()
        first_sample = step * BATCH
        real_d = gan.normalise(images[0, : config.num_real], Stream.D_REAL, first_sample)
        if step == NUM_UPDATES - 3:
            real_d = real_d * math.nan  # an update to be left out
        real_g = None
        if gan.objective.needs_real_in_g_step:
            real_g = gan.normalise(images[1], Stream.G_REAL, first_sample)
        of_d, of_g = (labels(gan, stream, step, BATCH) for stream in (Stream.D_REAL, Stream.G_REAL))
        stats = (d or update_d)(gan, real_d, first_sample, labels=of_d)
        stats |= (g or update_g)(gan, real_g, first_sample, labels=of_g)
        state = {
            f"{network.name}.{name}": value.detach().cpu().clone()
            for network in (gan.g, gan.d)
            for name, value in network.module.state_dict().items()
        }
        skipped = {"skipped": torch.tensor(gan.d.skips.read())}
        seen.append({**state, **skipped, **{key: value.cpu() for key, value in stats.items()}})
    gan.close()
    return seen


def compare(config: TrainConfig, new_graph: Callable[[], Any], tolerance: float = 0.0) -> None:
    eager, captured = play(config, None), play(config, new_graph)
    for step, (expected, found) in enumerate(zip(eager, captured, strict=True)):
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            other, value = found[name].float().nan_to_num(), value.float().nan_to_num()
            error = (other - value).abs().max() / (1 + value.abs().max())
            assert error <= tolerance, f"update {step}: {name} is off by {error:.1e}"
    assert eager[-1]["skipped"].tolist() == [1, 0]


def compare_on_cpu(config: TrainConfig) -> None:
    compare(config, RecordedGraph)


CONFIGS = {
    "realness-r1": with_fields(
        graphed("realness-r1"), r1_gamma_final=9.0, schedule_kimg=NUM_UPDATES * BATCH / 1000
    ),
    "realness-emd": graphed("realness-emd", precision="bf16"),
    "p2gan": graphed("p2gan", micro_batch=BATCH // 2),
    "far": graphed("far"),
    "conditional": graphed("conditional"),
    "conditional-stylegan2": graphed("conditional-stylegan2"),
}
"""Every optimiser, every kind of plan, and networks with each kind of state."""


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_replays_are_updates(name: str) -> None:
    """Losses, weights, buffers and skips; other rates, positions, images and plans each time."""
    run_on_ranks(1, compare_on_cpu, CONFIGS[name])


@pytest.mark.gpu
@pytest.mark.parametrize("name", CONFIGS)
def test_replays_are_updates_on_a_gpu(name: str) -> None:
    config = CONFIGS[name]
    config = replace(config, engine=replace(config.engine, device="cuda"))
    device = pick_device("cuda")
    start_process_group(device)
    try:
        with capturing_stream(config, device):
            compare(config, CudaGraph, tolerance=1e-3)
    finally:
        stop_process_group()


def test_what_cannot_be_captured_is_refused() -> None:
    """Otherwise the tests above would pass for code that fails on a GPU."""
    value = torch.ones(3)
    attempts: list[Callable[[], Any]] = [
        lambda: value.sum().item(),
        lambda: value[value > 0],
        lambda: value + torch.tensor([1.0, 2.0, 3.0]),
        lambda: value * torch.from_numpy(np.ones(3, np.float32)).to(torch.float64),
    ]
    for attempt in attempts:
        with pytest.raises(NotCapturable):
            RecordedGraph().capture(attempt)


def test_a_recorded_graph_repeats_on_the_same_memory() -> None:
    state, given = torch.zeros(2), torch.ones(2)
    graph = RecordedGraph()
    result = graph.capture(lambda: state.add_(given).view(1, 2) * 2)
    assert state.tolist() == [0, 0]
    for step in range(3):
        given.fill_(step)
        graph.replay()
    assert state.tolist() == [3, 3]
    assert result.tolist() == [[6, 6]]


def test_combinations_that_need_the_host_are_refused() -> None:
    with pytest.raises(ConfigError, match="--cuda-graphs needs --zero-d=0, not 2"):
        EngineConfig(cuda_graphs=True, zero_g=0, zero_d=2)
    config, far = graphed("realness-r1"), graphed("far")
    with pytest.raises(ConfigError, match="--cuda-graphs does not combine with --anchors=hist"):
        with_fields(config, anchors="histogram")
    far.check_ranks(1)
    with pytest.raises(ConfigError, match="--cuda-graphs on 2 ranks does not combine with --far"):
        far.check_ranks(2)
    with (
        pytest.raises(ConfigError, match="--cuda-graphs needs a CUDA device"),
        capturing_stream(config, torch.device("cpu")),
    ):
        pass
