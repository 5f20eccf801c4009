"""P2GAN: Zhang et al., "Posterior Promoted GAN with Distribution Discriminator" (CVPR 2021).

D maps each image to a posterior N(mu, diag(sigma^2)) over codes of d dimensions. Distances between
Gaussians are those between samples with the same noise (eq. 4 to 7): z = mu + eps sigma with one
eps for both, so that E_eps[(z_1 - z_2)^2] = (mu_1 - mu_2)^2 + (sigma_1 - sigma_2)^2.

mu, sigma and eps are [B, d] below. Means are over rows and dimensions, so the weights of the losses
do not depend on d.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from realness.trainer.objectives.base import as_float32
from realness.trainer.objectives.configs import CodeSource
from realness.trainer.randomness import Draws, Purpose


@dataclass(frozen=True)
class GaussianPrior:
    """A virtual ground truth N(mean, std^2 I): every dimension has the same mean and deviation."""

    mean: float
    std: float


Factors = tuple[Tensor, Tensor]
"""mu and sigma of one posterior per row."""


def posterior_factors(output: Tensor) -> Factors:
    """mu and sigma [B, d] from D's output [B, 2 d]: mu is the first half, sigma = softplus(second).

    The paper's head has no activation, so the sign of sigma is undefined; softplus makes it
    positive.
    """
    mean, raw = output.chunk(2, dim=1)
    return mean, F.softplus(raw)


def midpoint(fake_prior: GaussianPrior, real_prior: GaussianPrior) -> GaussianPrior:
    """P_c, G's target and D's output at convergence (eq. 9 and 20): means of mu and of sigma."""
    return GaussianPrior(
        (fake_prior.mean + real_prior.mean) / 2, (fake_prior.std + real_prior.std) / 2
    )


def sample(factors: Factors, noise: Tensor) -> Tensor:
    """z = mu + eps sigma, eq. 3."""
    mean, std = factors
    return mean + noise * std


def sampled_distance(factors: Factors, prior: GaussianPrior, noise: Tensor) -> Tensor:
    """Dis = E[(z_1 - z_2)^2] / 2 between posteriors and a prior, eq. 4 with a_1 - a_2 of eq. 6."""
    return (sample(factors, noise) - (prior.mean + noise * prior.std)).square().mean() / 2


def exact_distance(factors: Factors, prior: GaussianPrior) -> Tensor:
    """Dis = ((mu_1 - mu_2)^2 + (sigma_1 - sigma_2)^2) / 2, the expectation over eps (eq. 7)."""
    mean, std = factors
    return ((mean - prior.mean).square() + (std - prior.std).square()).mean() / 2


def p2gan_d_loss(
    real: Factors,
    fake: Factors,
    noise_real: Tensor,
    noise_fake: Tensor,
    real_prior: GaussianPrior,
    fake_prior: GaussianPrior,
) -> Tensor:
    """E[(D(x) - P_b)^2] / 2 + E[(D(G(eps, z)) - P_a)^2] / 2, eq. 8."""
    on_real = sampled_distance(real, real_prior, noise_real)
    return on_real + sampled_distance(fake, fake_prior, noise_fake)


def p2gan_adversarial_loss(fake: Factors, noise: Tensor, aim: GaussianPrior) -> Tensor:
    """E[(D(G(eps, z)) - P_c)^2] / 2, eq. 9."""
    return sampled_distance(fake, aim, noise)


def p2gan_code_loss(fake: Factors, real: Factors, noise: Tensor) -> Tensor:
    """E|D(x_g) - D(x_r)|, the latent code regulariser of eq. 12.

    Row b of `fake` is the image that was generated from a code of row b of `real`.
    """
    return (sample(fake, noise) - sample(real, noise)).abs().mean()


def p2gan_score(factors: Factors, real_prior: GaussianPrior, fake_prior: GaussianPrior) -> Tensor:
    """Dis(D(x), P_a) - Dis(D(x), P_b) of each row, without its constant, [B].

    The squares of mu and sigma cancel (eq. 7), which leaves mu (mu_b - mu_a) + sigma (sigma_b -
    sigma_a), a mean over dimensions. The paper defines no score; this is the counterpart of
    RealnessGAN's KL(A0 || D(x)) - KL(A1 || D(x)).
    """
    mean, std = factors
    score = mean * (real_prior.mean - fake_prior.mean) + std * (real_prior.std - fake_prior.std)
    return score.mean(1)


def convergence_measure(real: Factors, fake: Factors, optimum: GaussianPrior) -> Tensor:
    """M_c = E[(D(x) - D*)^2] / 2 + E[(D(G(eps, z)) - D*)^2] / 2, eq. 21, exact in eps."""
    return exact_distance(real, optimum) + exact_distance(fake, optimum)


@dataclass(frozen=True)
class P2GANObjective:
    """P2GAN as a `CodeObjective`: P_a (fake), P_b (real), lambda of eq. 13 and d dimensions.

    G takes codes of d dimensions if it has posterior modules. They come from D's posteriors of real
    images, or from N(0, I) with the source "noise"; the losses are the same for both.
    """

    fake_prior: GaussianPrior
    real_prior: GaussianPrior
    code_weight: float
    posterior_dim: int
    posterior_modules: bool = True
    code_source: CodeSource = "posterior"
    needs_real_in_g_step: bool = True

    @property
    def num_outputs(self) -> int:
        return 2 * self.posterior_dim

    @property
    def code_dim(self) -> int:
        return self.posterior_dim if self.posterior_modules else 0

    @property
    def loss_couples_samples(self) -> bool:
        return False

    @property
    def optimum(self) -> GaussianPrior:
        """P_c."""
        return midpoint(self.fake_prior, self.real_prior)

    def d_loss(self, real: Tensor, fake: Tensor, draws_real: Draws, draws_fake: Draws) -> Tensor:
        on_real, on_fake = self.factors(real), self.factors(fake)
        noise_real = self._noise(draws_real, on_real)
        noise_fake = self._noise(draws_fake, on_fake)
        return p2gan_d_loss(
            on_real, on_fake, noise_real, noise_fake, self.real_prior, self.fake_prior
        )

    def g_loss(
        self, fake: Tensor, real: Tensor | None, draws_fake: Draws, draws_real: Draws | None
    ) -> Tensor:
        if real is None:
            raise ValueError("P2GAN's eq. 12 needs D's output on real images in the G step")
        on_fake, on_real = self.factors(fake), self.factors(real.detach())
        # The noise of G's input code comes from `draws_real`. It cannot be used here: an image
        # depends on its code, and eq. 7 holds for noise that is independent of the image.
        noise = self._noise(draws_fake, on_fake)
        adversarial = p2gan_adversarial_loss(on_fake, noise, self.optimum)
        return adversarial + self.code_weight * p2gan_code_loss(on_fake, on_real, noise)  # eq. 13

    def score(self, output: Tensor) -> Tensor:
        return p2gan_score(self.factors(output), self.real_prior, self.fake_prior)

    def measures(
        self, real: Tensor, fake: Tensor, draws_real: Draws, draws_fake: Draws
    ) -> dict[str, Tensor]:
        on_real, on_fake = self.factors(real), self.factors(fake)
        return {"convergence": convergence_measure(on_real, on_fake, self.optimum)}

    def code(self, output: Tensor, draws: Draws) -> Tensor:
        factors = self.factors(output)
        noise = self._noise(draws, factors)
        return noise if self.code_source == "noise" else sample(factors, noise)

    def factors(self, output: Tensor) -> Factors:
        return posterior_factors(as_float32(output))

    def typical_factors(self) -> Factors:
        of_codes = GaussianPrior(0.0, 1.0) if self.code_source == "noise" else self.optimum
        shape = (self.posterior_dim,)
        return torch.full(shape, of_codes.mean), torch.full(shape, of_codes.std)

    def _noise(self, draws: Draws, factors: Factors) -> Tensor:
        return draws.normal(Purpose.CODE, self.posterior_dim).to(factors[0].dtype)
