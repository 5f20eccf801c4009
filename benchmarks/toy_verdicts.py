"""Verdicts of benchmarks/toy.py on the papers' claims, computed from the runs by fixed rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats
from toy_plan import PAPER_ITERATIONS
from toy_results import PAPER_HIGH_QUALITY, PAPER_MODES, Finished, at, checkpoints, middle

from realness.trainer.config import flatten
from realness.trainer.toy import METHODS

LEVEL = 0.05
"""A trend with a smaller p-value is called one."""


def verdict(tasks: Finished, ends: Sequence[int]) -> str:
    """RealnessGAN's rank among the methods, and when it reaches the paper's numbers."""
    ours = next((arrays for task, arrays in tasks.items() if task.method == "realness"), None)
    if ours is None:
        return ""
    lines = []
    for end in ends if len(tasks) > 1 else ():
        others = {
            METHODS[task.method].label: arrays
            for task, arrays in tasks.items()
            if task.method != "realness"
        }
        best = max(others, key=lambda name: middle(others[name], "high_quality", end))
        gain = middle(ours, "high_quality", end) - middle(others[best], "high_quality", end)
        most = max(middle(arrays, "num_modes", end) for arrays in others.values())
        modes = middle(ours, "num_modes", end)
        claim = "holds" if gain > 0 and modes >= most else "does NOT hold"
        worst, rival = at(ours, "high_quality", end).min(), at(others[best], "high_quality", end)
        if claim == "holds" and worst <= rival.max():
            claim = "holds for the medians, but the seeds' ranges overlap"
        lines.append(
            f"- After {end} iterations: RealnessGAN's high quality is {gain:+.1f} points from the "
            f"best baseline's ({best}), with {modes:g} modes to at most {most:g}. "
            f"That RealnessGAN beats every baseline {claim}."
        )
    reached = [
        end
        for end in ends
        if middle(ours, "high_quality", end) >= PAPER_HIGH_QUALITY
        and middle(ours, "num_modes", end) >= PAPER_MODES
    ]
    when = f"by iteration {reached[0]}" if reached else f"NOT within {ends[-1]} iterations"
    lines.append(
        f"- RealnessGAN's medians reach the paper's 8 modes and 60.2% {when} (paper: 500)."
    )
    return "\n".join(lines) + "\n"


def far_verdict(tasks: Finished, ends: Sequence[int]) -> str:
    """Whether FAR stays closer than 0GP-sample."""
    named = {task.method: arrays for task, arrays in tasks.items()}
    if not {"far", "0gp-sample"} <= set(named):
        return ""
    far, other = (
        [middle(named[name], "distance", end) for end in ends] for name in ("far", "0gp-sample")
    )
    closer = [end for end, ours, theirs in zip(ends, far, other, strict=True) if ours < theirs]
    where = "at every checkpoint" if len(closer) == len(ends) else f"at {closer or 'none'}"
    return f"FAR-GAN is closer than 0GP-sample {where}."


def outcomes_verdict(tasks: Finished, *, raised: bool) -> str:
    """Whether quality and modes change with the number of outcomes as in RealnessGAN's Fig. 3.

    raised: its second row, in which k_G is raised, after PAPER_ITERATIONS; otherwise its first row,
    k_G = 1, at the last checkpoint of all runs. The trend is Kendall's tau-b over all runs.
    """
    row = {task: each for task, each in tasks.items() if (task.config.optimizer.k_g > 1) == raised}
    ends = [end for end in checkpoints(row) if not raised or end == PAPER_ITERATIONS] if row else []
    if not ends:
        return ""
    outcomes = np.concatenate(
        [
            np.full(len(at(arrays, "num_modes", ends[-1])), flatten(task.config)["num_outcomes"])
            for task, arrays in row.items()
        ]
    )
    claims = {"num_modes": -1} if not raised else {"high_quality": 1, "num_modes": 1}
    found = []
    for key, sign in claims.items():
        values = np.concatenate([at(arrays, key, ends[-1]) for arrays in row.values()])
        found.append(f"{key.replace('num_', '').replace('_', ' ')} {trend(outcomes, values, sign)}")
    name = "second row (k_G raised)" if raised else "first row (k_G = 1)"
    return (
        f"- Fig. 3, {name}, over {len(outcomes)} runs after {ends[-1]} iterations: with the number "
        f"of outcomes, {' and '.join(found)}.\n"
    )


def trend(outcomes: np.ndarray, values: np.ndarray, sign: int) -> str:
    """Kendall's tau-b of values over numbers of outcomes, compared with the sign of the claim."""
    claim = "should grow" if sign > 0 else "should fall"
    if (values == values[0]).all():
        return f"{claim} and are the same in all runs: it does NOT reproduce"
    found: Any = stats.kendalltau(outcomes, values)
    tau, p = float(found.statistic), float(found.pvalue)
    if p >= LEVEL:
        verdict = "no trend: it does NOT reproduce"
    else:
        verdict = "it reproduces" if tau * sign > 0 else "CONTRADICTED"
    return f"{claim} (tau {tau:+.2f}, p = {p:.2g}; {verdict})"


COMPARED = (
    ("high_quality", "high quality", "%.1f%%", 1),
    ("num_modes", "modes", "%g", 1),
    ("distance", "energy distance", "%.4f", -1),
)
"""Key, name and format of a measure, and 1 if larger is better."""


def other_verdict(tasks: Finished) -> str:
    """In which measures FAR-GAN is ahead of 0GP-sample, for each distribution."""
    lines = []
    for data in dict.fromkeys(task.data for task in tasks):
        named = {task.method: arrays for task, arrays in tasks.items() if task.data == data}
        if not {"far", "0gp-sample"} <= set(named):
            continue
        end = max(task.checkpoints[-1] for task in tasks if task.data == data)
        found = [
            compared(at(named["far"], key, end), at(named["0gp-sample"], key, end), rule)
            for key, *rule in COMPARED
            if key in named["far"]
        ]
        lines.append(f"- {data}: FAR-GAN is {'; '.join(found)}.\n")
    return "".join(lines)


def compared(far: np.ndarray, other: np.ndarray, rule: Sequence[Any]) -> str:
    """`ahead in NAME (a against b)` by the medians, and whether the seeds' ranges overlap."""
    name, form, sign = rule
    gain = sign * (np.median(far) - np.median(other))
    place = "level" if gain == 0 else "ahead" if gain > 0 else "BEHIND"
    low, high = sorted((far, other), key=lambda values: float(np.median(values)))
    ranges = "" if low.max() < high.min() else ", ranges overlap"
    medians = f"{form % np.median(far)} against {form % np.median(other)}"
    return f"{place} in {name} ({medians}{ranges})"
