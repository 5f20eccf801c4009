"""Objectives: what D and G minimise, as functions of D's outputs.

To add an objective: write its losses as pure functions that cite their equations, and a class with
the methods of `Objective`, in a module here; add its name to `ObjectiveConfig.objective` and a
builder to the table below.
"""

from __future__ import annotations

from collections.abc import Callable

from realness import kernels
from realness.trainer.config import ObjectiveConfig
from realness.trainer.objectives.anchor_source import (
    FixedAnchors,
    HistogramAnchors,
    build_anchors,
)
from realness.trainer.objectives.base import CodeObjective, Objective
from realness.trainer.objectives.realness import RealnessObjective
from realness.trainer.objectives.resampling import (
    GaussianResampling,
    HeadResampling,
    NoResampling,
    Resampling,
)
from realness.trainer.objectives.standard import StandardObjective

__all__ = [
    "CodeObjective",
    "FixedAnchors",
    "GaussianResampling",
    "HeadResampling",
    "HistogramAnchors",
    "NoResampling",
    "Objective",
    "RealnessObjective",
    "StandardObjective",
    "build_objective",
]


def _resampling(config: ObjectiveConfig, impl: kernels.Impl) -> Resampling:
    if config.resample == "gaussian":
        return GaussianResampling(config.num_outcomes, config.resample_statistics, impl)
    return {"head": HeadResampling, "none": NoResampling}[config.resample](config.num_outcomes)


def _realness(config: ObjectiveConfig, impl: kernels.Impl) -> Objective:
    anchors = build_anchors(config.anchor, config.num_outcomes)
    return RealnessObjective(anchors, _resampling(config, impl), config.g_objective, impl)


def _standard(config: ObjectiveConfig, impl: kernels.Impl) -> Objective:
    return StandardObjective(config.saturating)


OBJECTIVES: dict[str, Callable[[ObjectiveConfig, kernels.Impl], Objective]] = {
    "realness": _realness,
    "standard": _standard,
}


def build_objective(config: ObjectiveConfig, impl: kernels.Impl = "auto") -> Objective:
    """The objective that `config` describes.

    Raises:
        ValueError: if no pair of anchors has the divergence `config.anchor.anchor_kl`.
    """
    return OBJECTIVES[config.objective](config, impl)
