"""A plugin with one objective: the least-squares GAN with labels of your own.

    deepspeed launch/train_ffhq.py --preset demo --plugin examples/chi_square_objective.py \\
        --objective chi-square --chi-square-target 0.0 --data FACES --run-dir runs/chi-square

Mao et al., "Least Squares Generative Adversarial Networks" (ICCV 2017), eq. 2: D is drawn to the
label a on generated images and to b on real ones, and G draws D to c. With b - c = 1 and b - a = 2,
as in the defaults here, G minimises the Pearson chi-square divergence between p_data + p_g and
2 p_g (section 3.2). The program's own `lsgan` has a = 0 and b = c = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from realness.trainer.config import ObjectiveConfig, register, require
from realness.trainer.objectives.base import Objective
from realness.trainer.objectives.scalar import ScalarObjective


@register("chi-square")
@dataclass(frozen=True)
class ChiSquareConfig(ObjectiveConfig):
    """Least squares with labels a, b and c."""

    fake_label: float = -1.0
    """Label a of generated images."""
    real_label: float = 1.0
    """Label b of real images."""
    target: float = 0.0
    """Label c that G draws D's score of generated images to."""

    def __post_init__(self) -> None:
        require(
            self.fake_label != self.real_label,
            f"--chi-square-fake-label and --chi-square-real-label are both {self.real_label}, so "
            "that D would have nothing to tell apart; use -1 and 1",
        )

    @property
    def undecided(self) -> float | None:
        return (self.real_label + self.fake_label) / 2

    def build(self, members: int) -> Objective:
        def d_loss(real: Tensor, fake: Tensor) -> Tensor:
            of_real = (real - self.real_label).square().mean()
            of_fake = (fake - self.fake_label).square().mean()
            return (of_real + of_fake) / 2

        def g_loss(fake: Tensor) -> Tensor:
            return (fake - self.target).square().mean() / 2

        return ScalarObjective(d_loss, g_loss)
