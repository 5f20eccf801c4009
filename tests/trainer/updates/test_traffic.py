"""A step never makes the host wait, and reduces only what it needs."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from realness.trainer.config import TrainConfig
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.randomness import Stream
from realness.trainer.updates.sharded_gan import build_gan
from realness.trainer.updates.step import update_d, update_g
from tests.helpers.plain_gan import images, tiny
from tests.helpers.ranks import run_on_ranks
from tests.helpers.systems import systems
from tests.helpers.watching import Watch

BATCH = 8
COLLECTIVES = {"D": 6, "G": 9}
"""At ZeRO 0, of a G with 3 batch normalisations: each has one forward, and backward in G's update.
The moments of D's outputs on real images and fakes have one forward and one backward; gradients and
the mark of a bad loss are one."""
FAR_WAIT = "fake_as_real.py:lowest_over_ranks"


@dataclass(frozen=True)
class Seen:
    """Waits, bytes and calls by collective, and the network's size, for an update of D or of G."""

    waits: Counter[str]
    sent: Counter[str]
    calls: Counter[str]
    num_bytes: int


def watch(configs: list[TrainConfig]) -> list[dict[str, Seen]]:
    """Waits and traffic of the third update of each network, penalties included."""
    return [_watch(config) for config in configs]


def _watch(config: TrainConfig) -> dict[str, Seen]:
    # DeepSpeed's engines wait for the device when they are collected: not in our updates.
    gc.collect()
    gan = build_gan(config, torch.device("cpu"))
    num_real = config.num_real // world_size()
    seen = {}
    for step in range(3):
        real = images(Stream.D_REAL, step, BATCH)[rank() * num_real :]
        with Watch() as d:
            update_d(gan, real[:num_real], step * BATCH)
        compared = real[: gan.local_batch] if gan.objective.needs_real_in_g_step else None
        with Watch() as g:
            update_g(gan, compared, step * BATCH)
        seen = {
            engine.name: Seen(watch.waits, watch.sent, watch.calls, 4 * engine.num_weights)
            for engine, watch in ((gan.d, d), (gan.g, g))
        }
    gan.close()
    return seen


def at_stage(stage: int, clip: float, deepspeed_config: str) -> TrainConfig:
    config = tiny(BATCH, clip=clip)
    config = replace(config, d=replace(config.d, d_width=8))
    engine = replace(config.engine, zero_g=stage, zero_d=stage, deepspeed_config=deepspeed_config)  # type: ignore[arg-type]
    return replace(config, engine=engine)


@pytest.mark.slow
def test_no_step_waits_for_the_device(shard_all: Path) -> None:
    """Except for one check of the gradient norm at ZeRO 3."""
    stages = [(stage, clip) for stage in range(4) for clip in (0.0, 0.05)]
    configs = [at_stage(*pair, str(shard_all)) for pair in stages]
    for answer in run_on_ranks(2, watch, configs):
        for (stage, _), seen in zip(stages, answer, strict=True):
            allowed = {"utils.py:is_invalid_grad_norm": 1} if stage == 3 else {}
            assert seen["D"].waits == allowed
            assert seen["G"].waits == allowed


@pytest.mark.slow
def test_no_system_waits_for_the_device() -> None:
    """Except for FAR-GAN's selection, which must know how many rows go where."""
    names = ("standard", "p2gan", "relativistic-r1-r2", "wgan-gp", "realness-far")
    for answer in run_on_ranks(2, watch, [systems()[name] for name in names]):
        for name, seen in zip(names, answer, strict=True):
            assert set(seen["D"].waits) == ({FAR_WAIT} if "far" in name else set())
            assert not seen["G"].waits


def test_each_update_reduces_its_own_network_alone(shard_all: Path) -> None:
    """Gradients of one network, and statistics that are small compared with any network."""
    configs = [at_stage(stage, 0.0, str(shard_all)) for stage in range(4)]
    for answer in run_on_ranks(2, watch, configs):
        for stage, seen in enumerate(answer):
            for name, update in seen.items():
                small = min(network.num_bytes for network in seen.values()) / 4
                reduced = update.sent["allreduce_"]
                if stage == 0:
                    assert update.calls == {"allreduce_": COLLECTIVES[name]}
                if stage == 3:
                    assert update.sent["_reduce_scatter_base_"] == update.num_bytes / 2
                    assert reduced < small
                else:
                    assert update.num_bytes < reduced < update.num_bytes + small


def test_the_watch_sees_what_waits() -> None:
    from deepspeed.accelerator import get_accelerator

    value, accelerator = torch.ones(3), get_accelerator()
    assert accelerator is not None
    actions: list[Callable[[], Any]] = [
        lambda: accelerator.synchronize(),
        lambda: value.sum().item(),
        lambda: value.tolist(),
        lambda: value.cpu(),
        lambda: bool(value[0]),
        lambda: float(value[0]),
        lambda: value.numpy(),
        lambda: value.nonzero(),
        lambda: value[value > 0],
    ]
    for action in actions:
        with Watch() as watch:
            action()
        assert sum(watch.waits.values()) == 1
        assert "test_traffic.py" in next(iter(watch.waits))
    with Watch() as watch:
        value.sum().sqrt()
    assert not watch.waits
