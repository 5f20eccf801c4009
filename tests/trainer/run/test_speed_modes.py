"""Modes that make a run faster or smaller do not change its losses."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo
import torch._inductor.config
from torch import Tensor, nn

from realness import kernels
from realness.trainer.config import ConfigError, TrainConfig, with_fields
from realness.trainer.distributed.ranks import rank
from realness.trainer.engines import compiled as compiling
from realness.trainer.engines.compiled import torch_release
from realness.trainer.networks.recompute import recompute_blocks
from realness.trainer.objectives.penalties import gradient_squared_norm
from realness.trainer.randomness import Stream
from realness.trainer.updates.build import build_networks
from realness.trainer.updates.sharded_gan import build_gan
from realness.trainer.updates.step import update_d, update_g
from tests.helpers.labels import labels
from tests.helpers.plain_gan import ANOTHER_ORDER_LOSS
from tests.helpers.ranks import run_on_ranks
from tests.helpers.systems import BATCH, systems

STEPS = 10


def with_engine(config: TrainConfig, **fields: Any) -> TrainConfig:
    return replace(config, engine=replace(config.engine, **fields))


def losses_of(
    config: TrainConfig, steps: int = STEPS, after_step: Callable[[], None] = lambda: None
) -> np.ndarray:
    """[2, steps]: D's and G's on made-up images, with R1 and path lengths in every other step."""
    # Adam's division turns rounding of near-zero gradients into steps of full size.
    config = with_fields(config, optimizer_eps=1e-3)
    with kernels.implementation(config.engine.impl):
        gan = build_gan(config, torch.device("cpu"))
        rows = slice(rank() * gan.local_batch, (rank() + 1) * gan.local_batch)
        losses: list[list[float]] = [[], []]
        for step in range(steps):
            generator = torch.Generator().manual_seed(step)
            images = torch.randint(0, 256, (2, BATCH, 3, 32, 32), generator=generator)
            images = images.to(torch.uint8)[:, rows]
            real_d = gan.normalise(images[0], Stream.D_REAL, step * BATCH)
            real_g = gan.normalise(images[1], Stream.G_REAL, step * BATCH)
            of_d = labels(gan, Stream.D_REAL, step, BATCH)
            losses[0].append(update_d(gan, real_d, step * BATCH, labels=of_d)["loss_d"].item())
            of_g = labels(gan, Stream.G_REAL, step, BATCH)
            losses[1].append(update_g(gan, real_g, step * BATCH, labels=of_g)["loss_g"].item())
            after_step()
        gan.close()
    return np.array(losses)


SLOW = {"impl": "reference", "micro_batch": BATCH // 2, "zero_g": 0, "zero_d": 0}
"""The plainest code: PyTorch's operations in place of the fused ones, two passes per update."""
MODES: dict[str, tuple[dict[str, Any], float]] = {
    "fused": ({"impl": "auto"}, ANOTHER_ORDER_LOSS),
    "contiguous": ({"memory_format": "contiguous"}, ANOTHER_ORDER_LOSS),
    "recomputed": ({"checkpoint_activations": True}, ANOTHER_ORDER_LOSS),
    "recomputed at ZeRO 3": (
        {"checkpoint_activations": True, "zero_g": 3, "zero_d": 3},
        ANOTHER_ORDER_LOSS,
    ),
    "bf16": ({"precision": "bf16"}, 6e-2),
}
"""Modes as changes of the defaults, with the largest allowed difference of a loss of order 1:
rounding of fp32 in another order, or one rounding to 8 bits in each of ten updates."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "lr"), [("stylegan2", 2.5e-3), ("relativistic-r1-r2", 2e-2)])
def test_ten_losses_agree_in_every_mode(name: str, lr: float) -> None:
    config = systems()[name]
    config = replace(config, optimizer=replace(config.optimizer, lr_g=lr, lr_d=lr))
    [slowest] = run_on_ranks(1, losses_of, with_engine(config, **SLOW))
    assert np.ptp(slowest, axis=1).min() > 0.02  # they learn
    for mode, (fields, bound) in MODES.items():
        [losses] = run_on_ranks(1, losses_of, with_engine(config, **fields))
        assert np.abs(losses - slowest).max() < bound, mode
        # A mode that is ignored would agree bit for bit.
        assert mode != "bf16" or np.abs(losses - slowest).max() > 1e-6


def gradients(networks: tuple[nn.Module, nn.Module], config: TrainConfig) -> list[Tensor]:
    """Gradients of a loss with R1 in D's weights, then of the images alone in G's weights."""
    generator, discriminator = networks
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32, requires_grad=True)
    score = discriminator(images).sum(1)
    (score.sum() + gradient_squared_norm(score, images).sum()).backward()
    inputs = [torch.randn(4, config.g.z_dim)]
    if config.g.styles:
        inputs.append(torch.randn(4, generator.noise_dim))  # type: ignore[arg-type]
    generator(*inputs).square().sum().backward()
    weights = [*discriminator.parameters(), *generator.parameters()]
    return [w.grad.clone() for w in weights if w.grad is not None]


def saved_bytes(networks: tuple[nn.Module, nn.Module]) -> int:
    """Bytes that autograd keeps of D's forward pass outside recomputed blocks."""
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
    """First and second derivatives, bit for bit, with a fraction of the memory."""
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
    with pytest.raises(ConfigError, match="--checkpoint-activations needs networks made of blocks"):
        with_engine(systems()["realness"], checkpoint_activations=True)


