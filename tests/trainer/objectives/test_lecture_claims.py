"""Claims of the lecture notes on GANs, in closed form: vanishing gradients, and games that circle.

Eq. 1 to 3 with Fig. 8 (absolute error against cross-entropy on D's sigmoid), and section 7 with
Fig. 20 (min over x, max over y of x y, and of x^2 / y).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from realness.trainer.objectives.scalar import standard_d_loss, wgan_d_loss, wgan_g_loss

# Losses of a real image with the logit s, where D(x) = sigmoid(s).
LOGITS = torch.linspace(-20, 20, 4001, dtype=torch.float64)


def absolute_error(scores: Tensor) -> Tensor:
    """1 - D(x): eq. 2.b up to a constant."""
    return torch.sigmoid(-scores)


def squared_error(scores: Tensor) -> Tensor:
    return torch.sigmoid(-scores).square()


def cross_entropy(scores: Tensor) -> Tensor:
    """The part of eq. 3 that depends on real images."""
    far_below = torch.full((1,), -1e3, dtype=scores.dtype)
    return torch.stack([standard_d_loss(score[None], far_below) for score in scores])


def speeds(loss: Callable[[Tensor], Tensor], scores: Tensor) -> Tensor:
    """The norm of the gradient with respect to each logit."""
    scores = scores.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(scores).sum(), scores)
    return gradient.abs()


def test_cross_entropy_learns_faster_the_larger_the_error():
    """Its gradient is the error 1 - D(x) itself."""
    speed = speeds(cross_entropy, LOGITS)
    torch.testing.assert_close(speed, torch.sigmoid(-LOGITS))
    assert (speed.diff() < 0).all()


@pytest.mark.parametrize(
    ("loss", "fastest", "form"),
    [
        (absolute_error, 1 / 2, lambda d: d * (1 - d)),
        (squared_error, 1 / 3, lambda d: 2 * d * (1 - d) ** 2),
    ],
)
def test_absolute_and_squared_errors_vanish_at_large_errors(loss, fastest, form):
    """Their gradients have a factor D (1 - D): greatest at D = 1/2 or 1/3, and 0 at both ends."""
    speed, d = speeds(loss, LOGITS), torch.sigmoid(LOGITS)
    torch.testing.assert_close(speed, form(d))
    # Logits are 0.01 apart, and D changes by at most a quarter of that.
    assert d[speed.argmax()].item() == pytest.approx(fastest, abs=0.0025)
    wrong = LOGITS < -10
    assert (speed[wrong] < 2 * math.exp(-10)).all()
    assert (speeds(cross_entropy, LOGITS[wrong]) > 1 - math.exp(-10)).all()


def updates_to_undecided(speed: Callable[[float], float], start: float, rate: float) -> int:
    """Steps of gradient descent on a real image's logit until D(x) = 1/2."""
    score, count = start, 0
    while score < 0:
        score += rate * speed(score)
        count += 1
    return count


def test_a_confident_mistake_takes_an_error_on_the_sigmoid_much_longer():
    """From s = -6 to 0 in the time of ds/dt = speed: 415.4 for the absolute error, 7.0 for
    cross-entropy. These are the integrals of 2 + 2 cosh(s) and of 1 + e^s.

    Steps of size h use the speed at their start. Over one step, log(speed) changes by at most h, so
    that each takes between h e^-h and h e^h of time, and the last one ends beyond 0.
    """
    rate, start = 0.05, -6.0
    times = {
        "absolute": (lambda s: 1 / (2 + 2 * math.cosh(s)), 12 + 2 * math.sinh(6)),
        "cross-entropy": (lambda s: 1 / (1 + math.exp(s)), 7 - math.exp(-6)),
    }
    measured = {}
    for name, (speed, time) in times.items():
        measured[name] = rate * updates_to_undecided(speed, start, rate)
        assert time * math.exp(-rate) < measured[name] < time * math.exp(rate) + rate
    assert measured["absolute"] > 50 * measured["cross-entropy"]


# Games. D(x) = y x with one parameter y, data at 0 and a generated point at x: the Wasserstein GAN
# of this problem is the game min over x, max over y of -x y, which is the notes' one with -y.

