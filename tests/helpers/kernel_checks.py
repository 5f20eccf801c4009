"""Values and gradients of a kernel's case against the float64 reference."""

from __future__ import annotations

import torch
from torch import Tensor

from realness import kernels
from tests.helpers.kernel_cases import Case


def results(case: Case, impl: kernels.Impl, inputs: list[Tensor]) -> list[Tensor]:
    """Outputs and, for fixed random cotangents, the gradients of all differentiable inputs."""
    inputs = [x.detach() for x in inputs]
    leaves = [inputs[i].requires_grad_() for i in case.differentiable]
    outputs = case.outputs(impl, inputs)
    found = [y.detach() for y in outputs]
    if leaves:
        generator = torch.Generator().manual_seed(1)
        cotangents = [
            torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y) for y in outputs
        ]
        found += torch.autograd.grad(outputs, leaves, cotangents)
    return found


def error(actual: Tensor, exact: Tensor) -> float:
    """The largest difference, computed in float64."""
    return (actual.double().cpu() - exact).abs().max().item() if exact.numel() else 0.0


def errors(case: Case, impl: kernels.Impl, inputs: list[Tensor]) -> list[tuple[float, float]]:
    """The error of every result against float64, and the allowed one.

    Allowed is twice the error of the reference in the same dtype, plus rounding.
    """
    exact = results(case, "reference", [x.double().cpu() for x in inputs])
    plain = results(case, "reference", inputs)
    actual = results(case, impl, inputs)
    found = []
    for ours, theirs, truth in zip(actual, plain, exact, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == truth.shape
        scale = truth.abs().max().item() if truth.numel() else 0.0
        # For float64 the reference counts as exact, since its error is unknown. In float32, sums of
        # up to 1,024 terms in a different order differ by sqrt(1024) roundings; narrower types sum
        # in float32 and round once.
        roundings = {torch.float64: 256, torch.float32: 32}.get(ours.dtype, 8)
        allowed = 2 * error(theirs, truth) + roundings * torch.finfo(ours.dtype).eps * scale
        found.append((error(ours, truth), allowed))
    return found
