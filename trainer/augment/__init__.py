"""Augmentation of D's input: ADA's transforms, DiffAugment's policies, and their probability.

To add a transform: write it as a function of its draws in the module of its group, with a formula
in float64 for its test, and give its draws a `Purpose`.
"""

from __future__ import annotations

from realness.trainer.augment.augmentation import Augmentation
from realness.trainer.augment.strength import (
    AdaptiveStrength,
    FixedStrength,
    ScheduledStrength,
    Strength,
    leak_warning,
)

__all__ = [
    "AdaptiveStrength",
    "Augmentation",
    "FixedStrength",
    "ScheduledStrength",
    "Strength",
    "leak_warning",
]
