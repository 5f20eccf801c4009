"""The objectives of this program: settings, capabilities, and how they are built.

Nothing here loads torch before an objective is built: the command line needs only the settings.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from realness.trainer.config import (
    ObjectiveConfig,
    not_negative,
    positive,
    register,
    require,
)

if TYPE_CHECKING:
    from realness.trainer.objectives.anchor_source import AnchorSource
    from realness.trainer.objectives.base import Objective
    from realness.trainer.objectives.resampling import Resampling

Divergence = Literal["kl", "emd"]
"""D_KL(target || D), or the Earth Mover's Distance, which section 2.3 suggests as alternative."""
CodeSource = Literal["posterior", "noise"]
"""Where G's codes come from: D's posteriors of real images, or N(0, I) (P2GAN's Table 5)."""


@dataclass(frozen=True)
class AnchorConfig:
    """The virtual ground truths A1 (real) and A0 (fake) of RealnessGAN (ICLR 2020, section 2.2)."""

    anchors: Literal["skewnorm", "histogram"] = "skewnorm"
    """Skew-normals binned on [-1, 1] (the paper), or histograms of 1,000 draws (its code)."""
    skew_real: float = 5.0
    """Skewness parameter of A1."""
    skew_fake: float = -5.0
    """Skewness parameter of A0."""
    anchor_loc: float = 0.0
    """Location of A1's skew-normal; A0 uses its negative."""
    anchor_scale: float = 1.0
    """Scale of the skew-normals."""
    anchor_kl: float | None = None
    """Scale both skews by the factor that gives this D_KL(A1 || A0)."""

    def __post_init__(self) -> None:
        positive(self, "anchor_scale")
        if self.anchor_kl is not None:
            positive(self, "anchor_kl")

    def build(self, num_outcomes: int) -> AnchorSource:
        """The source of anchors. Raises ValueError if no pair has the divergence `anchor_kl`."""
        from realness.trainer.objectives import anchor_source, anchors

        if self.anchors == "histogram":
            return anchor_source.HistogramAnchors(num_outcomes)
        shape = {"loc": self.anchor_loc, "scale": self.anchor_scale}
        skews = {"skew_real": self.skew_real, "skew_fake": self.skew_fake}
        if self.anchor_kl is None:
            pair = anchors.skewnorm_pair(num_outcomes, **skews, **shape)
        else:
            pair = anchors.solve_skewnorm_pair(self.anchor_kl, num_outcomes, **skews, **shape)
        return anchor_source.FixedAnchors(pair)


@register("realness", prefix="")
@dataclass(frozen=True)
class RealnessConfig(ObjectiveConfig):
    """RealnessGAN. Settings of `RealnessObjective`."""

    divergence: Divergence = "kl"
    """Divergence between realness distributions: Kullback-Leibler, or Earth Mover's Distance."""
    num_outcomes: int = 51
    """Number of outcomes of the realness distribution."""
    g_objective: Literal[1, 2, 3] = 2
    """G's objective: equation 18, 19 or 20 of the RealnessGAN paper."""
    resample: Literal["gaussian", "head", "none"] = "gaussian"
    """Feature resampling: the Gaussian of the batch (the paper), a head per sample (its code), or
    none."""
    resample_statistics: Literal["global", "local"] = "global"
    """Fit the resampling Gaussian to the batch of all ranks, or to each rank's own share."""
    anchor: AnchorConfig = field(default_factory=AnchorConfig)

    @property
    def not_capturable(self) -> str:
        if self.anchor.anchors != "histogram":
            return ""
        return "--anchors=histogram, which the host redraws in every update; use --anchors skewnorm"

    def __post_init__(self) -> None:
        require(
            2 <= self.num_outcomes <= 1024,
            f"--num-outcomes={self.num_outcomes} must lie between 2 and 1024",
        )

    def build(self, members: int) -> Objective:
        from realness.trainer.objectives.realness import RealnessObjective

        return RealnessObjective(
            self.anchor.build(self.num_outcomes),
            self._resampling(members),
            self.g_objective,
            self.divergence,
        )

    def _resampling(self, members: int) -> Resampling:
        from realness.trainer.objectives.resampling import (
            GaussianResampling,
            HeadResampling,
            NoResampling,
        )

        if self.resample == "gaussian":
            return GaussianResampling(self.num_outcomes, self.resample_statistics, members)
        return {"head": HeadResampling, "none": NoResampling}[self.resample](self.num_outcomes)


@register("standard", prefix="")
@dataclass(frozen=True)
class StandardConfig(ObjectiveConfig):
    """The standard GAN."""

    saturating: bool = False
    """Train G on log(1 - D(G(z))) instead of -log D(G(z))."""

    def build(self, members: int) -> Objective:
        from realness.trainer.objectives import scalar

        g_loss = scalar.saturating_g_loss if self.saturating else scalar.non_saturating_g_loss
        return scalar.ScalarObjective(scalar.standard_d_loss, g_loss)


