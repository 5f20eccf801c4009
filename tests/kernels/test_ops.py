"""Every op, on every implementation: values and derivatives against the float64 reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from realness import kernels
from tests.helpers.kernel_cases import BY_NAME, CASES, Case, variants
from tests.helpers.kernel_checks import errors

SLOW = pytest.mark.slow


def all_variants() -> list[Any]:
    """The cases of `variants`; all but the plainest of the 2,000 are marked as slow."""
    return [
        pytest.param(*variant, marks=() if variant[1:] == (torch.float32, "contiguous") else SLOW)
        for variant in variants()
    ]


@pytest.mark.parametrize(
    ("name", "dtype", "layout"), all_variants(), ids=lambda x: str(x).replace("torch.", "")
)
def test_matches_float64_reference(
    name: str, dtype: torch.dtype, layout: str, impl: kernels.Impl, device: torch.device
) -> None:
    """Error against float64 at most twice that of the same-dtype reference, plus rounding."""
    case = BY_NAME[name]
    inputs = case.inputs(dtype, device, layout)
    for i, (error, allowed) in enumerate(errors(case, impl, inputs)):
        assert error <= allowed, f"result {i}"


@pytest.mark.parametrize("case", [c for c in CASES if c.order], ids=lambda c: c.name)
def test_derivatives(case: Case, impl: kernels.Impl, device: torch.device) -> None:
    """Against finite differences, to the documented order."""
    inputs = case.inputs(torch.float64, device, "contiguous")
    for i in case.differentiable:
        inputs[i].requires_grad_()

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(case.outputs(impl, list(tensors)))

    if inputs[0].numel() == 0:
        pytest.skip("nothing to differentiate")
    assert gradcheck(function, inputs, fast_mode=True)
    if case.order == 2:
        assert gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize(
    "name",
    [
        "squared_norm-4x8x4x4",
        "upfirdn2d-blur",
        "bias_act-lrelu-2x8x4x4-1.0-None",
        "warp-turned_colors",
    ],
)
def test_layout_is_kept(name: str, impl: kernels.Impl, device: torch.device) -> None:
    """channels_last in, channels_last out, forwards and backwards."""
    case = BY_NAME[name]
    inputs = case.inputs(torch.float32, device, "channels_last")
    x = inputs[0].requires_grad_()
    (y,) = case.outputs(impl, inputs)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    for tensor in (y, gradient) if y.dim() == 4 else (gradient,):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
