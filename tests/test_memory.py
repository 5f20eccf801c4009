"""The estimate of a rank's memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from realness.launch.presets import preset
from realness.trainer.memory import checkpoint_bytes, count_parameters, estimate_memory
from realness.trainer.sharded_gan import build_networks

ACTIVATIONS = "activations of the D step"


def test_weights_and_moments_follow_from_the_counts() -> None:
    config = preset("cifar10-standard-dcgan")
    g, d, _ = build_networks(config)
    counts = count_parameters(g), count_parameters(d)
    memory = estimate_memory(replace(config, engine=replace(config.engine, zero_g=0, zero_d=0)), 1)
    assert memory["weights"] == 4 * sum(counts)
    assert memory["optimiser's moments"] == 8 * sum(counts)
    assert memory["moving average"] == 4 * counts[0]
    assert checkpoint_bytes(config) == 4 * (4 * counts[0] + 3 * counts[1])


def test_activations_are_what_autograd_keeps() -> None:
    """A real D step on real tensors keeps as many bytes as the estimate says."""
    config = preset("cifar10-standard-dcgan")
    config = replace(config, engine=replace(config.engine, impl="reference"), batch_size=4)
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
