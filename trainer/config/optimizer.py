"""Optimisers, learning rates and the number of updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from realness.trainer.config.base import any_time, flag, not_negative, positive, require


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimiser, learning rates and the number of updates."""

    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Optimiser of both networks."""
    lr_g: float = 2e-4
    """Learning rate of G."""
    lr_d: float = 2e-4
    """Learning rate of D."""
    beta1: float = 0.5
    """Adam's first-moment decay."""
    beta2: float = 0.999
    """Adam's second-moment decay."""
    rmsprop_alpha: float = 0.99
    """RMSProp's decay of the squared gradients."""
    optimizer_eps: float = 1e-8
    """The optimiser's epsilon."""
    k_g: int = 1
    """G updates an iteration."""
    k_d: int = 1
    """D updates an iteration."""
    lazy_correction: bool = False
    """Scale rate and Adam's decays by k / (k + 1) for a network whose penalty is due in one of k
    updates, as StyleGAN2 does. Its penalties take a step of their own, so it makes k + 1 steps
    where this program makes k: without it both move as far."""
    clip_grad_norm: float = 0.0
    """Clip each network's gradient to this norm; 0 switches it off."""
    log_grad_norm: bool = any_time(False)
    """Log the norm of each network's gradient, the mean over the interval. It is logged wherever
    --clip-grad-norm computes it; without clipping it costs one pass over the gradients a step."""
    lr_warmup_kimg: float = 0.0
    """Raise the learning rates linearly from 0 over so many thousand images."""
    lr_decay: Literal["none", "linear", "cosine", "step"] = "none"
    """How the learning rates fall: from --lr-decay-start-kimg to the end of the run, or by steps of
    --lr-step-factor every --lr-step-kimg."""
    lr_decay_start_kimg: float = 0.0
    """Where the decay starts."""
    lr_final: float = 0.0
    """Share of the learning rates that is left at the end of a linear or cosine decay."""
    lr_step_kimg: float = 3000.0
    """Distance between the steps of --lr-decay=step (50 epochs of 60,000 images are 3,000 kimg)."""
    lr_step_factor: float = 0.9
    """What a step multiplies the learning rates by."""

    def __post_init__(self) -> None:
        positive(self, "lr_g", "lr_d", "optimizer_eps", "k_g", "k_d", "lr_step_kimg")
        positive(self, "lr_step_factor")
        not_negative(self, "clip_grad_norm", "lr_warmup_kimg", "lr_decay_start_kimg", "lr_final")
        for name in ("beta1", "beta2", "rmsprop_alpha"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{flag(name)}={value} must lie in [0, 1)")
