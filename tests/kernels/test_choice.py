"""What "auto" takes on a CPU by operator, shape, layout and dtype: all compute the same.

The choices follow from measurements (benchmarks/LOG.md), which no test repeats.
"""

from __future__ import annotations

import platform
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from realness import kernels
from realness.kernels import build
from tests.helpers.kernel_calls import Recorder

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
BLUR: dict[str, Any] = {"padding": 2}
UNEVEN: dict[str, Any] = {"padding": (2, 1, 2, 1)}
DOWN: dict[str, Any] = {"down": 2, "padding": 1}
UP: dict[str, Any] = {"up": 2, "padding": (2, 1, 2, 1), "gain": 4.0}
NHWC, NCHW = torch.channels_last, torch.contiguous_format
FLOAT, BF16 = torch.float32, torch.bfloat16


class Choice(NamedTuple):
    """An image and a filter; `forward`, `backward`: whether torch's convolution computes them."""

    dtype: torch.dtype
    layout: torch.memory_format
    shape: tuple[int, ...]
    options: dict[str, Any]
    forward: bool
    backward: bool


CHOICES = [
    # channels_last: from 2^18 outputs on in float32, 2^21 in bfloat16, and there not to upsample.
    Choice(FLOAT, NHWC, (2, 16, 96, 96), BLUR, True, True),
    Choice(FLOAT, NHWC, (2, 16, 64, 64), BLUR, False, False),
    Choice(FLOAT, NHWC, (2, 16, 96, 96), DOWN, False, True),
    Choice(FLOAT, NHWC, (2, 3, 128, 128), UP, True, False),
    Choice(FLOAT, NHWC, (2, 16, 96, 96), UNEVEN, False, False),  # would need a padded copy
    Choice(FLOAT, NHWC, (2, 16, 96, 96), UP | {"down": 3}, False, False),
    Choice(BF16, NHWC, (2, 64, 128, 128), BLUR, True, True),
    Choice(BF16, NHWC, (2, 64, 96, 96), BLUR, False, False),
    Choice(BF16, NHWC, (2, 64, 96, 96), UP, False, False),
    # Contiguous: from 16 channels on, but not in large images whose rows are whole vectors.
    Choice(FLOAT, NCHW, (2, 16, 8, 8), BLUR, True, True),
    Choice(FLOAT, NCHW, (2, 16, 9, 9), DOWN, True, True),
    Choice(FLOAT, NCHW, (2, 16, 8, 8), UP, True, True),
    Choice(FLOAT, NCHW, (2, 8, 8, 8), BLUR, False, False),
    Choice(FLOAT, NCHW, (4, 32, 256, 256), DOWN, False, False),
    Choice(FLOAT, NCHW, (4, 32, 255, 255), BLUR, False, True),
    Choice(BF16, NCHW, (2, 16, 8, 8), BLUR, True, True),
    Choice(BF16, NCHW, (2, 16, 8, 8), DOWN, True, False),
    Choice(BF16, NCHW, (2, 16, 8, 8), UP, False, True),
]


def convolves(function: Any) -> tuple[Tensor, bool]:
    """The result, and whether torch's convolution computed it."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        result = function()
    return result, any(event.key == "aten::convolution" for event in profiled.key_averages())


def rounding(x: Tensor, y: Tensor, gain: float) -> float:
    """The largest error of `y`: 16 products summed in float32, then one rounding to its dtype.

    The taps are positive and their sum is `gain`, so that no sum of products is above gain max|x|.
    """
    summed = 16 * torch.finfo(torch.float32).eps * gain * x.abs().max().item()
    return summed + torch.finfo(y.dtype).eps * y.abs().max().item()


def check(found: Tensor, exact: Tensor, x: Tensor, gain: float) -> None:
    assert (found.double() - exact).abs().max().item() <= rounding(x, found, gain)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="measured on x86-64 only")
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_upfirdn2d_by_convolution_or_loops(choice: Choice) -> None:
    """Value, gradient and second derivative, against the reference in float64."""
    if choice.dtype == BF16 and build.cpu_level() < 4:
        pytest.skip("without AVX-512 the loops do all of bfloat16")
    gain = choice.options.get("gain", 1.0)

    def filtered(x: Tensor) -> Tensor:
        return kernels.upfirdn2d(x, TAPS, **choice.options)

    def drawn(*shape: int) -> Tensor:
        x = torch.randn(shape).to(choice.dtype).contiguous(memory_format=choice.layout)
        return x.requires_grad_()

    x, other = drawn(*choice.shape), drawn(*choice.shape)
    with torch.no_grad():
        y, by_convolution = convolves(lambda: filtered(x))
    assert by_convolution == choice.forward
    grad = drawn(*y.shape)
    gradient, by_convolution = convolves(
        lambda: torch.autograd.grad(filtered(x), x, grad, create_graph=True)[0]
    )
    assert by_convolution == (choice.forward or choice.backward)
    (second,) = torch.autograd.grad(gradient, grad, other)
    with kernels.implementation("reference"):
        wide = x.detach().double().requires_grad_()
        exact = filtered(wide)
        (exact_gradient,) = torch.autograd.grad(exact, wide, grad.detach().double())
        exact_second = filtered(other.detach().double())
    check(y, exact, x, gain)
    check(gradient, exact_gradient, grad, gain)
    check(second, exact_second, other, gain)
    for result, like in ((y, grad), (gradient, x), (second, grad)):
        assert result.stride() == like.stride()


def test_taps_that_bfloat16_rounds_are_for_the_loops() -> None:
    x = torch.randn(2, 16, 8, 8, dtype=BF16)
    f = torch.full((4,), 0.3)
    y, by_convolution = convolves(lambda: kernels.upfirdn2d(x, f, padding=2))
    assert not by_convolution
    with kernels.implementation("reference"):
        exact = kernels.upfirdn2d(x.double(), f.double(), padding=2)
    check(y, exact, x, 1.2**2)


@pytest.mark.parametrize("dtype", [FLOAT, BF16])
def test_small_sums_are_left_to_pytorch(dtype: torch.dtype) -> None:
    """They are faster there; the compiled operators are for CUDA, and for those who ask."""
    x, w, s = torch.randn(2, 3, 4, 4), torch.randn(5, 3, 3, 3), torch.randn(2, 3)
    for call in (
        lambda: kernels.squared_norm(x.to(dtype)),
        lambda: kernels.demodulate(w.to(dtype), s.to(dtype)),
    ):
        found: dict[kernels.Impl, Tensor] = {}
        expected: dict[kernels.Impl, int] = {"auto": 0, "reference": 0, "cpu": 1}
        for impl, number in expected.items():
            with kernels.implementation(impl), Recorder() as recorder:
                found[impl] = call()
            assert len(recorder.calls) == number
        assert torch.equal(found["auto"], found["reference"])
        torch.testing.assert_close(found["auto"], found["cpu"])
