"""Tables of benchmarks/toy.py, with the papers' numbers and the settings that they leave open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from toy_plan import PAPER_ITERATIONS, Arrays, Task
from toy_results import PAPER, Finished, at, checkpoints, middle, of, quality
from toy_verdicts import far_verdict, other_verdict, outcomes_verdict, verdict

from realness.trainer.config import flatten
from realness.trainer.toy import METHODS
from realness.trainer.toy.data import build_data
from realness.trainer.toy.measures import energy_distance, wasserstein_distance
from realness.trainer.toy.results import NUM_DISTANCE_SAMPLES

NUM_ASSIGNED = 1000

SETTINGS = """\
Settings. Fixed by the paper: 9 isotropic Gaussians on a 3 x 3 grid, 100,000 points, z in 32
dimensions, the networks, Adam, 500 iterations, 10,000 samples, 4 sigma, more than 100 samples a
mode. From the published script: batch 100, learning rate 1e-4, betas 0.8 and 0.999, five outcomes,
no resampling, 3 updates of G for one of D. From code that reads the published data: modes at -2, 0
and 2 on each axis. Left open, and chosen here: "variances equal to 0.05" read as standard
deviations, because the paper's mean sigmas (0.043 and 0.083) fit only that; skew-normal anchors of
skewness +5 and -5 (D_KL = 4.08 on five outcomes; the script draws histograms instead); G's
objective 2; the baselines' schedules: every method has the same updates of D and of G at the same
rates, once with k_G = 1 and once with the script's k_G = 3. Nothing was tuned for one method.

