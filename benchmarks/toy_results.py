"""Results of benchmarks/toy.py's tasks: values at a checkpoint, and the paper's numbers."""

from __future__ import annotations

import numpy as np
from toy_plan import Arrays, Task

Finished = dict[Task, Arrays]

PAPER = {
    "realness": "60.2% / 8 / 0.043",
    "std": "32.4% / 4 / 0.083",
    "lsgan": "- / 1 / -",
    "hinge": "- / 1 / -",
    "wgan-gp": "0.03% / - / -",
}
"""RealnessGAN, section 4.1, after 500 iterations: high quality, modes, mean sigma."""
PAPER_HIGH_QUALITY, PAPER_MODES = 60.2, 8


def at(arrays: Arrays, key: str, iteration: int) -> np.ndarray:
    """The values of all seeds at one checkpoint."""
    return arrays[key][arrays["iteration"] == iteration]


def middle(arrays: Arrays, key: str, iteration: int) -> float:
    """The median over seeds; for sigma over those seeds that recovered a mode."""
    values = at(arrays, key, iteration)
    values = values[~np.isnan(values)]
    return float(np.median(values)) if len(values) else float("nan")


def quality(arrays: Arrays, iteration: int) -> str:
    """`median% (least-most) / modes / sigma`."""
    values = at(arrays, "high_quality", iteration)
    spread = f" ({values.min():.0f}-{values.max():.0f})" if len(values) > 1 else ""
    modes, sigma = (middle(arrays, key, iteration) for key in ("num_modes", "sigma"))
    return f"{np.median(values):.1f}%{spread} / {modes:g} / {sigma:.3f}"


def of(finished: Finished, part: str) -> Finished:
    """The finished tasks of one part, in the plan's order."""
    return {task: arrays for task, arrays in finished.items() if task.part == part}


def checkpoints(tasks: Finished) -> list[int]:
    """The checkpoints that all these tasks have."""
    shared = set.intersection(*(set(task.checkpoints) for task in tasks))
    return sorted(shared)
