"""Gradients averaged over ranks: values, layouts, missing ones, bad losses, and the bytes sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from realness.trainer.config import TrainConfig
from realness.trainer.distributed.ranks import rank
from realness.trainer.engines.gradient_reduction import average_gradients
from realness.trainer.randomness import Stream
from realness.trainer.updates.sharded_gan import build_gan
from realness.trainer.updates.step import update_d
from tests.helpers.plain_gan import images, tiny
from tests.helpers.ranks import run_on_ranks
from tests.helpers.watching import Watch

SHAPES = (4, 3, 2, 2), (5,)


def gradient(owner: int, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(10 * owner + number)
    return torch.randn(SHAPES[number], generator=generator)


def averaged(dtype: torch.dtype | None) -> Mapping[str, np.ndarray | float]:
    """Two weights with gradients, and one that only rank 0 has used; rank 1's loss is bad."""
    weights = [nn.Parameter(torch.zeros(shape)) for shape in (*SHAPES, (3,))]
    own = [gradient(rank(), number) for number in range(2)]
    weights[0].grad = own[0].contiguous(memory_format=torch.channels_last)
    weights[1].grad = own[1]
    if rank() == 0:
        weights[2].grad = torch.ones(3)
    found: dict[str, np.ndarray | float] = {}
    for name, bad in (("bad", float(rank() == 1)), ("good", 0.0)):
        found[name] = average_gradients(weights, torch.tensor(bad), dtype).item()
    for number, weight in enumerate(weights):
        assert weight.grad is not None
        found[str(number)] = weight.grad.numpy()
    assert weights[0].grad.is_contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr]
    return found


def test_the_mean_over_ranks() -> None:
    for found in run_on_ranks(2, averaged, None):
        assert (found["bad"], found["good"]) == (1, 0)
        for number in range(2):
            mean = (gradient(0, number) + gradient(1, number)) / 2
            np.testing.assert_array_equal(found[str(number)], mean.numpy())
        np.testing.assert_array_equal(found["2"], [0.5] * 3)


def test_the_mean_in_bf16() -> None:
    """Each rank's value and the sum are rounded to 8 bits: at most 2^-9 of either."""
    for found in run_on_ranks(2, averaged, torch.bfloat16):
        assert (found["bad"], found["good"]) == (1, 0)
        for number in range(2):
            sides = gradient(0, number), gradient(1, number)
            bound = 2**-8 * sum(side.abs() for side in sides)
            error = np.abs(found[str(number)] - ((sides[0] + sides[1]) / 2).numpy())
            assert (error <= bound.numpy()).all()  # type: ignore[union-attr]
            assert error.max() > 0


def sent(configs: list[TrainConfig]) -> list[int]:
    """Bytes of all-reduces in an update of D."""
    found = []
    for config in configs:
        gan = build_gan(config, torch.device("cpu"))
        real = images(Stream.D_REAL, 0, 8)[4 * rank() :][:4]
        with Watch() as watch:
            loss = update_d(gan, real, 8)["loss_d"]
        assert loss.isfinite()
        found.append(watch.sent["allreduce_"])
        gan.close()
    return found


def test_bf16_sends_half() -> None:
    stages: tuple[Literal[0, 1], ...] = (0, 1)
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    config = tiny(8)
    num_weights = 4032  # of D
    configs = [
        replace(
            config,
            engine=replace(config.engine, zero_g=stage, zero_d=stage, reduce_precision=precision),
        )
        for stage in stages
        for precision in precisions
    ]
    for whole_0, half_0, whole_1, half_1 in run_on_ranks(2, sent, configs):
        assert whole_0 - half_0 == 2 * (num_weights + 1)  # and the mark of a bad loss
        assert whole_1 - half_1 == 2 * num_weights
