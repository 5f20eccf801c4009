"""Optimisers, learning rates and the number of updates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from realness.trainer.config.base import not_negative, positive, resumable
from realness.trainer.config.components import Component, default_component


@dataclass(frozen=True)
class AlgorithmConfig(Component):
    """The optimiser of both networks: how gradients change the weights.

    moments: names of the tensors in the optimiser's state that have the shape of the weight.
    """

    kind: ClassVar[str] = "optimizer"
    moments: ClassVar[tuple[str, ...]] = ()

    def build(self, weights: Iterable[Any], lr: Any) -> Any:
        """The optimiser (`torch.optim.Optimizer`) with learning rate `lr`, a number or a tensor.

        `step` must change nothing if the optimiser's attribute `found_inf`, a scalar tensor, is 1,
        as torch's fused optimisers do, and must not synchronise with the device. It must count its
        steps as torch's optimisers do, in the state's tensor `step`.
        """
        raise NotImplementedError(f"{type(self).__qualname__} does not define build()")

    @property
    def not_capturable(self) -> str:
        """Why steps cannot be captured as CUDA graphs, with the remedy; empty if they can."""
        return ""

    def settings_at(self, progress: float) -> dict[str, Any]:
        """The entries of the optimiser's parameter groups that a schedule changes, and their values
        at its `progress` in [0, 1] (`Schedule.progress`); empty without a schedule."""
        return {}

    def lazily_corrected(self, c: float) -> AlgorithmConfig:
        """The settings for c = k / (k + 1) as many steps (`--lazy-correction`)."""
        return self


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimiser, learning rates and the number of updates."""

    algorithm: AlgorithmConfig = field(default_factory=lambda: default_component(AlgorithmConfig))
    lr_g: float = 2e-4
    """Learning rate of G."""
    lr_d: float = 2e-4
    """Learning rate of D."""
    k_g: int = 1
    """G updates per iteration."""
    k_d: int = 1
    """D updates per iteration."""
    lazy_correction: bool = False
    """Correct the learning rate and Adam's decays by k / (k + 1) for a network whose penalty is due
    in one of k updates, as StyleGAN2 does. StyleGAN2 applies penalties in a separate step, so it
    makes k + 1 steps where this program makes k: without the correction, both move equally far."""
    clip_grad_norm: float = 0.0
    """Clip the gradient of each network to this norm; 0 disables clipping."""
    log_grad_norm: bool = resumable(False)
    """Log the gradient norm of each network, averaged over the logging interval. Always logged with
    --clip-grad-norm; without clipping it costs one pass over the gradients per step."""
    lr_warmup_kimg: float = 0.0
    """Raise the learning rates linearly from 0 over the first N thousand images."""
    lr_decay: Literal["none", "linear", "cosine", "step"] = "none"
    """How the learning rates decay: linear and cosine run from --lr-decay-start-kimg to
    --schedule-kimg, or the end of the run; step multiplies by --lr-step-factor every
    --lr-step-kimg."""
    lr_decay_start_kimg: float = 0.0
    """Thousands of images after which the linear or cosine decay starts."""
    lr_final: float = 0.0
    """Fraction of the learning rates left at the end of a linear or cosine decay."""
    lr_step_kimg: float = 3000.0
    """Interval between the steps of --lr-decay=step (50 epochs of 50,000 images are 2,500 kimg)."""
    lr_step_factor: float = 0.9
    """Factor by which each step multiplies the learning rates."""

    def __post_init__(self) -> None:
        positive(self, "lr_g", "lr_d", "k_g", "k_d", "lr_step_kimg")
        positive(self, "lr_step_factor")
        not_negative(self, "clip_grad_norm", "lr_warmup_kimg", "lr_decay_start_kimg", "lr_final")
