"""The generator: one stream of integers everywhere, normals that agree to rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from realness import kernels

SEEDS = (0, 1, 2**63 - 1, -(2**63))
INDEX = torch.tensor([0, 1, 5, 2**32 - 1, 2**32, 2**62 + 3])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dim", [0, 1, 4, 7, 51])
def test_integers_and_uniforms_are_the_reference_bit_for_bit(
    seed: int, dim: int, impl: kernels.Impl, device: torch.device
) -> None:
    index = INDEX.to(device)
    for draw in (kernels.philox_uint32, kernels.philox_uniform):
        with kernels.implementation(impl):
            ours = draw(seed, 2**32 - 1, index, dim)
        with kernels.implementation("reference"):
            assert torch.equal(ours.cpu(), draw(seed, 2**32 - 1, INDEX, dim))


def test_normals_agree_to_rounding(impl: kernels.Impl, device: torch.device) -> None:
    index = torch.arange(500)
    with kernels.implementation(impl):
        ours = kernels.philox_normal(3, 1, index.to(device), 9)
    with kernels.implementation("reference"):
        exact = kernels.philox_normal(3, 1, index, 9)
    torch.testing.assert_close(ours.cpu(), exact, rtol=1e-6, atol=1e-6)


def test_rows_do_not_depend_on_the_split(impl: kernels.Impl, device: torch.device) -> None:
    index = torch.arange(100, 112, device=device)
    with kernels.implementation(impl):
        whole = kernels.philox_normal(9, 4, index, 5)
        parts = [kernels.philox_normal(9, 4, part, 5) for part in index.split(5)]
        reordered = kernels.philox_normal(9, 4, index.flip(0)[::2], 5)
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(reordered, whole.flip(0)[::2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("outcomes", [1, 6, 51])
def test_losses_draw_the_same_noise(
    outcomes: int, dtype: torch.dtype, impl: kernels.Impl, device: torch.device
) -> None:
    """Bit for bit what philox_normal draws, in every loss."""
    real, fake = torch.randn(2, 5, outcomes, device=device).to(dtype)
    fake.requires_grad_()
    a, b = torch.randn(2, outcomes, device=device).softmax(1)
    index = (2**40 + torch.arange(10, device=device))[::2]
    draws = kernels.NormalDraws(-3, 4, index), kernels.NormalDraws(7, 2**32 - 1, index)

    def loss(objective: int, noise_real: Any, noise_fake: Any) -> torch.Tensor:
        if not objective:
            return kernels.realness_d_loss(real, fake, a, b, noise_real, noise_fake)
        noise = noise_fake, noise_real
        return kernels.realness_g_loss(fake, real, a, b, *noise, objective=objective)

    with kernels.implementation(impl):
        given = [kernels.philox_normal(*x, dim=outcomes) for x in draws]
        losses = [[loss(number, *noise) for noise in (draws, given)] for number in range(4)]
    for pair in losses:
        found = [(value, *torch.autograd.grad(value, fake)) for value in pair]
        assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))


@kernels.implementation("reference")
def test_uniforms_stay_inside_the_interval() -> None:
    draws = kernels.philox_uniform(1, 0, torch.arange(200_000), 4)
    assert 0 < draws.min() < 1e-5
    assert 1 - 1e-5 < draws.max() < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2**63, 0, INDEX, 1), "seed"),
        ((0, -1, INDEX, 1), "purpose"),
        ((0, 2**32, INDEX, 1), "purpose"),
        ((0, 0, INDEX, -1), "dim"),
        ((0, 0, INDEX.int(), 1), "index"),
        ((0, 0, INDEX[None], 1), "index"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kernels.philox_normal(*arguments)
