"""What makes a run faster or smaller leaves its losses where they were."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ranks import run_on_ranks
from systems import BATCH, systems
from torch import Tensor, nn

from realness.trainer.config import ConfigError, TrainConfig
from realness.trainer.distributed import rank
from realness.trainer.networks import recompute_blocks
from realness.trainer.penalties import gradient_squared_norm
from realness.trainer.randomness import Stream
from realness.trainer.sharded_gan import build_gan, build_networks
from realness.trainer.step import train_d, train_g

STEPS = 10


def with_engine(config: TrainConfig, **fields: Any) -> TrainConfig:
    return replace(config, engine=replace(config.engine, **fields))


def ten_losses(config: TrainConfig) -> np.ndarray:
    """[2, STEPS]: D's and G's on made-up images, with R1 and path lengths in every other step."""
    # Adam's division turns rounding of near-zero gradients into steps of full size.
    config = replace(config, optimizer=replace(config.optimizer, optimizer_eps=1e-3))
    gan = build_gan(config, torch.device("cpu"))
    rows = slice(rank() * gan.local_batch, (rank() + 1) * gan.local_batch)
    losses: list[list[float]] = [[], []]
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        images = torch.randint(0, 256, (2, BATCH, 3, 32, 32), generator=generator)
        images = images.to(torch.uint8)[:, rows]
        real_d = gan.normalise(images[0], Stream.D_REAL, step * BATCH)
        real_g = gan.normalise(images[1], Stream.G_REAL, step * BATCH)
        losses[0].append(train_d(gan, real_d, step * BATCH)["loss_d"].item())
        losses[1].append(train_g(gan, real_g, step * BATCH)["loss_g"].item())
    gan.close()
    return np.array(losses)


SLOW = {"impl": "reference", "micro_batch": BATCH // 2, "zero_g": 0, "zero_d": 0}
"""The plainest code: PyTorch's operations in place of the fused ones, two passes an update."""
MODES: dict[str, tuple[dict[str, Any], float]] = {
    "fused": ({"impl": "auto"}, 1e-5),
    "contiguous": ({"memory_format": "contiguous"}, 1e-5),
    "recomputed": ({"checkpoint_activations": True}, 1e-5),
    "recomputed at ZeRO 3": ({"checkpoint_activations": True, "zero_g": 3, "zero_d": 3}, 1e-5),
    "bf16": ({"precision": "bf16"}, 2e-2),
}
"""What differs from the defaults, and the greatest difference of a loss, of order 1, that it may
make: rounding of fp32 in another order, or of 8 bits of mantissa over ten updates."""


@pytest.mark.parametrize(("name", "lr"), [("stylegan2", 2.5e-3), ("relativistic-r1-r2", 2e-2)])
def test_ten_losses_agree_in_every_mode(name: str, lr: float) -> None:
    config = systems()[name]
    config = replace(config, optimizer=replace(config.optimizer, lr_g=lr, lr_d=lr))
    [slowest] = run_on_ranks(1, ten_losses, with_engine(config, **SLOW))
    assert np.ptp(slowest, axis=1).min() > 0.02  # they learn
    for mode, (fields, bound) in MODES.items():
        [losses] = run_on_ranks(1, ten_losses, with_engine(config, **fields))
        assert np.abs(losses - slowest).max() < bound, mode
        # A mode that were ignored would agree to the bit.
        assert mode != "bf16" or np.abs(losses - slowest).max() > 1e-6


def gradients(networks: tuple[nn.Module, nn.Module], config: TrainConfig) -> list[Tensor]:
    """Of a loss with R1, in D's weights; then of the images alone, in G's."""
    generator, discriminator = networks
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32, requires_grad=True)
    score = discriminator(images).sum(1)
    (score.sum() + gradient_squared_norm(score, images).sum()).backward()
    inputs = [torch.randn(4, config.g.z_dim)]
    if config.g.generator == "stylegan2":
        inputs.append(torch.randn(4, generator.noise_dim))  # type: ignore[arg-type]
    generator(*inputs).square().sum().backward()
    weights = [*discriminator.parameters(), *generator.parameters()]
    return [w.grad.clone() for w in weights if w.grad is not None]


def saved_bytes(networks: tuple[nn.Module, nn.Module]) -> int:
    """What autograd keeps of D's forward pass outside of blocks that are computed again."""
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        networks[1](torch.zeros(4, 3, 32, 32))
    return total


@pytest.mark.parametrize("name", ["stylegan2", "0gp-sample"])
def test_recomputed_gradients_are_exact(name: str) -> None:
    """First and second derivatives, to the bit, from a fraction of the memory."""
    config = systems()[name]
    plain, again = build_networks(config)[:2], build_networks(config)[:2]
    expected, kept = gradients(plain, config), saved_bytes(plain)
    assert all(recompute_blocks(network) >= 3 for network in again)
    found = gradients(again, config)
    assert len(found) == len(expected) > 20
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert saved_bytes(again) < 0.5 * kept


def test_recomputing_is_refused_where_statistics_would_move_twice() -> None:
    with pytest.raises(ConfigError, match="--checkpoint-activations needs networks of blocks"):
        with_engine(systems()["realness"], checkpoint_activations=True)
