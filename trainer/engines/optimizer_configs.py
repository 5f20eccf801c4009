"""The optimisers of this program: settings, and how they are built.

Nothing here loads torch before an optimiser is built: the command line needs only the settings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from realness.trainer.config import AlgorithmConfig, fraction, positive, register

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


@register("adam", prefix="")
@dataclass(frozen=True)
class AdamConfig(AlgorithmConfig):
    """Adam."""

    moments: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")

    beta1: float = 0.5
    """Adam's first-moment decay."""
    beta2: float = 0.999
    """Adam's second-moment decay."""
    beta2_final: float | None = None
    """Adam's second-moment decay at the end of --schedule-kimg; without it, --beta2 is constant."""
    optimizer_eps: float = 1e-8
    """The optimiser's epsilon."""

    def __post_init__(self) -> None:
        positive(self, "optimizer_eps")
        fraction(self, "beta1", "beta2")
        if self.beta2_final is not None:
            fraction(self, "beta2_final")

    def build(self, weights: Iterable[nn.Parameter], lr: float | Tensor) -> Optimizer:
        import torch

        # Only the fused implementation supports `found_inf`.
        return torch.optim.Adam(
            weights,
            lr=lr,
            betas=(self.beta1, self.beta2),
            eps=self.optimizer_eps,
            fused=True,
            capturable=isinstance(lr, torch.Tensor),
        )

    def lazily_corrected(self, c: float) -> AdamConfig:
        final = None if self.beta2_final is None else self.beta2_final**c
        return replace(self, beta1=self.beta1**c, beta2=self.beta2**c, beta2_final=final)

    @property
    def not_capturable(self) -> str:
        if self.beta2_final is None:
            return ""
        return (
            "--beta2-final, because Adam's fused kernel takes beta2 from the host; leave one of "
            "the two out"
        )

    def settings_at(self, progress: float) -> dict[str, Any]:
        if self.beta2_final is None:
            return {}
        beta2 = (1 - progress) * self.beta2 + progress * self.beta2_final
        return {"betas": (self.beta1, beta2)}


@register("rmsprop", prefix="")
@dataclass(frozen=True)
class RMSPropConfig(AlgorithmConfig):
    """RMSProp."""

    moments: ClassVar[tuple[str, ...]] = ("square_avg",)

    rmsprop_alpha: float = 0.99
    """RMSProp's decay of the squared gradients."""
    optimizer_eps: float = 1e-8
    """The optimiser's epsilon."""

    def __post_init__(self) -> None:
        positive(self, "optimizer_eps")
        fraction(self, "rmsprop_alpha")

    def build(self, weights: Iterable[nn.Parameter], lr: float | Tensor) -> Optimizer:
        from realness.trainer.engines.optimizers import SkippingRMSprop

        return SkippingRMSprop(weights, lr=lr, alpha=self.rmsprop_alpha, eps=self.optimizer_eps)
