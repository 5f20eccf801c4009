"""The configuration tree: frozen dataclasses, validated where they are made.

Every field is a command-line flag (`--lr-g`, `--num-outcomes`, ...), so field names are unique
over the whole tree. Durations are stated in images (kimg = 1,000 images) and never in steps, so
that they keep their meaning when the batch size changes. An iteration counts `batch_size` images.
"""

from __future__ import annotations

from realness.trainer.config.augment import AugmentationConfig
from realness.trainer.config.base import (
    ConfigError,
    flag,
    fraction,
    not_negative,
    positive,
    require,
)
from realness.trainer.config.classes import ClassesConfig, check_classes
from realness.trainer.config.components import register
from realness.trainer.config.data import DataConfig
from realness.trainer.config.engine import EngineConfig
from realness.trainer.config.fields import flatten
from realness.trainer.config.metrics import MetricsConfig
from realness.trainer.config.networks import DiscriminatorConfig, GeneratorConfig
from realness.trainer.config.objective import FakeAsRealConfig, ObjectiveConfig, PenaltyConfig
from realness.trainer.config.optimizer import AlgorithmConfig, OptimizerConfig
from realness.trainer.config.train import TrainConfig
from realness.trainer.config.tree import from_dict, to_json, trajectory_differences, with_fields

__all__ = [
    "AlgorithmConfig",
    "AugmentationConfig",
    "ClassesConfig",
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
    "TrainConfig",
    "check_classes",
    "flag",
    "flatten",
    "fraction",
    "from_dict",
    "not_negative",
    "positive",
    "register",
    "require",
    "to_json",
    "trajectory_differences",
    "with_fields",
]
