"""The references against independent results: scipy, published numbers, properties."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scipy.signal
import scipy.special
import scipy.stats
import torch
import torch.nn.functional as F
from scipy.signal import upfirdn
from torch.autograd import gradcheck, gradgradcheck

from realness import kernels
from realness.kernels.philox.reference import philox4x32

# Random123's kat_vectors for philox4x32-10: counter, key, result.
PHILOX_VECTORS = [
    ("0" * 32, "0" * 16, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("f" * 32, "f" * 16, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "243f6a8885a308d313198a2e03707344",
        "a4093822299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.fixture(autouse=True)
def references() -> Iterator[None]:
    with kernels.implementation("reference"):
        yield


def words(text: str) -> list[int]:
    return [int(text[i : i + 8], 16) for i in range(0, len(text), 8)]


@pytest.mark.parametrize(("counter", "key", "expected"), PHILOX_VECTORS)
def test_philox_matches_random123(counter: str, key: str, expected: str) -> None:
    c0, c1, c2, c3 = (torch.tensor([word]) for word in words(counter))
    k0, k1 = words(key)
    assert philox4x32((c0, c1, c2, c3), (k0, k1))[0].tolist() == words(expected.replace(" ", ""))


def distributions() -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    logits = 3 * torch.randn(4, 17, dtype=torch.float64)
    return (
        logits,
        scipy.special.softmax(logits.numpy(), 1),
        np.random.default_rng(0).dirichlet(np.ones(17)),
    )


def test_kl_matches_scipy() -> None:
    logits, q, anchor = distributions()
    ours = kernels.realness_kl(logits, torch.from_numpy(anchor))
    np.testing.assert_allclose(ours, [scipy.stats.entropy(anchor, row) for row in q], rtol=1e-12)


def test_divergence_matches_scipy() -> None:
    logits, q, _ = distributions()
    ours = kernels.realness_divergence(logits, logits.flip(0))
    np.testing.assert_allclose(ours, scipy.stats.entropy(q, q[::-1], axis=1), rtol=1e-12)


def test_emd_matches_scipy() -> None:
    logits, q, anchor = distributions()
    positions = np.arange(17)
    expected = [scipy.stats.wasserstein_distance(positions, positions, row, anchor) for row in q]
    ours = kernels.realness_emd(logits, torch.from_numpy(anchor))
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_two_outcomes_give_the_standard_gan() -> None:
    """With one-hot anchors on two outcomes eq. 3 is the cross-entropy of a sigmoid of the logit."""
    real, fake = torch.randn(2, 6, 2, dtype=torch.float64)
    one, zero = torch.tensor([0.0, 1.0]).double(), torch.tensor([1.0, 0.0]).double()
    ours = kernels.realness_d_loss(real, fake, one, zero)
    logit_real, logit_fake = real[:, 1] - real[:, 0], fake[:, 1] - fake[:, 0]
    expected = F.softplus(-logit_real).mean() + F.softplus(logit_fake).mean()
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


def test_resampled_logits_have_the_batch_moments() -> None:
    logits = torch.randn(64, 5, dtype=torch.float64) * 3 + 2
    noise = torch.randn(64, 5, dtype=torch.float64)
    noise = (noise - noise.mean(0)) / noise.std(0, correction=0)
    ours = kernels.resample_logits(logits, noise)
    np.testing.assert_allclose(ours.mean(0), logits.mean(0), rtol=1e-12)
    np.testing.assert_allclose(ours.numpy().std(0), logits.numpy().std(0), rtol=1e-12)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_upfirdn2d_matches_scipy(up: int, down: int) -> None:
    image, f = torch.randn(9, 9, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    # scipy pads by the filter's reach and omits the last up - 1 zeros.
    expected = upfirdn(f, upfirdn(f, image, up, down, axis=0), up, down, axis=1)
    ours = kernels.upfirdn2d(image[None, None], f, up=up, down=down, padding=3)[0, 0]
    np.testing.assert_allclose(ours[: len(expected), : len(expected)], expected, atol=1e-12)


@pytest.mark.parametrize(("up", "down"), [((1, 1), (1, 1)), ((2, 1), (1, 3)), ((3, 2), (2, 1))])
@pytest.mark.parametrize("padding", [(2, 2, 1, 1), (2, 1, 3, 0), (-1, 4, 2, -2), (0, 5, 6, 7)])
@pytest.mark.parametrize("flip", [False, True])
def test_upfirdn2d_is_its_definition(
    up: tuple[int, int], down: tuple[int, int], padding: tuple[int, ...], flip: bool
) -> None:
    """Insert zeros, pad or crop, scipy's convolution, drop pixels; channel by channel."""
    x, f = torch.randn(2, 3, 6, 7).double(), torch.randn(3, 4).double()
    ours = kernels.upfirdn2d(x, f, up=up, down=down, padding=padding, flip=flip, gain=1.5)
    left, right, top, bottom = padding
    filtered = scipy.signal.correlate2d if flip else scipy.signal.convolve2d
    for sample, channel in np.ndindex(2, 3):
        wide = np.zeros((6 * up[1], 7 * up[0]))
        wide[:: up[1], :: up[0]] = x[sample, channel]
        wide = np.pad(wide, [(max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0))])
        height, width = wide.shape
        wide = wide[max(-top, 0) : height - max(-bottom, 0), max(-left, 0) : width - max(-right, 0)]
        expected = 1.5 * filtered(wide, f, "valid")[:: down[1], :: down[0]]
        np.testing.assert_allclose(ours[sample, channel], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "options", [{"padding": 2}, {"down": 2, "padding": (1, 2, 0, 1)}, {"up": 2}]
)
def test_the_reference_of_upfirdn2d_is_twice_differentiable(options: dict[str, Any]) -> None:
    x, f = torch.randn(1, 2, 5, 4).double().requires_grad_(), torch.randn(3, 3).double()
    squares = lambda x: kernels.upfirdn2d(x, f, **options).square()  # noqa: E731
    assert gradcheck(squares, x, fast_mode=True)
    assert gradgradcheck(squares, x, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_reference_of_upfirdn2d_keeps_the_layout(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 6, 6, dtype=dtype).contiguous(memory_format=torch.channels_last)
    every: list[dict[str, Any]] = [{"up": 2}, {"down": 2}, {"padding": (1, 2, 1, 2)}]
    for options in every:
        y = kernels.upfirdn2d(x, torch.ones(4), **options)
        assert y.is_contiguous(memory_format=torch.channels_last)


def test_demodulated_weights_have_unit_norm() -> None:
    weight, style = torch.randn(6, 5, 3, 3).double(), torch.randn(2, 5).double()
    coefficient = kernels.demodulate(weight, style, eps=0.0)
    modulated = weight * style[:, None, :, None, None] * coefficient[:, :, None, None, None]
    norms = modulated.square().sum((2, 3, 4))
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_power_iteration_finds_the_largest_singular_value(
    impl: kernels.Impl, device: torch.device
) -> None:
    weight = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5])).reshape(4, 4, 1, 1).to(device)
    u, v = [torch.ones(4, device=device)], [torch.ones(4, device=device)]
    with kernels.implementation(impl):
        for _ in range(60):
            kernels.spectral_norm_step([weight], u, v)
        (scaled,) = kernels.spectral_scale([weight], u, v)
    sigma = torch.linalg.matrix_norm(scaled.flatten(1), 2).item()
    assert sigma == pytest.approx(1, rel=1e-5)
    assert u[0].norm().item() == pytest.approx(1, rel=1e-6)
    assert v[0].norm().item() == pytest.approx(1, rel=1e-6)


def test_normal_draws_are_normal() -> None:
    draws = kernels.philox_normal(7, 3, torch.arange(20_000), 3).flatten()
    assert scipy.stats.kstest(draws.double().numpy(), "norm").pvalue > 1e-3