@register("lsgan", prefix="")
@dataclass(frozen=True)
class LSGANConfig(ObjectiveConfig):
    """The least-squares GAN."""

    @property
    def undecided(self) -> float | None:
        return 0.5  # between the labels 0 and 1

    def build(self, members: int) -> Objective:
        from realness.trainer.objectives import scalar

        return scalar.ScalarObjective(scalar.lsgan_d_loss, scalar.lsgan_g_loss)


@register("hinge", prefix="")
@dataclass(frozen=True)
class HingeConfig(ObjectiveConfig):
    """The hinge loss."""

    def build(self, members: int) -> Objective:
        from realness.trainer.objectives import scalar

        return scalar.ScalarObjective(scalar.hinge_d_loss, scalar.hinge_g_loss)


@register("wgan", prefix="")
@dataclass(frozen=True)
class WassersteinConfig(ObjectiveConfig):
    """The Wasserstein GAN."""

    @property
    def undecided(self) -> float | None:
        return None

    def build(self, members: int) -> Objective:
        from realness.trainer.objectives import scalar

        return scalar.ScalarObjective(scalar.wgan_d_loss, scalar.wgan_g_loss)


@register("relativistic", prefix="")
@dataclass(frozen=True)
class RelativisticConfig(ObjectiveConfig):
    """The relativistic pairing loss of R3GAN."""

    @property
    def undecided(self) -> float | None:
        return None  # only differences of scores count

    def build(self, members: int) -> Objective:
        from realness.trainer.objectives import scalar

        return scalar.ScalarObjective(
            scalar.relativistic_d_loss, scalar.relativistic_g_loss, needs_real_in_g_step=True
        )


@dataclass(frozen=True)
class PosteriorConfig:
    """P2GAN's distributions over posterior codes (CVPR 2021), all diagonal Gaussians."""

    posterior_dim: int = 5
    """Dimensions d of the posterior code that D outputs and G takes as input."""
    prior_fake_mean: float = -4.0
    """Mean of P_a, the ground truth of generated images."""
    prior_fake_std: float = 1.0
    """Standard deviation of P_a."""
    prior_real_mean: float = 4.0
    """Mean of P_b, the ground truth of real images."""
    prior_real_std: float = 3.0
    """Standard deviation of P_b."""
    code_weight: float = 10.0
    """Weight lambda of the latent code regulariser in G's loss (eq. 13)."""
    pretrain_kimg: float = 0.0
    """Train the first N thousand images without G's posterior modules (section 4.5)."""
    posterior_modules: bool = True
    """Steer G's normalisations by a code; without posterior modules, G takes only its noise, and
    --pretrain-kimg has no effect ("w/o M" in Table 5)."""
    code_source: CodeSource = "posterior"
    """Codes that G takes: samples of D's posteriors of real images, or noise from N(0, I), in
    training and for sampling ("w/o Z" in Table 5)."""
    test_code: Literal["theory", "ema"] = "theory"
    """Distribution of codes for sampling: theory is P_c, the distribution at convergence; ema is a
    moving average (decay 0.9) of the posteriors of real images."""

    def __post_init__(self) -> None:
        positive(self, "posterior_dim", "prior_fake_std", "prior_real_std")
        not_negative(self, "code_weight", "pretrain_kimg")
        require(
            self.posterior_modules or self.code_source == "posterior",
            f"--code-source={self.code_source} chooses what the posterior modules take, but "
            "--no-posterior-modules removes them; leave one of the two out",
        )
        ablation = "--code-source noise" if self.posterior_modules else "--no-posterior-modules"
        takes_posteriors = self.posterior_modules and self.code_source == "posterior"
        require(
            takes_posteriors or self.test_code == "theory",
            f"--test-code={self.test_code} samples with posteriors of real images, which G does "
            f"not take with {ablation}; use --test-code theory",
        )


@register("p2gan", prefix="")
@dataclass(frozen=True)
class P2GANConfig(ObjectiveConfig):
    """P2GAN. Settings of `P2GANObjective`."""

    codes: ClassVar[bool] = True

    posterior: PosteriorConfig = field(default_factory=PosteriorConfig)

    @property
    def code_start_kimg(self) -> float:
        return self.posterior.pretrain_kimg if self.posterior.posterior_modules else 0.0

    @property
    def undecided(self) -> float | None:
        return (self.posterior.prior_real_mean + self.posterior.prior_fake_mean) / 2

    @property
    def tracks_codes(self) -> bool:
        return self.posterior.test_code == "ema"

    def without_pretraining(self) -> P2GANConfig:
        return replace(self, posterior=replace(self.posterior, pretrain_kimg=0.0))

    def build(self, members: int) -> Objective:
        from realness.trainer.objectives.p2gan import GaussianPrior, P2GANObjective

        posterior = self.posterior
        return P2GANObjective(
            GaussianPrior(posterior.prior_fake_mean, posterior.prior_fake_std),
            GaussianPrior(posterior.prior_real_mean, posterior.prior_real_std),
            posterior.code_weight,
            posterior.posterior_dim,
            posterior_modules=posterior.posterior_modules,
            code_source=posterior.code_source,
        )
