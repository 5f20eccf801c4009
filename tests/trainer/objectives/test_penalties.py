"""Gradient penalties against closed forms and finite differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from realness import kernels
from realness.trainer.config import ConfigError, EngineConfig, PenaltyConfig, TrainConfig
from realness.trainer.networks.build import build_discriminator
from realness.trainer.networks.configs import DCGANDiscriminatorConfig
from realness.trainer.objectives.base import build_objective
from realness.trainer.objectives.configs import RealnessConfig
from realness.trainer.objectives.penalties import (
    finite_difference_squared_norm,
    gradient_squared_norm,
    interpolate,
    one_centered,
    zero_centered,
)
from realness.trainer.updates.schedule import lazy_weight

Form = Callable[[Tensor], Tensor]
OBJECTIVE = build_objective(RealnessConfig(num_outcomes=5))


def mean_penalty(network: nn.Module, images: Tensor, form: Form = zero_centered) -> Tensor:
    images = images.detach().requires_grad_()
    squared_norm = gradient_squared_norm(OBJECTIVE.score(network(images)), images)
    return form(squared_norm).mean()


def test_quadratic_score_in_closed_form():
    """score = x^T A x / 2 with A symmetric: the penalty is |A x|^2 and its gradient in A known."""
    torch.manual_seed(0)
    a = torch.randn(6, 6, dtype=torch.float64)
    a = (a + a.T).requires_grad_()
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    penalty = gradient_squared_norm(0.5 * ((x @ a) * x).sum(1), x)
    torch.testing.assert_close(penalty, (x @ a).square().sum(1))
    (grad,) = torch.autograd.grad(penalty.sum(), a)
    # The gradient of the score is (A + A^T) x / 2.
    half = x.T @ (x @ a)
    torch.testing.assert_close(grad, half + half.T)


@pytest.mark.parametrize("form", [zero_centered, one_centered])
@pytest.mark.parametrize("norm", ["spectral", "none"])
@kernels.implementation("reference")
def test_parameter_gradient_against_finite_differences(norm, form):
    """d/dt of the penalty along a random direction of all of D's weights, in float64."""
    torch.manual_seed(0)
    config = DCGANDiscriminatorConfig(d_width=2, d_norm=norm)
    network = build_discriminator(config, 32, OBJECTIVE.num_outputs).double()
    if norm == "none":  # at N(0, 0.02) five layers leave a penalty of 1e-9
        for parameter in network.parameters():
            parameter.data.mul_(10)
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(mean_penalty(network, images, form), parameters)
    directions = [p.std().item() * torch.randn_like(p) for p in parameters]
    expected = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))

    def at(step: float) -> float:
        shifted = {
            name: p.detach() + step * d
            for (name, p), d in zip(network.named_parameters(), directions, strict=True)
        }
        moved = lambda x: torch.func.functional_call(network, shifted, (x,))  # noqa: E731
        return mean_penalty(moved, images, form).item()  # type: ignore[arg-type]

    step = 1e-7
    difference = (at(step) - at(-step)) / (2 * step)
    assert abs(difference) > 1e-6
    assert difference == pytest.approx(float(expected), rel=1e-5)


def test_rows_are_independent():
    torch.manual_seed(0)
    network = build_discriminator(DCGANDiscriminatorConfig(d_width=2), 32, OBJECTIVE.num_outputs)
    images = torch.randn(4, 3, 32, 32)
    whole = images.clone().requires_grad_()
    part = images[1:2].clone().requires_grad_()
    penalty = gradient_squared_norm(OBJECTIVE.score(network(whole)), whole)
    alone = gradient_squared_norm(OBJECTIVE.score(network(part)), part)
    torch.testing.assert_close(penalty[1:2], alone)


def test_gaussian_resampling_does_not_enter_the_penalty():
    """`score` acts on the output as it is, so gaussian and no resampling have one penalty."""
    torch.manual_seed(0)
    network = build_discriminator(DCGANDiscriminatorConfig(d_width=2), 32, 5)
    penalties = []
    for resample in ("gaussian", "none"):
        objective = build_objective(RealnessConfig(num_outcomes=5, resample=resample))
        torch.manual_seed(1)
        images = torch.randn(2, 3, 32, 32, requires_grad=True)
        penalties.append(gradient_squared_norm(objective.score(network(images)), images))
    assert torch.equal(*penalties)


def test_needs_gradients_on_the_images():
    images = torch.randn(2, 3)
    with pytest.raises(ValueError, match="requires_grad_"):
        gradient_squared_norm(images.sum(1), images)


def test_needs_one_score_a_sample():
    images = torch.randn(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match=r"shape \(2, 3\), expected \[2\]"):
        gradient_squared_norm(images * 2, images)


def test_one_centered_in_closed_form():
    """score = w x: the penalty is (|w| - 1)^2, its gradient 2 (|w| - 1) w / |w|."""
    w = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    x = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    squared_norm = gradient_squared_norm((x * w).sum(1), x)
    penalty = one_centered(squared_norm)
    torch.testing.assert_close(penalty, torch.full((7,), 16.0, dtype=torch.float64))
    (grad,) = torch.autograd.grad(penalty.mean(), w, retain_graph=True)
    torch.testing.assert_close(grad, 8 * w.detach() / 5)
    torch.testing.assert_close(zero_centered(squared_norm), torch.full_like(penalty, 25.0))


