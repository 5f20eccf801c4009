"""Statistics, table and figure of benchmarks/toy_published.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from toy_figures import COLOURS, INK, LINE, SOFT
from toy_plan import PAPER_ITERATIONS, Arrays
from toy_results import PAPER, PAPER_HIGH_QUALITY, PAPER_MODES, Finished, at, quality
from toy_tables import markdown

from realness.trainer.toy import METHODS

OURS, RIVAL = "realness", "std"
LEVEL = 0.05
HYPOTHESIS = """\
Hypothesis, written down before the first run (benchmarks/LOG.md): after 500 iterations RealnessGAN
has a larger percentage of high-quality samples than the standard GAN. Test: Mann-Whitney's U over
the seeds of both, exact, one-sided, at the level 0.05. Everything else on this page is description.
"""
SETTINGS = """\
Settings, all from the published code (scripts/run_MixGauss.sh, train_toy.py, options.py): z in 128
dimensions; anchors are histograms of 1,000 draws, drawn once per iteration and shared by the update
of D and the three of G; points in shuffled epochs; weights of batch normalisation start as
N(1, 0.02); five outcomes, no resampling, G's objective 2; Adam, both rates 1e-4, betas 0.8 and
0.999; batch 100. The code has no baselines: they have the same networks and schedule. As in toy.md:
modes at distance 2, standard deviation 0.05, 100,000 points, 10,000 samples per measurement.
Nothing was tuned.
"""
NUM_RESAMPLES = 2000


def by_method(finished: Finished) -> dict[str, Arrays]:
    """The measures of each method, with the seeds of all its tasks in one array."""
    methods: dict[str, list[Arrays]] = {}
    for task, arrays in finished.items():
        methods.setdefault(task.method, []).append(arrays)
    keys = ("iteration", "seed", "high_quality", "num_modes", "sigma")
    return {
        name: {key: np.concatenate([arrays[key] for arrays in parts]) for key in keys} | cost(parts)
        for name, parts in methods.items()
    }


def cost(parts: Sequence[Arrays]) -> Arrays:
    """The CPU time of all tasks, in seconds."""
    return {"cpu_seconds": np.array(sum(float(arrays["cpu_seconds"]) for arrays in parts))}


# --- statistics


def leads(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Whether our seed n is above their seed m, [n, m]: 1, 0, or 1/2 for equal values."""
    return (ours[:, None] > theirs) + 0.5 * (ours[:, None] == theirs)


def chance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The chance that one of our runs is above one of theirs: Mann-Whitney's U / (n m)."""
    return float(leads(ours, theirs).mean())


