"""The configuration tree: frozen dataclasses, validated where they are made.

Every field is a command-line flag (`--lr-g`, `--num-outcomes`, ...), so field names are unique
over the whole tree. Durations are stated in images (kimg = 1,000 images) and never in steps, so
that they keep their meaning when the batch size changes. An iteration counts `batch_size` images.
"""

from __future__ import annotations

from realness.trainer.config.base import ConfigError, flag
from realness.trainer.config.engine import EngineConfig
from realness.trainer.config.metrics import MetricsConfig
from realness.trainer.config.networks import DataConfig, DiscriminatorConfig, GeneratorConfig
from realness.trainer.config.objective import (
    AnchorConfig,
    FakeAsRealConfig,
    ObjectiveConfig,
    PenaltyConfig,
    PosteriorConfig,
)
from realness.trainer.config.optimizer import OptimizerConfig
from realness.trainer.config.train import TrainConfig
from realness.trainer.config.tree import flatten, from_dict, to_json, trajectory_differences

__all__ = [
    "AnchorConfig",
    "ConfigError",
    "DataConfig",
    "DiscriminatorConfig",
    "EngineConfig",
    "FakeAsRealConfig",
    "GeneratorConfig",
    "MetricsConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PenaltyConfig",
    "PosteriorConfig",
    "TrainConfig",
    "flag",
    "flatten",
    "from_dict",
    "to_json",
    "trajectory_differences",
]
