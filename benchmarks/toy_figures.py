"""Figures of benchmarks/toy.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from toy_plan import PAPER_ITERATIONS, Arrays, Task
from toy_results import Finished, at, checkpoints, of

from realness.trainer.config import flatten
from realness.trainer.toy import METHODS, DataName
from realness.trainer.toy.data import build_data
from realness.trainer.toy.figures import Panel, draw_panels

COLOURS = {
    "realness": "#d9601a",
    "std": "#2f6fd0",
    "lsgan": "#12866f",
    "hinge": "#b83280",
    "wgan-gp": "#7a6a2f",
}
INK, SOFT, LINE = "#1c1d21", "#62646d", "#e4e3df"


def samples_of_median(arrays: Arrays, iteration: int) -> tuple[Tensor, int]:
    """The samples of the median seed at a checkpoint, and its place among the seeds."""
    key = "high_quality" if "high_quality" in arrays else "distance"
    values = at(arrays, key, iteration)
    place = int(np.argsort(values)[len(values) // 2])
    return torch.from_numpy(at(arrays, "samples", iteration)[place].astype(np.float32)), place


def panel(task: Task, arrays: Arrays, iteration: int, title: str) -> Panel:
    """The median seed of one task at one checkpoint."""
    samples, place = samples_of_median(arrays, iteration)
    if "high_quality" in arrays and task.data != "gauss-finite":
        share = at(arrays, "high_quality", iteration)[place]
        modes = at(arrays, "num_modes", iteration)[place]
        note = f"{share:.1f}% HQ, {modes:g} mode" + ("s" if modes != 1 else "")
    else:
        note = f"energy distance {at(arrays, 'distance', iteration)[place]:.4f}"
    return Panel(title, note, samples)


def real_points(name: DataName) -> Tensor:
    """The training points of a distribution."""
    return build_data(name).training_points()


def draw_main(finished: Finished, path: Path) -> None:
    """Fig. 2 of RealnessGAN: the data and every method, one row per schedule and budget."""
    panels: list[Panel] = []
    columns = 0
    for part, k_g in (("main-1", 1), ("main-3", 3)):
        tasks = of(finished, part)
        if not tasks:
            continue
        ends = checkpoints(tasks)
        for end in sorted({min(PAPER_ITERATIONS, ends[-1]), ends[-1]}):
            row = [Panel("data", f"to the right: {end} iterations, k_G = {k_g}")]
            row += [panel(t, a, end, METHODS[t.method].label) for t, a in tasks.items()]
            columns = max(columns, len(row))
            panels += row
    draw_panels(path, real_points("grid9"), panels, columns=columns)


def draw_curves(finished: Finished, path: Path) -> None:
    """Quality and modes over iterations, k_G = 1: median and range over seeds."""
    from matplotlib.figure import Figure

    tasks = of(finished, "main-1")
    figure = Figure(figsize=(9, 3.4), dpi=150, facecolor="white", layout="constrained")
    axes = figure.subplots(1, 2)
    names = (("high_quality", "high-quality samples, %"), ("num_modes", "modes recovered of 9"))
    for area, (key, title) in zip(axes, names, strict=True):
        for task, arrays in tasks.items():
            values = np.array([at(arrays, key, end) for end in task.checkpoints])
            colour = COLOURS[task.method]
            middle = np.median(values, axis=1)
            area.fill_between(
                task.checkpoints, values.min(1), values.max(1), color=colour, alpha=0.13, lw=0
            )
            label = METHODS[task.method].label
            area.plot(task.checkpoints, middle, color=colour, lw=1.7, marker="o", ms=3, label=label)
        area.set_title(title, fontsize=10, color=INK, loc="left")
        area.set_xlabel("iterations", fontsize=9, color=SOFT)
        area.set_ylim(bottom=0)
        area.grid(color=LINE, lw=0.7)
        area.tick_params(labelsize=8, colors=SOFT, length=0)
        for side in ("top", "right", "left", "bottom"):
            area.spines[side].set_visible(False)
    axes[0].legend(fontsize=8, frameon=False, labelcolor=INK)
    figure.savefig(path)


def draw_outcomes(finished: Finished, path: Path) -> None:
    """Fig. 3 of RealnessGAN: k_G = 1 above, k_G raised below."""
    tasks = of(finished, "outcomes") | {
        task: arrays
        for part in ("main-1", "main-3")
        for task, arrays in of(finished, part).items()
        if task.method == "realness"
    }
    rows: dict[bool, list[Panel]] = {False: [], True: []}
    ordered = sorted(tasks.items(), key=lambda item: flatten(item[0].config)["num_outcomes"])
    for task, arrays in ordered:
        k_g = task.config.optimizer.k_g
        end = PAPER_ITERATIONS if k_g > 1 or 1000 not in task.checkpoints else 1000
        title = f"{flatten(task.config)['num_outcomes']} outcomes, k_G = {k_g}"
        found = panel(task, arrays, end, title)
        rows[k_g > 1].append(Panel(found.title, f"{end} its: {found.note}", found.samples))
    columns = max(len(row) for row in rows.values())
    real = real_points("grid9")
    for row in rows.values():
        row += [Panel("data")] * (columns - len(row)) if row else []
    draw_panels(path, real, [*rows[False], *rows[True]], columns=columns)


def draw_finite(finished: Finished, path: Path) -> None:
    """Fig. 1 of FAR-GAN: one row per checkpoint, one column per method."""
    tasks = of(finished, "finite")
    ends = checkpoints(tasks)
    chosen = [ends[len(ends) // 2 - 1], ends[-1]]
    panels = [
        panel(task, arrays, end, f"{METHODS[task.method].label}, {end:,} iterations")
        for end in chosen
        for task, arrays in tasks.items()
    ]
    draw_panels(path, real_points("gauss-finite"), panels, columns=len(tasks), real_size=9.0)


def draw_evolution(finished: Finished, name: DataName, path: Path) -> None:
    """Fig. 2 and 9 of FAR-GAN: one row per method, one column per checkpoint."""
    tasks = {
        task: arrays
        for part in ("ring8", "more")
        for task, arrays in of(finished, part).items()
        if task.data == name
    }
    ends = checkpoints(tasks)
    panels = [
        panel(task, arrays, end, f"{METHODS[task.method].label}, {end:,} iterations")
        for task, arrays in tasks.items()
        for end in ends
    ]
    columns = len(ends) if len(ends) > 1 else len(tasks)
    draw_panels(path, real_points(name), panels, columns=columns)


def draw_all(finished: Finished, folder: Path, stem: str) -> None:
    """Draw every figure for which there are results."""
    parts = {task.part for task in finished}
    names = {task.data for task in finished}
    if parts & {"main-1", "main-3"}:
        draw_main(finished, folder / f"{stem}_grid9.png")
    if "main-1" in parts:
        draw_curves(finished, folder / f"{stem}_curves.png")
    if "outcomes" in parts:
        draw_outcomes(finished, folder / f"{stem}_outcomes.png")
    if "finite" in parts:
        draw_finite(finished, folder / f"{stem}_finite.png")
    others: tuple[DataName, ...] = ("ring8", "grid25", "swissroll")
    for name in others:
        if name in names:
            draw_evolution(finished, name, folder / f"{stem}_{name}.png")