def test_one_centered_is_finite_where_the_gradient_is_zero():
    """x^2 a at x = 0, together with a sample of gradient 2: the flat sample gets no gradient."""
    a = torch.ones((), requires_grad=True)
    x = torch.tensor([[0.0], [1.0]], requires_grad=True)
    penalty = one_centered(gradient_squared_norm((a * x.square()).sum(1), x))
    torch.testing.assert_close(penalty, torch.tensor([1.0, 1.0]))
    grads = torch.autograd.grad(penalty.sum(), [a, x])
    torch.testing.assert_close(grads[0], torch.tensor(4.0))  # d (2a - 1)^2 / da at a = 1
    torch.testing.assert_close(grads[1], torch.tensor([[0.0], [4.0]]))


def test_interpolation_is_one_point_of_each_segment():
    real, fake = torch.randn(2, 3, 2, 4, 4).unbind()
    share = torch.tensor([[0.0], [0.25], [1.0]])
    points = interpolate(real, fake, share)
    expected = [real[0], 0.75 * real[1] + 0.25 * fake[1], fake[2]]
    torch.testing.assert_close(points, torch.stack(expected))
    flat = interpolate(real.flatten(1), fake.flatten(1), share)
    assert torch.equal(flat, points.flatten(1))


@pytest.mark.parametrize("shape", [(3,), (3, 2), (1, 1), (2, 1)])
def test_interpolation_needs_one_share_a_sample(shape):
    real = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"expected two equal shapes and \[3, 1\]"):
        interpolate(real, real, torch.zeros(shape))
    with pytest.raises(ValueError, match="cannot interpolate"):
        interpolate(real, real[:1], torch.zeros(3, 1))


@pytest.mark.parametrize(("interval", "batch"), [(512, 32), (96, 32), (80, 32), (32, 32), (0, 8)])
def test_lazy_terms_weigh_what_they_would_without_laziness(interval: int, batch: int) -> None:
    """Due once per interval of images, from the first update on; a mean weight of 1 over many."""
    weights = [lazy_weight(interval, first, batch) for first in range(0, 1600 * batch, batch)]
    assert weights[0] == max(1, interval / batch)
    assert sum(weights) / len(weights) == pytest.approx(1, abs=0.02)
    crossed = {0, *range(interval, 1600 * batch, interval)} if interval else set()
    for number, weight in enumerate(weights):
        first = number * batch
        due = any(first - batch < image <= first for image in crossed)
        assert (weight > 0) == (due or interval <= batch)


@kernels.implementation("reference")
def difference_error(activation, norm, dtype, form, **step) -> float:
    """Relative error of the weights' gradient of a penalty by central differences."""
    torch.manual_seed(0)
    config = DCGANDiscriminatorConfig(d_width=4, d_norm=norm, d_activation=activation)
    network = build_discriminator(config, 32, OBJECTIVE.num_outputs).to(dtype)
    if norm != "spectral":
        for parameter in network.parameters():
            parameter.data.mul_(5)
    images = torch.rand(4, 3, 32, 32, dtype=dtype).mul_(2).sub_(1)
    weights = list(network.parameters())

    def score(points: Tensor) -> Tensor:
        return OBJECTIVE.score(network(points))

    points = images.requires_grad_()
    exact = form(gradient_squared_norm(score(points), points)).mean()
    approximate = form(finite_difference_squared_norm(score, points, **step)).mean()
    torch.testing.assert_close(approximate, exact)
    right, near = (
        torch.cat([g.flatten() for g in torch.autograd.grad(value, weights)])
        for value in (exact, approximate)
    )
    return ((near - right).norm() / right.norm()).item()


@pytest.mark.parametrize("form", [zero_centered, one_centered])
@pytest.mark.parametrize("norm", ["spectral", "layer", "none"])
def test_central_difference_converges_to_the_exact_gradient(norm, form):
    """A tenth of the step has a hundredth of the error, and the default step is good in fp32."""
    coarse, fine = (
        difference_error("silu", norm, torch.float64, form, step=step) for step in (1e-3, 1e-4)
    )
    assert fine == pytest.approx(coarse / 100, rel=0.1)
    # Layer normalisation curves more.
    assert fine < (1e-4 if norm == "layer" else 1e-6)
    default = difference_error("silu", norm, torch.float32, form)
    assert default < (2e-2 if norm == "layer" else 1e-4)


def test_central_difference_is_wrong_for_rectifiers_and_refused():
    errors = [
        difference_error("lrelu", "spectral", torch.float64, zero_centered, step=step)
        for step in (1e-1, 1e-2, 1e-3)
    ]
    assert min(errors) > 0.3
    penalty = PenaltyConfig(r1_gamma=1.0, r1="finite-difference")
    with pytest.raises(ConfigError, match="wrong by at least 30 %"):
        TrainConfig(penalty=penalty)
    smooth = DCGANDiscriminatorConfig(d_activation="silu")
    with pytest.raises(ConfigError, match="--precision=bf16 cannot resolve"):
        TrainConfig(penalty=penalty, d=smooth, engine=EngineConfig(precision="bf16"))