RATE, STEPS = 0.1, 2000


def gradients(x: float, y: float) -> tuple[float, float]:
    """(of G's loss by x, of D's loss by y), from the losses that training uses."""
    point, slope = torch.tensor([x, y], dtype=torch.float64).requires_grad_().split(1)
    (of_x,) = torch.autograd.grad(wgan_g_loss(slope * point), point)
    (of_y,) = torch.autograd.grad(wgan_d_loss(slope * 0.0, slope * point), slope)
    return of_x.item(), of_y.item()


def test_the_losses_of_the_wasserstein_gan_are_the_game():
    assert gradients(0.3, -2.0) == (2.0, 0.3)


def test_simultaneous_descent_spirals_away():
    """Both step from the same point: each step multiplies the distance by sqrt(1 + rate^2)."""
    x, y = 0.3, -2.0
    start = math.hypot(x, y)
    for _ in range(50):
        of_x, of_y = gradients(x, y)
        x, y = x - RATE * of_x, y - RATE * of_y
    assert math.hypot(x, y) == pytest.approx(start * (1 + RATE**2) ** 25)


def alternate(x: float, y: float, steps: int, gamma: float = 0.0) -> list[tuple[float, float]]:
    """D's step, then G's, as in Algorithm 1; gamma is the weight of R1, gamma / 2 * y^2."""
    path = []
    for _ in range(steps):
        y -= RATE * (x + gamma * y)
        x += RATE * y
        path.append((x, y))
    return path


def test_alternating_descent_circles_for_ever():
    """x^2 + y^2 - rate x y does not change, so that the path stays on an ellipse around (0, 0)."""
    path = alternate(0.3, -2.0, STEPS)
    y = -2.0 - RATE * gradients(0.3, -2.0)[1]
    assert path[0] == pytest.approx((0.3 - RATE * gradients(0.3, y)[0], y))

    def level(x: float, y: float) -> float:
        return x * x + y * y - RATE * x * y

    levels = [level(*point) for point in path]
    assert levels == pytest.approx([level(0.3, -2.0)] * STEPS)
    # It goes round: by an angle of about `rate` per step, hence 31 times.
    turns = sum(a[0] < 0 <= b[0] for a, b in itertools.pairwise(path))
    assert turns == pytest.approx(RATE * STEPS / (2 * math.pi), abs=1)


@pytest.mark.parametrize("gamma", [0.2, 1.0])
def test_a_gradient_penalty_makes_it_converge(gamma):
    """R1 is the remedy (Mescheder et al., 2018): one step is a linear map of determinant
    1 - rate gamma, with complex eigenvalues, which shrinks the distance by its root on average."""
    path = alternate(0.3, -2.0, STEPS, gamma)
    matrix = [[1 - RATE**2, RATE * (1 - RATE * gamma)], [-RATE, 1 - RATE * gamma]]
    trace = matrix[0][0] + matrix[1][1]
    assert trace**2 < 4 * (1 - RATE * gamma)
    shrinking = math.log(math.hypot(*path[-1]) / math.hypot(*path[0])) / (STEPS - 1)
    # The ellipse of a complex pair leaves a constant factor, of e^2 or less here.
    assert shrinking == pytest.approx(math.log(1 - RATE * gamma) / 2, abs=2 / STEPS)


def convergent_game(rate: float, time: float) -> tuple[float, float]:
    """Simultaneous steps of min over x, max over y of x^2 / y, from (1, 2)."""
    x, y = 1.0, 2.0
    for _ in range(round(time / rate)):
        x, y = x - rate * 2 * x / y, y - rate * (x / y) ** 2
    return x, y


def test_the_other_game_converges():
    """x goes to 0, at least by 1 - 2 rate / y_0 per step since y only falls. With vanishing steps
    x^2 - 2 y^2 does not change, so that y ends at sqrt(y_0^2 - x_0^2 / 2)."""
    end, errors = math.sqrt(4 - 1 / 2), []
    for rate in (0.02, 0.01):
        x, y = convergent_game(rate, time=20)
        assert 0 < x <= (1 - 2 * rate / 2) ** round(20 / rate)
        errors.append(abs(y - end))
    # Euler's method is of first order.
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] < 0.01
