"""The estimate of a rank's memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import torch
from torch import Tensor

from realness import kernels
from realness.launch.presets import preset
from realness.trainer.config import EngineConfig, TrainConfig
from realness.trainer.planning.memory import (
    checkpoint_bytes,
    estimate_memory,
    resident_memory,
)
from realness.trainer.updates.build import build_networks
from realness.trainer.updates.sharded_gan import build_gan
from tests.helpers.engine_runs import play
from tests.helpers.plain_gan import tiny
from tests.helpers.ranks import run_on_ranks

ACTIVATIONS = "activations of the D step"


def test_weights_and_moments_follow_from_the_counts() -> None:
    config = preset("cifar10-standard-dcgan")
    networks = build_networks(config)[:2]
    counts = [sum(weight.numel() for weight in network.parameters()) for network in networks]
    memory = estimate_memory(replace(config, engine=replace(config.engine, zero_g=0, zero_d=0)), 1)
    assert memory["weights"] == 4 * sum(counts)
    assert memory["optimiser's moments"] == 8 * sum(counts)
    assert memory["moving averages"] == 4 * counts[0]
    assert checkpoint_bytes(config) == 4 * (4 * counts[0] + 3 * counts[1])


@kernels.implementation("reference")
def test_activations_are_what_autograd_keeps() -> None:
    """A D step on real tensors keeps as many bytes as estimated."""
    config = replace(preset("cifar10-standard-dcgan"), batch_size=4)
    _, d, _ = build_networks(config)
    known = {weight.untyped_storage().data_ptr() for weight in d.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in known:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = d(torch.zeros(8, 3, 32, 32)).sum()
    total = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    assert kept.requires_grad
    assert estimate_memory(config, 1)[ACTIVATIONS] == pytest.approx(total, rel=0.02)


@pytest.mark.parametrize("name", ["ffhq1024-realness-dcgan", "ffhq1024-stylegan2"])
def test_bf16_keeps_less(name: str) -> None:
    config = preset(name)
    sizes = [
        estimate_memory(replace(config, engine=replace(config.engine, precision=precision)), 1)
        for precision in ("fp32", "bf16")
    ]
    assert 0.45 < sizes[1][ACTIVATIONS] / sizes[0][ACTIVATIONS] < 0.7


def bucket_elements(config: TrainConfig) -> list[int]:
    """Elements of DeepSpeed's reduction buffers in both engines, in the middle of an update."""
    gan = build_gan(config, torch.device("cpu"))
    counts: list[int] = []

    def count(_: Tensor) -> None:
        buckets: list[Any] = [
            bucket.buffer
            for engine in (gan.g, gan.d)
            for bucket in cast(Any, engine)._engine.optimizer.ipg_buckets.values()
        ]
        flat = [
            tensor for item in buckets for tensor in ([item] if torch.is_tensor(item) else item)
        ]
        counts.append(sum(tensor.numel() for tensor in flat if tensor is not None))

    play(gan, range(1))
    next(iter(gan.g.module.parameters())).register_hook(count)
    play(gan, range(1, 2))
    gan.close()
    return counts


@pytest.mark.parametrize("stages", [(1, 2), (2, 3)])
def test_buffers_of_reductions_are_deepspeeds(
    stages: tuple[Literal[1, 2], Literal[2, 3]], tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    zero = {"reduce_bucket_size": 12_345, "stage3_prefetch_bucket_size": 0}
    path.write_text(json.dumps({"zero_optimization": zero}))
    config = tiny(8)
    engine = replace(config.engine, zero_g=stages[0], zero_d=stages[1], deepspeed_config=str(path))
    config = replace(config, engine=engine)
    (elements,) = run_on_ranks(1, bucket_elements, config)
    assert 4 * max(elements) == resident_memory(config, 1)["buffers of reductions"]


@pytest.mark.parametrize(
    ("fields", "num_ranks", "expected"),
    [
        ({}, 1, (0, 0)),
        ({}, 2, (1, 1)),
        ({"zero_g": 2, "zero_d": 3}, 1, (2, 3)),
        ({"offload_optimizer": True}, 1, (1, 1)),
        ({"deepspeed_config": "settings.json"}, 1, (1, 1)),
    ],
)
def test_a_single_rank_shards_nothing(
    fields: dict[str, Any], num_ranks: int, expected: tuple[int, int]
) -> None:
    assert EngineConfig(**fields).stages(num_ranks) == expected
