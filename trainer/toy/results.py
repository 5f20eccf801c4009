"""Training an experiment and measuring it during training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from torch import Tensor

from realness.trainer.toy.data import ToyData
from realness.trainer.toy.experiment import Experiment
from realness.trainer.toy.measures import ModeMeasures, energy_distance, measure_modes
from realness.trainer.updates.step import Stats

NUM_SAMPLES = 10_000
"""Samples per measurement (RealnessGAN, section 4.1)."""
NUM_DISTANCE_SAMPLES = 2_000
"""Samples and new points used for the energy distance, whose cost is quadratic."""


@dataclass(frozen=True)
class Result:
    """Measures of one member at one iteration; `samples` is [NUM_SAMPLES, 2].

    `modes` is None for data without modes. `distance` is the energy distance to new points of the
    distribution, not to the training points.
    """

    seed: int
    iteration: int
    modes: ModeMeasures | None
    distance: float
    samples: Tensor


def measure(experiment: Experiment, data: ToyData) -> list[Result]:
    """Measure the current state of each member."""
    target = data.target_points(NUM_DISTANCE_SAMPLES)
    results = []
    for seed, samples in zip(experiment.gan.seeds, experiment.sample(NUM_SAMPLES), strict=True):
        modes = None
        if data.modes is not None and data.std is not None:
            modes = measure_modes(samples, data.modes, data.std)
        distance = energy_distance(samples[:NUM_DISTANCE_SAMPLES], target)
        results.append(Result(seed, experiment.iterations, modes, distance, samples))
    return results


def train(
    experiment: Experiment,
    data: ToyData,
    checkpoints: Sequence[int],
    progress: Callable[[int, Stats], None] | None = None,
) -> list[Result]:
    """Train up to the last of `checkpoints` (iterations, in order) and measure at each.

    `progress` is called after every iteration with its number and statistics.
    """
    results = measure(experiment, data) if 0 in checkpoints else []
    while experiment.iterations < checkpoints[-1]:
        stats = experiment.iterate()
        if progress is not None:
            progress(experiment.iterations, stats)
        if experiment.iterations in checkpoints:
            results += measure(experiment, data)
    return results


def medians(results: Sequence[Result]) -> dict[str, float]:
    """The median of each measure over members; for sigma, over those that recovered a mode."""
    table = {"distance": median(result.distance for result in results)}
    modes = [result.modes for result in results if result.modes is not None]
    if modes:
        sigmas = [each.sigma for each in modes if each.num_modes > 0]
        table |= {
            "high_quality": median(each.high_quality for each in modes),
            "num_modes": median(each.num_modes for each in modes),
            "sigma": median(sigmas) if sigmas else float("nan"),
        }
    return table
