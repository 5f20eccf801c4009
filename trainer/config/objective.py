"""Configuration of objectives: their base class, the penalties and FAR-GAN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from realness.trainer.config.base import automatic, not_negative, positive, require
from realness.trainer.config.components import Component


@dataclass(frozen=True)
class ObjectiveConfig(Component):
    """The losses that D and G minimise.

    Capabilities:
        codes: D's output on a real image is a distribution over codes, which G takes.
        not_capturable: why updates cannot be captured as CUDA graphs, with the remedy; empty if
            they can.
        code_start_kimg: thousands of images after which G starts to use the codes.
        undecided: the score at which D is undecided; None if there is none.
        tracks_codes: samples are drawn from a moving average of the codes of real images.
    """

    kind: ClassVar[str] = "objective"
    codes: ClassVar[bool] = False

    @property
    def not_capturable(self) -> str:
        return ""

    @property
    def code_start_kimg(self) -> float:
        return 0.0

    @property
    def undecided(self) -> float | None:
        return 0.0

    @property
    def tracks_codes(self) -> bool:
        return False

    def without_pretraining(self) -> ObjectiveConfig:
        """The settings with codes in use from the first image on."""
        return self

    def build(self, members: int) -> Any:
        """The `Objective`.

        With `members` > 1, D is an ensemble of independent networks with interleaved rows: row r of
        its output belongs to member r % members.
        """
        raise NotImplementedError(f"{type(self).__qualname__} does not define build()")


@dataclass(frozen=True)
class PenaltyConfig:
    """Penalties on the gradient of D's score with respect to its input, and on G's path lengths."""

    r1_gamma: float = automatic(0.0)
    """Weight of R1, gamma/2 * E||grad_x score(x)||^2 on real images; 0 disables it. The 0GP
    penalty on samples with weight lambda is R1 with gamma = 2 lambda. auto is 0.0002 R^2 / batch,
    with R pixels a side, a start for data for which no value is known."""
    r1_gamma_final: float | None = None
    """Weight of R1 at the end of --schedule-kimg; without it, --r1-gamma is constant."""
    r2_gamma: float = 0.0
    """Weight of R2, the same penalty on generated images."""
    r2_gamma_final: float | None = None
    """Weight of R2 at the end of --schedule-kimg; without it, --r2-gamma is constant."""
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
        for name in ("r1_gamma_final", "r2_gamma_final"):
            if getattr(self, name) is not None:
                not_negative(self, name)

    @property
    def any(self) -> bool:
        """Whether any penalty on D is enabled."""
        return self.has_r1 or self.has_r2 or bool(self.gp_weight)

    @property
    def has_r1(self) -> bool:
        """Whether R1 has a weight at some time of the run."""
        return bool(self.r1_gamma or self.r1_gamma_final)

    @property
    def has_r2(self) -> bool:
        """Whether R2 has a weight at some time of the run."""
        return bool(self.r2_gamma or self.r2_gamma_final)


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