BF16_RECOMPUTED = {"precision": "bf16", "checkpoint_activations": True}


def compiled_losses(config: TrainConfig, backend: str) -> tuple[np.ndarray, list[int], int]:
    """Losses of four steps, the number of graphs after each, and the breaks in them."""
    compiling.BACKEND = backend
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    graphs: list[int] = []
    losses = losses_of(config, 4, lambda: graphs.append(counters["stats"]["unique_graphs"]))
    return losses, graphs, counters["graph_break"].total()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num_ranks", "backend", "fields"),
    [
        ("realness-r1", 1, "inductor", {}),
        ("realness-r1", 2, "aot_eager", {"micro_batch": 2, "zero_g": 0, "zero_d": 2}),
        ("conditional-stylegan2", 1, "aot_eager", BF16_RECOMPUTED),
    ],
)
def test_compiled_losses_agree(
    name: str, num_ranks: int, backend: str, fields: dict[str, Any]
) -> None:
    """Compiled once, whole. (aot_eager traces as inductor does, and leaves out the C++ compiler,
    which takes most of a minute for each system.)"""
    if num_ranks > 1 and torch_release() < compiling.OLDEST_FOR_STATISTICS:
        pytest.skip("is refused with this torch")
    config = with_engine(systems()[name], **fields)
    eager = run_on_ranks(num_ranks, losses_of, config, 4)
    compiled = with_engine(config, compile=True)
    found = run_on_ranks(num_ranks, compiled_losses, compiled, backend)
    for (losses, graphs, breaks), expected in zip(found, eager, strict=True):
        assert np.abs(losses - expected).max() < ANOTHER_ORDER_LOSS
        assert breaks == 0
        # G with and without gradients; D trained and frozen; the compiler's own test.
        assert 5 <= graphs[0] <= 10
        assert graphs == [graphs[0]] * 4


def compiles_with(version: str, has_statistics: bool) -> bool:
    compiling.BACKEND = "eager"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "__version__", version)
        return compiling.can_compile(torch.device("cpu"), has_statistics=has_statistics)


def test_a_torch_that_compiles_statistics_wrongly_does_not_compile_them() -> None:
    assert run_on_ranks(2, compiles_with, "2.11.0+cu130", True) == [False, False]
    assert run_on_ranks(2, compiles_with, "2.13.0+cpu", True) == [True, True]
    assert run_on_ranks(2, compiles_with, "2.11.0+cu130", False) == [True, True]
    assert run_on_ranks(1, compiles_with, "2.11.0+cu130", True) == [True]


def compile_without_compiler() -> tuple[bool, list[str]]:
    """Whether a network is still compiled, and the log."""
    compiling.BACKEND = "inductor"
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("realness.trainer").addHandler(handler)
    with torch._inductor.config.patch({"cpp.cxx": (None, "/no/such/compiler")}):
        gan = build_gan(with_engine(systems()["realness"], compile=True), torch.device("cpu"))
    compiled = any(isinstance(engine._network, compiling.Compiled) for engine in (gan.g, gan.d))
    gan.close()
    return compiled, messages


def test_without_a_compiler_networks_run_uncompiled() -> None:
    for number, (compiled, messages) in enumerate(run_on_ranks(2, compile_without_compiler)):
        assert not compiled
        assert len(messages) == (number == 0)
        assert all("despite --compile" in text and "/no/such" in text for text in messages)


@pytest.mark.parametrize("stages", [{"zero_g": 3}, {"zero_d": 3}])
def test_compiling_sharded_weights_is_refused(stages: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"--compile does not combine with --zero-[gd]=3"):
        with_engine(systems()["realness"], compile=True, **stages)
