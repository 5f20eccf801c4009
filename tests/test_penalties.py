"""R1 against closed forms and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from realness.trainer.config import DiscriminatorConfig, ObjectiveConfig
from realness.trainer.networks import build_discriminator
from realness.trainer.objectives import build_objective
from realness.trainer.penalties import r1_penalty

OBJECTIVE = build_objective(ObjectiveConfig(num_outcomes=5))


def mean_penalty(network: nn.Module, images: Tensor) -> Tensor:
    images = images.detach().requires_grad_()
    return r1_penalty(OBJECTIVE.score(network(images)), images).mean()


def test_quadratic_score_in_closed_form():
    """score = x^T A x / 2 with A symmetric: the penalty is |A x|^2 and its gradient in A known."""
    torch.manual_seed(0)
    a = torch.randn(6, 6, dtype=torch.float64)
    a = (a + a.T).requires_grad_()
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    penalty = r1_penalty(0.5 * ((x @ a) * x).sum(1), x)
    torch.testing.assert_close(penalty, (x @ a).square().sum(1))
    (grad,) = torch.autograd.grad(penalty.sum(), a)
    # The gradient of the score is (A + A^T) x / 2.
    half = x.T @ (x @ a)
    torch.testing.assert_close(grad, half + half.T)


@pytest.mark.parametrize("norm", ["spectral", "none"])
def test_parameter_gradient_against_finite_differences(norm):
    """d/dt of the penalty along a random direction of all of D's weights, in float64."""
    torch.manual_seed(0)
    config = DiscriminatorConfig(d_width=2, d_norm=norm)
    network = build_discriminator(config, 32, OBJECTIVE.num_outputs, "reference").double()
    if norm == "none":  # at N(0, 0.02) five layers leave a penalty of 1e-9
        for parameter in network.parameters():
            parameter.data.mul_(10)
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(mean_penalty(network, images), parameters)
    directions = [p.std().item() * torch.randn_like(p) for p in parameters]
    expected = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))

    def at(step: float) -> float:
        shifted = {
            name: p.detach() + step * d
            for (name, p), d in zip(network.named_parameters(), directions, strict=True)
        }
        moved = lambda x: torch.func.functional_call(network, shifted, (x,))  # noqa: E731
        return mean_penalty(moved, images).item()  # type: ignore[arg-type]

    step = 1e-7
    difference = (at(step) - at(-step)) / (2 * step)
    assert abs(difference) > 1e-6
    assert difference == pytest.approx(float(expected), rel=1e-5)


def test_rows_are_independent():
    torch.manual_seed(0)
    network = build_discriminator(DiscriminatorConfig(d_width=2), 32, OBJECTIVE.num_outputs)
    images = torch.randn(4, 3, 32, 32)
    whole = images.clone().requires_grad_()
    part = images[1:2].clone().requires_grad_()
    penalty = r1_penalty(OBJECTIVE.score(network(whole)), whole)
    alone = r1_penalty(OBJECTIVE.score(network(part)), part)
    torch.testing.assert_close(penalty[1:2], alone)


def test_gaussian_resampling_does_not_enter_the_penalty():
    """`score` acts on the output as it is, so gaussian and no resampling have one penalty."""
    torch.manual_seed(0)
    network = build_discriminator(DiscriminatorConfig(d_width=2), 32, 5)
    penalties = []
    for resample in ("gaussian", "none"):
        objective = build_objective(ObjectiveConfig(num_outcomes=5, resample=resample))
        torch.manual_seed(1)
        images = torch.randn(2, 3, 32, 32, requires_grad=True)
        penalties.append(r1_penalty(objective.score(network(images)), images))
    assert torch.equal(*penalties)


def test_needs_gradients_on_the_images():
    images = torch.randn(2, 3)
    with pytest.raises(ValueError, match="requires_grad_"):
        r1_penalty(images.sum(1), images)


def test_needs_one_score_a_sample():
    images = torch.randn(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match=r"shape \(2, 3\), expected \[2\]"):
        r1_penalty(images * 2, images)
