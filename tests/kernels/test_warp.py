"""Affine resampling: the definition against scipy, exact copies, the adjoint, fixed points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.signal import upfirdn
from torch import Tensor

from realness import kernels
from realness.kernels.warp.reference import CENTRE, MAX_SCALE, SYM6
from tests.helpers.kernel_cases import DTYPES, affine, laid_out

EPS = torch.finfo(torch.float64).eps
FILTER_NORM = sum(abs(tap) for tap in SYM6) / math.sqrt(2)  # of the filter that sums to 1


def matrices(*rows: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(list(rows), dtype=torch.float32)


def drawn_matrices(batch: int, height: int, width: int) -> Tensor:
    """Any rotation, scales of 2^+-0.6 per axis, mirror images, shifts of up to half the side."""
    angle = 2 * math.pi * torch.rand(2, batch)
    scale = 2 ** (1.2 * torch.rand(2, batch) - 0.6) * torch.tensor([1.0, -1.0])[:, None]
    turns = [torch.stack([a.cos(), -a.sin(), a.sin(), a.cos()], 1).view(-1, 2, 2) for a in angle]
    shift = (torch.rand(batch, 2, 1) - 0.5) * torch.tensor([width, height])[:, None]
    return torch.cat([turns[0] @ torch.diag_embed(scale.t()) @ turns[1], shift], 2)


# --- the definition


def test_the_taps_are_a_wavelet_with_six_vanishing_moments() -> None:
    """Daubechies' conditions; each tap has 12 digits or more."""
    taps = np.array(SYM6)
    for shift in range(6):
        product = (taps[: 12 - 2 * shift] * taps[2 * shift :]).sum()
        assert product == pytest.approx(float(shift == 0), abs=1e-11)
    for moment in range(6):
        terms = taps * np.arange(12.0) ** moment
        assert (terms[::2].sum() - terms[1::2].sum()) / abs(terms).sum() == pytest.approx(
            0, abs=1e-11
        )
    assert taps.sum() == pytest.approx(math.sqrt(2), abs=1e-12)


