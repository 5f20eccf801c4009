"""Configuration of the objective, the penalties and FAR-GAN."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from realness.trainer.config.base import not_negative, positive, require


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
    test_code: Literal["theory", "ema"] = "theory"
    """Distribution of codes for sampling: theory is P_c, the distribution at convergence; ema is a
    moving average (decay 0.9) of the posteriors of real images."""

    def __post_init__(self) -> None:
        positive(self, "posterior_dim", "prior_fake_std", "prior_real_std")
        not_negative(self, "code_weight", "pretrain_kimg")


@dataclass(frozen=True)
class ObjectiveConfig:
    """The losses that D and G minimise."""

    objective: Literal[
        "realness", "standard", "lsgan", "hinge", "wgan", "relativistic", "p2gan"
    ] = "realness"
    """Objective: RealnessGAN; the standard, least-squares, hinge or Wasserstein GAN; the
    relativistic pairing loss of R3GAN; or P2GAN."""
    divergence: Literal["kl", "emd"] = "kl"
    """Divergence between realness distributions: Kullback-Leibler, or Earth Mover's Distance."""
    num_outcomes: int = 51
    """Number of outcomes of the realness distribution (RealnessGAN)."""
    g_objective: Literal[1, 2, 3] = 2
    """G's objective: equation 18, 19 or 20 of the RealnessGAN paper."""
    resample: Literal["gaussian", "head", "none"] = "gaussian"
    """Feature resampling: the Gaussian of the batch (the paper), a head per sample (its code), or
    none."""
    resample_statistics: Literal["global", "local"] = "global"
    """Fit the resampling Gaussian to the batch of all ranks, or to each rank's own share."""
    saturating: bool = False
    """Train G of the standard GAN on log(1 - D(G(z))) instead of -log D(G(z))."""
    anchor: AnchorConfig = field(default_factory=AnchorConfig)
    posterior: PosteriorConfig = field(default_factory=PosteriorConfig)

    def __post_init__(self) -> None:
        require(
            2 <= self.num_outcomes <= 1024,
            f"--num-outcomes={self.num_outcomes} must lie between 2 and 1024",
        )


@dataclass(frozen=True)
class PenaltyConfig:
    """Penalties on the gradient of D's score with respect to its input, and on G's path lengths."""

    r1_gamma: float = 0.0
    """Weight of R1, gamma/2 * E||grad_x score(x)||^2 on real images; 0 disables it. The 0GP
    penalty on samples with weight lambda is R1 with gamma = 2 lambda."""
    r2_gamma: float = 0.0
    """Weight of R2, the same penalty on generated images."""
    gp_weight: float = 0.0
    """Weight lambda of the penalty at random points between real and generated images."""
    gp_target: Literal[0, 1] = 1
    """Form of that penalty: 1 for (||grad|| - 1)^2 (WGAN-GP), 0 for ||grad||^2
    (0GP-interpolation)."""
    r1: Literal["exact", "finite-difference"] = "exact"
    """How these penalties are differentiated: exactly, by a second backward pass, or by a central
    difference along the input's gradient. The difference needs only first derivatives but requires
    a smooth D in fp32 (dcgan with --d-activation silu); the relative error of its gradient is
    2e-5, and 1e-2 with layer normalisation."""
    penalty_images: int = 0
    """Lazy regularisation: apply penalties in one D update per N images, scaled by the number of
    updates in between; 0 for every update."""
    path_length_weight: float = 0.0
    """Weight of path-length regularisation of G (stylegan2); 0 disables it."""
    path_length_images: int = 0
    """Apply path-length regularisation in one G update per N images, scaled likewise; 0 for every
    update."""
    path_length_shrink: int = 2
    """Apply path-length regularisation to one of every N samples, to save memory."""

    def __post_init__(self) -> None:
        not_negative(self, "r1_gamma", "r2_gamma", "gp_weight", "penalty_images")
        not_negative(self, "path_length_weight", "path_length_images")
        positive(self, "path_length_shrink")

    @property
    def any(self) -> bool:
        """Whether any penalty on D is enabled."""
        return bool(self.r1_gamma or self.r2_gamma or self.gp_weight)


@dataclass(frozen=True)
class FakeAsRealConfig:
    """FAR-GAN: some generated images replace real ones in D's update (eq. 11, 12)."""

    far_fakes: int = 0
    """Number M0 of generated images in the batch that D is told are real; 0 disables FAR-GAN."""
    far_candidates: int = 256
    """Number M1 of newly generated images, of which the M0 with the lowest scores are used."""

    def __post_init__(self) -> None:
        not_negative(self, "far_fakes")
        require(
            self.far_fakes <= self.far_candidates,
            f"--far-fakes={self.far_fakes} must not exceed --far-candidates={self.far_candidates}",
        )