def chance_interval(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """95% interval of `chance`, from resampled seeds of both (percentile bootstrap)."""
    rng = np.random.default_rng(0)
    draws = [
        rng.multinomial(len(values), np.full(len(values), 1 / len(values)), NUM_RESAMPLES)
        for values in (ours, theirs)
    ]
    shares = np.einsum("bn,nm,bm->b", draws[0], leads(ours, theirs), draws[1])
    low, high = np.percentile(shares / (len(ours) * len(theirs)), (2.5, 97.5))
    return float(low), float(high)


def rank_test(ours: np.ndarray, theirs: np.ndarray, alternative: str = "greater") -> float:
    """The exact p-value of Mann-Whitney's U, over all divisions of the values into two groups."""
    # The stubs know only the method's names. A million is more than 20 values have divisions.
    every: Any = stats.PermutationMethod(n_resamples=10**6)
    return float(stats.mannwhitneyu(ours, theirs, alternative=alternative, method=every).pvalue)


def sign_test(ours: np.ndarray, theirs: np.ndarray) -> tuple[int, int, float]:
    """Seeds with which ours is above theirs, seeds that differ, and the exact one-sided p-value."""
    above, differ = int((ours > theirs).sum()), int((ours != theirs).sum())
    if not differ:
        return 0, 0, 1.0
    return above, differ, float(stats.binomtest(above, differ, alternative="greater").pvalue)


def seeds_at(arrays: Arrays, iteration: int) -> dict[int, float]:
    """High-quality percentage of each seed at one iteration."""
    found = zip(at(arrays, "seed", iteration), at(arrays, "high_quality", iteration), strict=True)
    return {int(seed): float(value) for seed, value in found}


def pair(methods: dict[str, Arrays], rival: str, iteration: int) -> tuple[np.ndarray, np.ndarray]:
    """High-quality percentages of RealnessGAN and of a rival, for the seeds that both have."""
    ours, theirs = (seeds_at(methods[name], iteration) for name in (OURS, rival))
    both = sorted(ours.keys() & theirs.keys())
    return np.array([ours[seed] for seed in both]), np.array([theirs[seed] for seed in both])


# --- the page


def report(methods: dict[str, Arrays], num_finished: int, num_planned: int) -> str:
    """The page: hypothesis, test, measures and chances by iteration."""
    seconds = sum(float(arrays["cpu_seconds"]) for arrays in methods.values())
    ends = sorted(set(methods[OURS]["iteration"].tolist()))
    shown = [end for end in ends if end % 250 == 0] or ends
    return "\n".join(
        [
            "# The 2-D experiment as published\n",
            f"Made by `python benchmarks/toy_published.py`: {num_finished} of {num_planned} "
            f"planned runs, {seconds / 60:.0f} minutes of one core.\n",
            HYPOTHESIS,
            SETTINGS,
            test_section(methods, finished=num_finished == num_planned),
            measure_section(methods, shown),
            chance_section(methods, ends, shown),
            "![High quality, modes and chances by iteration](toy_published.png)\n",
        ]
    )


def test_section(methods: dict[str, Arrays], *, finished: bool) -> str:
    """The test of the hypothesis, and the same numbers for the other rivals.

    There is a verdict only if all runs are finished: a test that is repeated while runs come in
    errs more often than its level says.
    """
    ours, theirs = pair(methods, RIVAL, PAPER_ITERATIONS)
    if not len(ours):
        return f"No seed has reached iteration {PAPER_ITERATIONS} yet.\n"
    p, reverse = rank_test(ours, theirs), rank_test(theirs, ours)
    above, differ, p_sign = sign_test(ours, theirs)
    if not finished:
        verdict = "No verdict before all planned runs are finished."
    elif p < LEVEL:
        verdict = "The hypothesis is supported."
    elif reverse < LEVEL:
        verdict = "The opposite of the hypothesis is supported."
    else:
        verdict = "The hypothesis is not supported, nor is its opposite: the question stays open."
    text = (
        f"## The test, after {PAPER_ITERATIONS} iterations\n\n"
        f"{verdict} {len(ours)} seeds each; medians {np.median(ours):.1f}% (RealnessGAN) and "
        f"{np.median(theirs):.1f}% (standard GAN); chance that RealnessGAN leads "
        f"{_chance(ours, theirs)}; p = {p:.4f} (opposite: {reverse:.4f}). Sign test over equal "
        f"seeds, which share their order of points: RealnessGAN leads with {above} of {differ}, "
        f"p = {p_sign:.4f}.\n"
    )
    for rival in methods:
        if rival not in (OURS, RIVAL):
            ours, theirs = pair(methods, rival, PAPER_ITERATIONS)
            p = rank_test(ours, theirs, "two-sided")
            text += (
                f"\nNot part of the hypothesis: against {METHODS[rival].label}, medians "
                f"{np.median(ours):.1f}% and {np.median(theirs):.1f}%, chance "
                f"{_chance(ours, theirs)}, two-sided p = {p:.1g}.\n"
            )
    return text


def _chance(ours: np.ndarray, theirs: np.ndarray) -> str:
    low, high = chance_interval(ours, theirs)
    return f"{chance(ours, theirs):.2f} ({low:.2f} to {high:.2f})"


def measure_section(methods: dict[str, Arrays], shown: Sequence[int]) -> str:
    """High quality, modes and sigma beside the paper's numbers."""
    rows = [
        [METHODS[name].label, PAPER[name], *(quality(arrays, end) for end in shown)]
        for name, arrays in methods.items()
    ]
    head = ["method", f"paper, {PAPER_ITERATIONS}", *(f"ours, {end}" for end in shown)]
    reached = [name for name, arrays in methods.items() if _reaches_paper(arrays)]
    who = ", ".join(METHODS[name].label for name in reached) or "no run of any method"
    return (
        "## High quality / modes / mean sigma\n\n"
        + markdown(head, rows)
        + f"\nMedian over seeds (least-most). The paper's {PAPER_MODES} modes with "
        f"{PAPER_HIGH_QUALITY}% together are reached, at any measurement, by {who}.\n"
    )


def _reaches_paper(arrays: Arrays) -> bool:
    enough = arrays["high_quality"] >= PAPER_HIGH_QUALITY
    return bool((enough & (arrays["num_modes"] >= PAPER_MODES)).any())


def chance_section(methods: dict[str, Arrays], ends: Sequence[int], shown: Sequence[int]) -> str:
    """The chance that RealnessGAN leads each rival, by iteration."""
    rivals = [name for name in methods if name != OURS]
    rows, lines = [], []
    for rival in rivals:
        pairs = {end: pair(methods, rival, end) for end in ends}
        label = METHODS[rival].label
        rows.append([label, *(_chance(*pairs[end]) for end in shown)])
        clear = {end: chance_interval(*pairs[end]) for end in ends}
        ahead = [end for end in ends if clear[end][0] > 0.5]
        behind = [end for end in ends if clear[end][1] < 0.5]
        lines.append(
            f"- {label}: RealnessGAN is clearly ahead at {_list(ahead)}, clearly behind at "
            f"{_list(behind)} of {len(ends)} measurements (interval above or below 0.5)."
        )
    return (
        "## The chance that RealnessGAN leads in high quality\n\n"
        + markdown(["against", *(f"{end}" for end in shown)], rows)
        + "\nThe share of pairs of runs in which RealnessGAN is above; 95% interval from resampled "
        "seeds.\n\n" + "\n".join(lines) + "\n"
    )


def _list(ends: Sequence[int]) -> str:
    return f"{len(ends)} ({', '.join(map(str, ends))})" if ends else "none"


# --- the figure


def draw(methods: dict[str, Arrays], path: Path) -> None:
    """Quality, modes, and RealnessGAN's chance to lead each rival, by iteration."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.6), dpi=130, facecolor="white", layout="constrained")
    axes = figure.subplots(1, 3)
    ends = sorted(set(methods[OURS]["iteration"].tolist()))
    names = (("high_quality", "high-quality samples, %"), ("num_modes", "modes recovered of 9"))
    for area, (key, title) in zip(axes, names, strict=False):
        for name, arrays in methods.items():
            values = [at(arrays, key, end) for end in ends]
            area.plot(
                ends, list(map(np.median, values)), color=COLOURS[name], label=METHODS[name].label
            )
            low, high = list(map(np.min, values)), list(map(np.max, values))
            area.fill_between(ends, low, high, color=COLOURS[name], alpha=0.1, lw=0)
        area.set_title(f"{title}: median and range", fontsize=10, color=INK, loc="left")
    area = axes[2]
    for rival in (name for name in methods if name != OURS):
        pairs = [pair(methods, rival, end) for end in ends]
        band = np.array([chance_interval(*each) for each in pairs])
        label = f"over {METHODS[rival].label}"
        area.plot(ends, [chance(*each) for each in pairs], color=COLOURS[rival], label=label)
        area.fill_between(ends, *band.T, color=COLOURS[rival], alpha=0.1, lw=0)
    area.axhline(0.5, color=SOFT, lw=0.8)
    area.set_ylim(-0.03, 1.03)
    area.set_title("chance that RealnessGAN leads in quality", fontsize=10, color=INK, loc="left")
    for area in axes:
        area.axvline(PAPER_ITERATIONS, color=SOFT, lw=0.8, ls=":")
        area.set_xlabel("iterations", fontsize=9, color=SOFT)
        area.grid(color=LINE, lw=0.7)
        area.tick_params(labelsize=8, colors=SOFT, length=0)
        area.spines[["top", "right", "left", "bottom"]].set_visible(False)
        area.legend(fontsize=8, frameon=False, labelcolor=INK)
    figure.savefig(path)