def by_scipy(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The definition, step by step, on an image extended far enough."""
    height, width = image.shape
    taps, pad = np.array(SYM6), 8 * max(image.shape)
    wide = np.pad(image, pad, mode="reflect")
    for axis in (0, 1):
        wide = upfirdn(math.sqrt(2) * taps, wide, up=2, axis=axis)
    # Sample m of a doubled row lies at pixel (m - CENTRE) / 2.
    rows, columns = np.indices((2 * height + 10, 2 * width + 10))
    places = np.stack([(columns - CENTRE) / 2 + 0.5 - width / 2, (rows - CENTRE) / 2 + 0.5])
    places[1] -= height / 2
    x, y = np.tensordot(matrix[:, :2], places, 1) + matrix[:, 2, None, None]
    at = [2 * (y - 0.5 + height / 2 + pad) + CENTRE, 2 * (x - 0.5 + width / 2 + pad) + CENTRE]
    grid = ndimage.map_coordinates(wide, at, order=1, mode="mirror")
    for axis in (0, 1):
        whole = upfirdn(taps[::-1] / math.sqrt(2), grid, axis=axis)
        grid = whole.take(np.arange(11, whole.shape[axis] - 11, 2), axis)
    return grid


@pytest.mark.parametrize("shape", [(32, 32), (5, 8), (24, 10), (2, 3)])
def test_the_reference_is_the_definition(shape: tuple[int, int]) -> None:
    image = torch.randn(shape, dtype=torch.float64)
    given = torch.cat(
        [
            drawn_matrices(4, *shape),
            matrices(affine(0, 1, 0.5, 0), affine(45, 2, 1, 2), affine(10, 1, 2 * shape[1], 0)),
        ]
    )
    with kernels.implementation("reference"):
        ours = kernels.warp(image.expand(len(given), 1, -1, -1), given)[:, 0]
    for found, matrix in zip(ours, given.double().numpy(), strict=True):
        exact = by_scipy(image.numpy(), matrix)
        # scipy's positions, about 8 sides from the corner, are rounded.
        places = 2 * 16 * max(shape) * EPS
        allowed = 64 * (places + EPS) * abs(image.numpy()).max() * FILTER_NORM**4
        np.testing.assert_allclose(found, exact, rtol=0, atol=allowed)


def test_colors_are_mixed_after_resampling(impl: kernels.Impl, device: torch.device) -> None:
    x, given = torch.randn(3, 3, 9, 7, dtype=torch.float64), drawn_matrices(3, 9, 7)
    color = torch.randn(3, 3, 4)
    with kernels.implementation(impl):
        plain = kernels.warp(x.to(device), given.to(device)).cpu()
        mixed = kernels.warp(x.to(device), given.to(device), color.to(device)).cpu()
    ones = torch.cat([plain, torch.ones_like(plain[:, :1])], 1)
    expected = torch.einsum("bij,bjhw->bihw", color.double(), ones)
    torch.testing.assert_close(mixed, expected, rtol=1e-13, atol=1e-13)


# --- pixels that map onto pixels

FLIPS: list[tuple[list[list[float]], tuple[int, tuple[int, ...]]]] = [
    ([[1, 0, 0], [0, 1, 0]], (0, ())),
    ([[-1, 0, 0], [0, 1, 0]], (0, (3,))),
    ([[1, 0, 0], [0, -1, 0]], (0, (2,))),
    ([[-1, 0, 0], [0, -1, 0]], (2, ())),
    ([[0, -1, 0], [1, 0, 0]], (1, ())),
    ([[0, 1, 0], [-1, 0, 0]], (3, ())),
    ([[0, 1, 0], [1, 0, 0]], (1, (3,))),
]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_flips_and_quarter_turns_are_exact(
    dtype: torch.dtype, layout: str, impl: kernels.Impl, device: torch.device
) -> None:
    """Every image of a batch decides by itself: the last one is filtered."""
    given = matrices(*(matrix for matrix, _ in FLIPS), affine(1, 1, 0, 0)).to(device)
    x = torch.randn(len(given), 3, 10, 10).to(device, dtype)
    with kernels.implementation(impl):
        found = kernels.warp(laid_out(x, layout), given)
    for i, (_, (turns, flipped)) in enumerate(FLIPS):
        assert torch.equal(found[i : i + 1], x[i : i + 1].flip(flipped).rot90(turns, (2, 3)))
    assert not torch.equal(found[-1], x[-1])


@pytest.mark.parametrize("shape", [(6, 9), (7, 4), (1, 5), (2, 2)])
def test_whole_pixel_shifts_are_exact(
    shape: tuple[int, int], impl: kernels.Impl, device: torch.device
) -> None:
    """Also past several reflections, and flipped; the gradient is the transpose."""
    height, width = shape
    shifts = list(itertools.product((-13, -1, 0, 2, 30), (-5, 0, 1, 17)))
    signs = [(-1) ** i for i in range(len(shifts))]
    given = matrices(
        *([[s, 0, dx], [0, 1, dy]] for s, (dx, dy) in zip(signs, shifts, strict=True))
    ).to(device)
    x = torch.randint(-9, 9, (len(shifts), 2, *shape)).double().to(device).requires_grad_()
    grad = torch.randint(-9, 9, x.shape).double().to(device)
    rows, columns = (np.pad(np.arange(n), 40, mode="reflect") for n in shape)
    with kernels.implementation(impl):
        found = kernels.warp(x, given)
        (gradient,) = torch.autograd.grad(found, x, grad)
    parts = []
    for image, sign, (dx, dy) in zip(x, signs, shifts, strict=True):
        flipped = sign * np.arange(width) + (width - 1 if sign < 0 else 0)
        parts.append(image[:, rows[40 + dy + np.arange(height)]][..., columns[40 + dx + flipped]])
    expected = torch.stack(parts)
    assert torch.equal(found, expected)
    assert torch.equal(gradient, torch.autograd.grad(expected, x, grad)[0])


def test_shears_and_half_pixels_are_filtered(impl: kernels.Impl, device: torch.device) -> None:
    x = torch.randint(0, 9, (3, 1, 8, 9), device=device).double()
    given = matrices([[1, 1, 0.5], [0, 1, 0]], [[1, 0, 0.5], [0, 1, 0]], [[0, 1, 0], [1, 0, 0]])
    with kernels.implementation(impl):
        found = kernels.warp(x, given.to(device))
    # The last is a quarter turn of a side that is odd by a side that is even: half a pixel off.
    assert ((found - found.round()).abs().amax((1, 2, 3)) > 1e-3).all()


# --- the transposed operator


@pytest.mark.parametrize("shape", [(32, 32), (24, 40), (3, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_gradient_is_the_adjoint(
    dtype: torch.dtype, shape: tuple[int, int], impl: kernels.Impl, device: torch.device
) -> None:
    """<A x, y> = <x, A^T y>, and the derivative of A^T is A."""
    given = torch.cat(
        [
            drawn_matrices(4, *shape),
            matrices(
                affine(90, 1, 0, 0),
                affine(30, 0.1, 1, 1),  # one pixel becomes ten
                affine(30, 5, 0, 0),  # many reflections
                [[1, 1, 0], [1, 1, 0.3]],  # singular
                [[0, 1, 0.2], [0, 0.5, 0]],
                [[0, 0, 0.2], [0, 0, 0.1]],
            ),
        ]
    ).to(device)
    color = torch.randn(len(given), 3, 4, device=device)
    color[..., 3] = 0
    x, y = torch.randn(2, len(given), 3, *shape).to(device, dtype)
    x, y = x.requires_grad_(), y.requires_grad_()
    with kernels.implementation(impl):
        forward = kernels.warp(x, given, color)
        (backward,) = torch.autograd.grad(forward, x, y, create_graph=True)
        (again,) = torch.autograd.grad(backward, y, x.detach())
    torch.testing.assert_close(again, forward, rtol=0, atol=0)
    products = [(a * b).double().sum((1, 2, 3)) for a, b in ((forward, y), (x, backward))]
    # By Hoelder's inequality, if elements of A x and A^T y err by 32 roundings of the largest.
    scale = sum(
        a.detach().double().abs().amax((1, 2, 3)) * b.detach().double().abs().sum((1, 2, 3))
        for a, b in ((forward, y), (backward, x))
    )
    error = (products[0] - products[1]).detach().abs()
    assert (error <= 32 * torch.finfo(dtype).eps * scale).all()  # type: ignore[operator]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (40, 6)])
def test_awkward_sizes_and_matrices(
    shape: tuple[int, int], impl: kernels.Impl, device: torch.device
) -> None:
    """Values and gradients in float64 against the reference, where windows and tiles have ends."""
    given = torch.cat(
        [
            drawn_matrices(6, *shape),
            matrices(
                *([[20, 0, 0], [0, 0.01, 9]], [[0, 0, 0], [0, 1, 0]], [[1e-7, 1, 0], [1, 0, 0.2]]),
                *([[1, -1, 0.4], [1, 1, 99]], [[-16, 3, 0], [2, 1, 0]], [[1, 2, 0], [2, 4.001, 0]]),
            ),
        ]
    )
    agrees_with_the_reference(given, shape, impl, device)


@pytest.mark.slow
def test_an_image_of_several_tiles(impl: kernels.Impl, device: torch.device) -> None:
    """On a CPU, whose tiles are the largest, as well."""
    agrees_with_the_reference(drawn_matrices(2, 70, 140), (70, 140), impl, device)


def agrees_with_the_reference(
    given: Tensor, shape: tuple[int, int], impl: kernels.Impl, device: torch.device
) -> None:
    """In float64: positions of up to 4,096 nodes, each with a rounding, become weights."""
    x, y = torch.randn(2, len(given), 2, *shape, dtype=torch.float64)
    found = []
    which: kernels.Impl
    for which in ("reference", impl):
        place = torch.device("cpu") if which == "reference" else device
        leaf = x.to(place).requires_grad_()
        with kernels.implementation(which):
            value = kernels.warp(leaf, given.to(place))
        found.append([value, *torch.autograd.grad(value, leaf, y.to(place))])
    for exact, ours in zip(*found, strict=True):
        limit = exact.detach().abs().amax((1, 2, 3)) * 4096 * EPS
        assert ((ours.cpu() - exact).abs().amax((1, 2, 3)) <= limit).all()


# --- what resampling must not change


def test_a_constant_stays_a_constant(impl: kernels.Impl, device: torch.device) -> None:
    given = torch.cat([drawn_matrices(6, 20, 33), matrices(affine(20, 9, 0, 0))])
    x = torch.full((len(given), 1, 20, 33), 3.0, dtype=torch.float64, device=device)
    with kernels.implementation(impl):
        found = kernels.warp(x, given.to(device))
    # The taps, of which even and odd ones must have the same sum, have 12 digits.
    torch.testing.assert_close(found, x, rtol=1e-11, atol=0)


def test_next_to_the_identity_an_image_hardly_changes(
    impl: kernels.Impl, device: torch.device
) -> None:
    """The filters reconstruct, so filtered images continue the copied ones, without a shift."""
    x = torch.randn(2, 1, 24, 16, dtype=torch.float64, device=device)
    turn, shift = 1e-5, 1e-4
    given = matrices([[1, -turn, 0], [turn, 1, 0]], [[1, 0, shift], [0, 1, -shift]]).to(device)
    with kernels.implementation(impl):
        found = kernels.warp(x, given)
    # Grid points move by this part of a node's distance; neighbouring nodes differ by at most
    # twice the largest, which the filter bounds: 2 per axis, with the gain of upsampling.
    moved = 2 * torch.tensor([turn * (24 + 16) / 2, 2 * shift])
    bound = moved * 2 * (2 * FILTER_NORM) ** 2 * FILTER_NORM**2 * x.abs().max().item()
    assert ((found - x).abs().amax((1, 2, 3)).cpu() <= bound).all()


TURNS = [(0, 1, 0.3, 0.2), (33, 1, 2, -1), (180, 1, 1e-3, 0), (90, 1.2, 2, 1), (-70, 0.8, 1, -2)]


@pytest.mark.parametrize("numbers", [*TURNS, (140, 2**0.6, -3, 1), (10, 2**-0.6, 0, 1)], ids=str)
def test_mass_moves_as_the_matrix_says(
    numbers: tuple[float, float, float, float], impl: kernels.Impl, device: torch.device
) -> None:
    """The centre of a blob: off by (A^-1 - 1) e, with e from the asymmetry of the filter alone."""
    side, sigma = 96, 6.0
    matrix = torch.tensor(affine(*numbers), dtype=torch.float32)
    at = torch.arange(side, dtype=torch.float64) + 0.5 - side / 2
    centre = torch.tensor([2.3, -3.1], dtype=torch.float64)
    blob = torch.exp(-((at - centre[0]) ** 2 + (at[:, None] - centre[1]) ** 2) / (2 * sigma**2))
    with kernels.implementation(impl):
        found = kernels.warp(blob[None, None].to(device), matrix[None].to(device))[0, 0].cpu()
    inverse = matrix[:, :2].double().inverse()
    expected = inverse @ (centre - matrix[:, 2].double())
    far = (at - expected[0]) ** 2 + (at[:, None] - expected[1]) ** 2
    found = found * (far.sqrt() * numbers[1] < 6 * sigma)  # without its mirror images
    measured = torch.stack([(found * at).sum(), (found * at[:, None]).sum()]) / found.sum()
    taps = np.array(SYM6)
    mass = (taps * np.arange(12)).sum() / taps.sum()
    predicted = (inverse - torch.eye(2)) @ torch.full((2,), (mass - CENTRE) / 2).double()
    # Linear interpolation errs by at most |u''| h^2 / 8 along each axis, with h = 1/2 pixel. For a
    # Gaussian, the integral of |x u_xx| + |x u_yy| is at most 3.2 / sigma of its mass.
    tolerance = 3.2 / sigma / 32 / numbers[1]
    assert (measured - expected).abs().max() <= predicted.abs().max() + tolerance
    assert (measured - expected - predicted).abs().max() <= tolerance


# --- limits


def test_matrices_that_are_not_finite_give_nan(impl: kernels.Impl, device: torch.device) -> None:
    """For their own images only."""
    given = matrices(affine(30, 1, 0, 0), affine(30, 1, 0, 0), affine(0, 1, 0, 0)).to(device)
    given[0, 1, 2], given[2, 0, 1] = math.nan, math.inf
    x = torch.randn(3, 3, 8, 8, device=device, requires_grad=True)
    with kernels.implementation(impl):
        found = kernels.warp(x, given)
        (gradient,) = torch.autograd.grad(found.sum(), x)
    for result in (found, gradient):
        assert result.isnan().all((1, 2, 3)).tolist() == [True, False, True]  # type: ignore[call-overload]
        assert result[1].isfinite().all()


def test_matrices_are_limited(impl: kernels.Impl, device: torch.device) -> None:
    """Larger entries would reach more mirror images than a kernel should visit."""
    large = matrices([[1e30, 0.3, -1e9], [0.1, -1, 1]], [[1, -50, 0], [0, 1, 7e4]]).to(device)
    limit, shift = MAX_SCALE, MAX_SCALE * 12
    same = matrices([[limit, 0.3, -shift], [0.1, -1, 1]], [[1, -limit, 0], [0, 1, shift]])
    x = torch.randn(2, 3, 6, 12, device=device, requires_grad=True)
    with kernels.implementation(impl):
        found = [kernels.warp(x, given) for given in (large, same.to(device))]
        gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in found]
    assert torch.equal(*found)
    assert torch.equal(*gradients)
