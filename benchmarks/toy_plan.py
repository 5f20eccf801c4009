"""The plan of benchmarks/toy.py: every task of every part, and running one task in a process."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from realness.trainer.config import TrainConfig
from realness.trainer.toy import METHODS, NETWORKS_OF, DataName, Networks, method_config

Arrays = dict[str, np.ndarray]
"""high_quality, num_modes, sigma (for data with modes), distance, seed, iteration: one entry per
checkpoint and seed; samples, [entries, SHOWN_SAMPLES, 2]; cpu_seconds, one number."""
SHOWN_SAMPLES = 2000
"""Samples per checkpoint that are kept for figures."""


@dataclass(frozen=True)
class Task:
    """One ensemble: a method on a distribution, S seeds, measured at `checkpoints` (iterations).

    `part` is the experiment that it belongs to; `changes` are keywords of `method_config` with
    their values. `spacing` is the distance between neighbouring modes, `data_seed` the seed of the
    training points, `networks` the paper whose networks and optimiser are used, and `first_seed`
    the smallest of the seeds; None means the default.
    """

    part: str
    data: DataName
    method: str
    seeds: int
    checkpoints: tuple[int, ...]
    changes: tuple[tuple[str, int | float], ...] = ()
    spacing: float | None = None
    data_seed: int | None = None
    networks: Networks | None = None
    first_seed: int | None = None

    @property
    def config(self) -> TrainConfig:
        """The trainer's configuration."""
        changes: dict[str, Any] = dict(self.changes)
        return method_config(self.method, networks=self.chosen_networks, **changes)

    @property
    def chosen_networks(self) -> Networks:
        """The networks that `networks` names, or those of the data's paper."""
        return self.networks or NETWORKS_OF[self.data]

    @property
    def label(self) -> str:
        """The method's name and its changes."""
        changed = ", ".join(f"{key}={value:g}" for key, value in self.changes)
        return METHODS[self.method].label + (f" ({changed})" if changed else "")

    @property
    def cost(self) -> float:
        """Relative work, for the remaining time: updates times members times size."""
        optimizer = self.config.optimizer
        updates = optimizer.k_g + 1.6 * optimizer.k_d
        size = 0.1 if self.chosen_networks == "far" else 1.0
        return self.checkpoints[-1] * self.seeds * updates * size

    @property
    def file_name(self) -> str:
        """A name that differs whenever anything that affects the result differs."""
        fields = dataclasses.asdict(self).items()
        described = json.dumps({key: v for key, v in fields if v is not None}, sort_keys=True)
        digest = hashlib.sha256(described.encode()).hexdigest()[:12]
        return f"{self.part}-{self.method}-{digest}.npz"

    def run(self) -> Arrays:
        """Train and measure; returns arrays with an entry per (checkpoint, seed), and `samples`."""
        from realness.trainer.toy.data import build_data
        from realness.trainer.toy.experiment import build_experiment
        from realness.trainer.toy.results import medians, train

        data = build_data(self.data, spacing=self.spacing, seed=self.data_seed or 0)
        started = time.process_time()
        first = self.first_seed or 0
        seeds = range(first, first + self.seeds)
        experiment = build_experiment(self.config, data, seeds, self.chosen_networks)
        results = train(experiment, data, self.checkpoints)
        rows = [medians([result]) for result in results]
        columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}
        shown = [result.samples[:SHOWN_SAMPLES].half().numpy() for result in results]
        return {
            **columns,
            "seed": np.array([result.seed for result in results]),
            "iteration": np.array([result.iteration for result in results]),
            "samples": np.stack(shown),
            "cpu_seconds": np.array(time.process_time() - started),
        }

    def run_once(self, folder: Path) -> Arrays:
        """The stored result, or a new one, which is stored atomically."""
        path = folder / self.file_name
        if not path.exists():
            staged = path.with_suffix(".part")
            with staged.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **self.run())
            staged.rename(path)
        return self.load(folder)

    def load(self, folder: Path) -> Arrays:
        """The stored result."""
        with np.load(folder / self.file_name) as stored:
            return dict(stored)


MAIN_METHODS = ("realness", "std", "lsgan", "hinge", "wgan-gp")
PAPER_ITERATIONS = 500
MAIN_ITERATIONS = (250, PAPER_ITERATIONS, 1000, 1500)
OUTCOMES: tuple[tuple[int, int, tuple[int, ...]], ...] = (
    *((n, 1, (500, 1000)) for n in (2, 3, 10, 20)),
    *((n, k_g, (250, 500)) for n, k_g in ((3, 2), (10, 4), (20, 7))),
)
"""Number of outcomes, k_G and checkpoints; the main tables have five outcomes."""
ANCHOR_KLS = (1.66, 7.81, 11.05, 33.88)
"""D_KL(A1 || A0) of the paper's table 2; the anchors at the default skews have 4.08."""


def quick_plan() -> list[Task]:
    """The main table with one seed."""
    return [
        Task("main-1", "grid9", name, 1, MAIN_ITERATIONS, (("k_g", 1),)) for name in MAIN_METHODS
    ]


def full_plan() -> list[Task]:
    """Every experiment, the most informative ones first."""
    return [
        *(
            Task("main-1", "grid9", name, 5, MAIN_ITERATIONS, (("k_g", 1),))
            for name in MAIN_METHODS
        ),
        Task("longer", "grid9", "realness", 5, (2000,), (("k_g", 1),)),
        *(
            Task("finite", "gauss-finite", name, 5, (1000, 2000, 5000, 10_000))
            for name in ("0gp-sample", "far", "std", "0gp-interpolation")
        ),
        *(
            Task("main-3", "grid9", name, 5, (PAPER_ITERATIONS,), (("k_g", 3),))
            for name in MAIN_METHODS
        ),
        *(
            Task(
                "near", "grid9", name, 5, (250, PAPER_ITERATIONS, 1000), (("k_g", 1),), spacing=1.0
            )
            for name in MAIN_METHODS
        ),
        *(
            Task("outcomes", "grid9", "realness", 3, ends, (("num_outcomes", n), ("k_g", k_g)))
            for n, k_g, ends in OUTCOMES
        ),
        *(
            Task("anchors", "grid9", "realness", 3, (500, 1000), (("anchor_kl", kl), ("k_g", 1)))
            for kl in ANCHOR_KLS
        ),
        *(
            Task("samples", "gauss-finite", name, 5, (1000, 2000, 5000), data_seed=seed)
            for seed in (1, 2)
            for name in ("far", "0gp-sample")
        ),
        Task("ring8", "ring8", "far", 3, (0, 500, 2000, 10_000)),
        Task("ring8", "ring8", "0gp-sample", 3, (0, 500, 2000, 10_000)),
        *(
            Task("more", data, name, 3, (10_000,))
            for data in ("grid25", "swissroll")
            for name in ("far", "0gp-sample")
        ),
    ]