Read quality and modes together: everything on one mode is 100% of high quality.
"""


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, padded so that it reads as plain text too."""
    table = [list(head), *map(list, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in table
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def main_table(finished: Finished, part: str, title: str) -> str:
    """Methods at one schedule, and whether RealnessGAN leads."""
    tasks = of(finished, part)
    if not tasks:
        return ""
    ends, seeds = checkpoints(tasks), next(iter(tasks)).seeds
    rows = [
        [METHODS[task.method].label, PAPER[task.method], *(quality(arrays, end) for end in ends)]
        for task, arrays in tasks.items()
    ]
    head = ["method", f"paper, {PAPER_ITERATIONS}", *(f"ours, {end}" for end in ends)]
    title = f"## grid9, {title}: high quality / modes / mean sigma\n\n"
    seen = f"Median over {seeds} seeds (least-most).\n" if seeds > 1 else "One seed.\n"
    return title + markdown(head, rows) + "\n" + seen + verdict(tasks, ends)


def outcome_table(finished: Finished) -> str:
    """The effect of the number of outcomes, with k_G = 1 and with k_G raised."""
    tasks = of(finished, "outcomes") | {
        task: arrays
        for part in ("main-1", "main-3")
        for task, arrays in of(finished, part).items()
        if task.method == "realness"
    }
    if not of(finished, "outcomes"):
        return ""
    rows = []
    for task, arrays in sorted(tasks.items(), key=_outcomes_and_updates):
        config = task.config
        ends = [end for end in task.checkpoints if end in (PAPER_ITERATIONS, 1000)]
        cells = [quality(arrays, end) for end in ends] + ["-"] * (2 - len(ends))
        row = [str(config.optimizer.k_g), str(flatten(config)["num_outcomes"]), str(task.seeds)]
        rows.append([*row, *cells])
    return (
        "## grid9: the number of outcomes (paper: Fig. 3, curves without numbers)\n\n"
        + markdown(["k_G", "outcomes", "seeds", f"ours, {PAPER_ITERATIONS}", "ours, 1000"], rows)
        + "\nThe paper: with k_G = 1 modes are lost as outcomes grow; with k_G raised as needed, "
        "quality and modes grow with the outcomes. Its text does not give these k_G, but a reader "
        "of the figure quotes one panel as 20 outcomes and 14 updates of G (issue 9 of the "
        "published code). Ours grow with the outcomes, to 7 at 20. (With one-hot anchors, two "
        "outcomes are Std-GAN's run to rounding: tests/trainer/toy/test_toy.py.)\n"
        + "".join(outcomes_verdict(tasks, raised=raised) for raised in (False, True))
    )


def _outcomes_and_updates(item: tuple[Task, Arrays]) -> tuple[bool, int, int]:
    config = item[0].config
    return (config.optimizer.k_g > 1, flatten(config)["num_outcomes"], config.optimizer.k_g)


def anchor_table(finished: Finished) -> str:
    """The effect of the divergence between the anchors."""
    tasks = of(finished, "anchors")
    if not tasks:
        return ""
    ends = checkpoints(tasks)
    kls = {task: dict(task.changes)["anchor_kl"] for task in tasks}
    rows = [
        [f"{kls[task]:g}", *(quality(arrays, end) for end in ends)]
        for task, arrays in tasks.items()
    ]
    for task, arrays in of(finished, "main-1").items():
        if task.method == "realness":
            rows.append(["4.08", *(quality(arrays, end) for end in ends)])
    rows.sort(key=lambda row: float(row[0]))
    return (
        "## grid9: the divergence of the anchors, k_G = 1\n\n"
        + markdown(["D_KL(A1 || A0)", *(f"ours, {end}" for end in ends)], rows)
        + "\nThe paper has this on CelebA only (its table 2): FID falls from 31.0 at 1.66 to 23.5 "
        "at 11.05. Both skews are scaled by one factor; 4.08 is the main table's.\n"
    )


def finite_table(finished: Finished) -> str:
    """FAR-GAN's Fig. 1 as distances to the Gaussian from which the training points are drawn."""
    tasks = of(finished, "finite") | of(finished, "samples")
    if not tasks:
        return ""
    seeds = sorted({task.data_seed or 0 for task in tasks})
    parts = [
        sample_table({t: a for t, a in tasks.items() if (t.data_seed or 0) == seed}, seed)
        for seed in seeds
    ]
    return (
        "## gauss-finite: distance to N(0, I), learned from 100 points of it\n\n"
        + "\n".join(parts)
        + f"\nMedian over {next(iter(tasks)).seeds} seeds of training (least-most); energy "
        "distance, and exact 1-Wasserstein distance of 1,000 samples. The paper (Fig. 1, by eye): "
        "FAR-GAN generalises, the others overfit more and more. Left open by the paper: the "
        "number of points, and the optimiser (here Adam with betas 0.5 and 0.999; the published "
        "code of these networks uses SGD unless told otherwise), so that its 100,000 and 200,000 "
        "iterations are not comparable with ours.\n"
    )


def sample_table(tasks: Finished, data_seed: int) -> str:
    """The methods on one finite sample."""
    ends, data = checkpoints(tasks), build_data("gauss-finite", seed=data_seed)
    target, last = data.target_points(NUM_DISTANCE_SAMPLES), checkpoints(tasks)[-1]
    rows = []
    for task, arrays in tasks.items():
        cells = []
        for end in ends:
            values = at(arrays, "distance", end)
            cells.append(f"{np.median(values):.4f} ({values.min():.4f}-{values.max():.4f})")
        samples = at(arrays, "samples", last)[:, :NUM_ASSIGNED].astype(np.float32)
        assigned = [
            wasserstein_distance(torch.from_numpy(each), target[:NUM_ASSIGNED]) for each in samples
        ]
        rows.append([METHODS[task.method].label, *cells, f"{np.median(assigned):.3f}"])
    floor = energy_distance(data.training_points(), target)
    head = [f"sample {data_seed}", *(f"energy, {end}" for end in ends), f"W1, {last}"]
    about = f"The training points themselves: {floor:.4f}. {far_verdict(tasks, ends)}\n"
    return markdown(head, rows) + "\n" + about


def other_table(finished: Finished) -> str:
    """ring8, grid25 and the Swiss roll."""
    tasks = of(finished, "ring8") | of(finished, "more")
    if not tasks:
        return ""
    rows = []
    for task, arrays in tasks.items():
        last = task.checkpoints[-1]
        modes = quality(arrays, last) if "num_modes" in arrays else "-"
        distance = middle(arrays, "distance", last)
        rows.append([task.data, METHODS[task.method].label, str(last), modes, f"{distance:.4f}"])
    head = ["data", "method", "iterations", "high quality / modes / sigma", "energy distance"]
    return (
        "## FAR-GAN's other distributions (its Fig. 2 and 9, pictures without numbers)\n\n"
        + markdown(head, rows)
        + "\nMedian over 3 seeds. Left open: radius 2 and standard deviation 0.02 of ring8, "
        "distance 2 and 0.05 of grid25 (both customary), the optimiser (Adam, as above). The paper "
        "shows FAR-GAN alone here, covering all modes after up to 500,000 iterations.\n"
        + other_verdict(tasks)
    )


def report(finished: Finished, num_planned: int) -> str:
    """All tables of the finished tasks."""
    seconds = sum(float(arrays["cpu_seconds"]) for arrays in finished.values())
    head = (
        "# The 2-D experiments\n\n"
        f"Made by `python benchmarks/toy.py`: {len(finished)} of {num_planned} planned tasks, "
        f"{seconds / 60:.0f} minutes of one core.\n\n"
    )
    parts = [
        main_table(finished, "main-1", "k_G = 1, k_D = 1"),
        main_table(finished, "longer", "k_G = 1, k_D = 1, for longer"),
        main_table(finished, "main-3", "k_G = 3, k_D = 1"),
        main_table(finished, "near", "modes at distance 1 instead of 2, k_G = 1, k_D = 1"),
        outcome_table(finished),
        anchor_table(finished),
        finite_table(finished),
        other_table(finished),
    ]
    return head + SETTINGS + "\n" + "\n".join(filter(None, parts))
