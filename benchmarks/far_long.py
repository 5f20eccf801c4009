"""FAR-GAN's Fig. 1 and 9 at length: `python benchmarks/far_long.py`.

Trains FAR-GAN and its baselines (no penalty, 0GP-sample, 0GP-interpolation) on 100 points of a
Gaussian, and FAR-GAN and 0GP-sample on 25 Gaussians, for 100,000 iterations of Adam with five seeds
each as one batched network, and measures 20 times. Fig. 1 shows the methods after 100,000 and
200,000 iterations of an optimiser that the paper does not state.

Finished tasks are kept in --work and not run again. Writes far_long.csv, .md and .png to
benchmarks/results; the page says which of the paper's claims hold, by the rules of claims.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from claims import RULE, Claim, at_least, falls, larger, rises, smaller
from seed_curves import Panel, Row, curve, draw, spread, table
from toy import run_all
from toy_plan import Arrays, Task
from training_runs import options, write_results

from realness.trainer.toy import METHODS, DataName

ITERATIONS, MEASUREMENTS = 100_000, 20
ARMS: dict[DataName, tuple[str, ...]] = {
    "gauss-finite": ("far", "std", "0gp-sample", "0gp-interpolation"),
    "grid25": ("far", "0gp-sample"),
}
COLOURS = {
    "FAR-GAN": "#d9601a",
    "Std-GAN": "#62646d",
    "0GP-sample": "#2f6fd0",
    "0GP-interpolation": "#12866f",
}
MEASURES = ("distance", "high_quality", "num_modes")
NUM_MODES = 25


def plan(data: Sequence[DataName], seeds: int, iterations: int) -> list[Task]:
    """A task per distribution and method."""
    ends = tuple(iterations * k // MEASUREMENTS for k in range(1, MEASUREMENTS + 1))
    return [Task("far-long", name, method, seeds, ends) for name in data for method in ARMS[name]]


def rows_of(task: Task, arrays: Arrays) -> list[Row]:
    """One row per measurement and seed; modes only for the 25 Gaussians."""
    kept = MEASURES if task.data == "grid25" else MEASURES[:1]
    return [
        {
            "data": task.data,
            "arm": METHODS[task.method].label,
            "seed": int(seed),
            "iteration": int(arrays["iteration"][number]),
            **{key: f"{arrays[key][number]:.5g}" if key in kept else "" for key in MEASURES},
            "task_cpu_seconds": f"{float(arrays['cpu_seconds']):.0f}",
        }
        for number, seed in enumerate(arrays["seed"])
    ]


# --- the page


def halves(rows: Sequence[Row], **only: object) -> tuple[np.ndarray, np.ndarray]:
    """Mean energy distance [seeds] over the first and the second half of the measurements."""
    _, values = curve(rows, "distance", "iteration", **only)
    middle = values.shape[1] // 2
    return values[:, :middle].mean(1), values[:, middle:].mean(1)


def labels(rows: Sequence[Row], data: str) -> list[str]:
    """The arms of one distribution, in the order of the rows."""
    return list(dict.fromkeys(row["arm"] for row in rows if row["data"] == data))


def gaussian_claims(rows: Sequence[Row]) -> list[Claim]:
    """Fig. 1: FAR-GAN is closest to the Gaussian, and the others get worse during training."""
    found = {
        arm: halves(rows, data="gauss-finite", arm=arm) for arm in labels(rows, "gauss-finite")
    }
    claims = []
    for arm, (early, late) in found.items():
        if arm == "FAR-GAN":
            claims.append(
                falls("FAR-GAN does not get farther from the Gaussian with training", early, late)
            )
            continue
        text = f"{arm} gets farther from the Gaussian with training"
        claims.append(rises(text, early, late))
        if "FAR-GAN" in found:
            text = f"FAR-GAN is closer to the Gaussian than {arm} in the second half"
            claims.append(smaller(text, found["FAR-GAN"][1], late))
    return claims


def grid_claims(rows: Sequence[Row]) -> list[Claim]:
    """Fig. 9, in which FAR-GAN covers 25 modes, and FAR-GAN beside its baseline."""
    if labels(rows, "grid25") != ["FAR-GAN", "0GP-sample"]:
        return []
    far, other = (
        {key: curve(rows, key, "iteration", data="grid25", arm=arm)[1][:, -1] for key in MEASURES}
        for arm in ("FAR-GAN", "0GP-sample")
    )
    more = "FAR-GAN has more {} than 0GP-sample at the end (its figure has no baseline)"
    return [
        at_least("FAR-GAN covers 25 of 25 modes at the end", far["num_modes"], NUM_MODES),
        larger(more.format("modes"), far["num_modes"], other["num_modes"]),
        larger(more.format("high-quality samples"), far["high_quality"], other["high_quality"]),
        smaller(
            "FAR-GAN is closer than 0GP-sample at the end, in energy distance",
            far["distance"],
            other["distance"],
        ),
    ]


def page(rows: Sequence[Row]) -> str:
    """The table, and the verdicts."""
    cells = []
    for data in dict.fromkeys(row["data"] for row in rows):
        for arm in labels(rows, data):
            own: dict[str, Any] = {"data": data, "arm": arm}
            ends, distances = curve(rows, "distance", "iteration", **own)
            early, late = halves(rows, **own)
            quality, modes = (
                spread(curve(rows, key, "iteration", **own)[1][:, -1], form)
                for key, form in (("high_quality", ".1f"), ("num_modes", "g"))
            )
            row = [data, arm, str(len(distances)), f"{ends[-1]:,}"]
            row += [spread(values, ".4f") for values in (early, late)]
            cells.append([*row, quality, modes])
    head = ["Data", "Method", "Seeds", "Iterations", "Energy distance, first half", "second half"]
    return "\n".join(
        [
            "# FAR-GAN's 2-D experiments at length",
            "",
            "Written by `benchmarks/far_long.py`, whose first lines say what was trained. Median "
            "over seeds (least to most). Energy distance to new points of the distribution; means "
            "over half of the measurements, because single ones wander.",
            "",
            *table([*head, "High quality at the end, %", "Modes at the end"], cells),
            "",
            "## The paper's claims",
            "",
            RULE,
            *(claim.line() for claim in (*gaussian_claims(rows), *grid_claims(rows))),
            "",
            "![Measures by iteration](far_long.png)",
            "",
        ]
    )


def panels(rows: Sequence[Row]) -> list[list[Panel]]:
    """A row of panels per distribution."""

    def panel(data: str, key: str, title: str) -> Panel:
        found = {
            arm: curve(rows, key, "iteration", data=data, arm=arm) for arm in labels(rows, data)
        }
        return Panel(f"{data}: {title}", found, logarithmic=key == "distance")

    names = {row["data"] for row in rows}
    grid = []
    if "gauss-finite" in names:
        grid.append([panel("gauss-finite", "distance", "energy distance")])
    if "grid25" in names:
        titles = ("energy distance", "high quality, %", "modes")
        grid.append([panel("grid25", *each) for each in zip(MEASURES, titles, strict=True)])
    return grid


def main(arguments: list[str]) -> int:
    """Run the benchmark; returns the process's exit code."""
    parser = options(__doc__, "far-long", seeds=5)
    parser.add_argument("--data", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    chosen: argparse.Namespace = parser.parse_args(arguments)
    if chosen.iterations < MEASUREMENTS:
        parser.error(f"--iterations={chosen.iterations} must be {MEASUREMENTS} or more")
    chosen.work.mkdir(parents=True, exist_ok=True)
    tasks = plan(chosen.data, chosen.seeds, chosen.iterations)
    run_all(tasks, chosen.work, chosen.jobs)
    rows = [row for task in tasks for row in rows_of(task, task.load(chosen.work))]
    write_results(chosen.out, "far_long", rows, page(rows))
    draw(chosen.out / "far_long.png", panels(rows), COLOURS, time="iterations")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
