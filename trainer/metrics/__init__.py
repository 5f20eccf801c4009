"""Metrics of generated images. The module of each metric states its definition and source.

All metrics process images in batches, split the samples over ranks, and give the same result on any
number of ranks up to rounding. Linear algebra is in float64.
"""

from __future__ import annotations

from realness.trainer.metrics.best import (
    best_record,
    choose,
    first_metric,
    is_headline,
    loss_of,
)
from realness.trainer.metrics.evaluation import Evaluator
from realness.trainer.metrics.features import (
    INCEPTION,
    FeatureNetwork,
    FeatureNetworkError,
    NetworkFile,
    open_network,
)
from realness.trainer.metrics.frechet import GaussianMoments, frechet_distance
from realness.trainer.metrics.inception_score import inception_score
from realness.trainer.metrics.intra_fid import ComparedClasses, compared_classes
from realness.trainer.metrics.kid import kernel_distance
from realness.trainer.metrics.plan import METRICS, MeasurementPlan, check_metrics
from realness.trainer.metrics.precision_recall import precision_recall
from realness.trainer.metrics.reference import MeasureFailed, RealImages
from realness.trainer.metrics.score import CheckpointInfo, Score
from realness.trainer.metrics.swd import PatchSet, SlicedWasserstein, sliced_wasserstein

__all__ = [
    "INCEPTION",
    "METRICS",
    "CheckpointInfo",
    "ComparedClasses",
    "Evaluator",
    "FeatureNetwork",
    "FeatureNetworkError",
    "GaussianMoments",
    "MeasureFailed",
    "MeasurementPlan",
    "NetworkFile",
    "PatchSet",
    "RealImages",
    "Score",
    "SlicedWasserstein",
    "best_record",
    "check_metrics",
    "choose",
    "compared_classes",
    "first_metric",
    "frechet_distance",
    "inception_score",
    "is_headline",
    "kernel_distance",
    "loss_of",
    "open_network",
    "precision_recall",
    "sliced_wasserstein",
]
