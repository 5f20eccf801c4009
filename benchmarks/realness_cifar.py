"""RealnessGAN on CIFAR10, on a CPU: `python benchmarks/realness_cifar.py --cifar CIFAR.zip`.

Trains DCGANs of base width 32 for 150 kimg, two seeds each: the standard GAN, RealnessGAN's preset
(D_KL = 3.03), the same with anchors of D_KL = 11.05, and the preset with three updates of G and no
resampling, as its author trained on CIFAR10. Ten checkpoints of each run are scored, with G's
weights as trained and with their moving average: the sliced Wasserstein distance of 1,000 samples
at each checkpoint, FD in the features of EfficientNet-lite0 at the last.

Runs are kept in --work. After a kill the same command continues, and finished runs and scores are
not repeated. Writes realness_cifar.csv, .md and .png to benchmarks/results; the page says which of
the paper's claims hold, by the rules of claims.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from claims import RULE, Claim, falls, smaller
from seed_curves import Panel, Row, curve, draw, spread, table
from training_runs import (
    TrainingRun,
    command,
    options,
    read_scores,
    run_command,
    side_by_side,
    write_results,
)

KIMG, NUM_CHECKPOINTS = 150.0, 10
NUM_SAMPLES, NUM_REAL = 1000, 5000
FD = "FD-efflite0"
KEYS = {"SWD": "SWD", "FD": FD}
STANDARD, PRESET, ANCHORS, AUTHOR = "Std-GAN", "RealnessGAN", "D_KL 11.05", "k_G 3, no resampling"
_REALNESS = ("--preset", "cifar10-realness-dcgan")
ARMS: dict[str, tuple[str, ...]] = {
    STANDARD: ("--preset", "cifar10-standard-dcgan"),
    PRESET: _REALNESS,
    ANCHORS: (*_REALNESS, "--anchor-kl", "11.05"),
    AUTHOR: (*_REALNESS, "--k-g", "3", "--resample", "none"),
}
COLOURS = {STANDARD: "#2f6fd0", PRESET: "#d9601a", ANCHORS: "#12866f", AUTHOR: "#b83280"}
WEIGHTS = ("raw", "ema")
"""G as trained, which the paper scores, and the moving average of its weights."""


def runs(data: Path, arms: Sequence[str], seeds: int, kimg: float) -> list[TrainingRun]:
    """All runs; the first seed of every arm comes first."""
    shared = (
        # Widths that a CPU can train, whatever the preset's are. The published code flips nothing.
        *("--data", data, "--no-mirror", "--g-width", 32, "--d-width", 32, "--total-kimg", kimg),
        *("--log-kimg", kimg / 100, "--sample-kimg", kimg, "--metrics-kimg", 0),
        *("--checkpoint-kimg", kimg / NUM_CHECKPOINTS, "--keep-checkpoints", NUM_CHECKPOINTS + 1),
    )
    return [TrainingRun(arm, seed, (*ARMS[arm], *shared)) for seed in range(seeds) for arm in arms]


def score_commands(folder: Path, weights: str) -> list[list[str]]:
    """The commands that score all checkpoints of a run, and the last one, with some weights."""
    shared = (folder, "--weights", weights, "--num-images", NUM_SAMPLES, "--num-real", NUM_REAL)
    fd = ("--metrics", "fid", "--network", "efflite0", "--checkpoint", "latest")
    return [
        command("evaluate.py", *shared, "--metrics", "swd", "--checkpoint", "all"),
        command("evaluate.py", *shared, *fd),
    ]


def train_and_score(run: TrainingRun, work: Path, weights: Sequence[str]) -> list[Row]:
    """Train a run and score it; scores that exist already are not measured again."""
    folder, rows = run.train(work), []
    for kind in weights:
        for words, metric, count in zip(
            score_commands(folder, kind), ("SWD", FD), (NUM_CHECKPOINTS, 1), strict=True
        ):
            found = read_scores(folder, kind).values()
            if sum(metric in scores for scores in found) < count:
                run_command(words, f"scores of {run.arm}, seed {run.seed}")
        rows += rows_of(run, kind, folder)
    return rows


def rows_of(run: TrainingRun, weights: str, folder: Path) -> list[Row]:
    """One row per scored checkpoint; FD is empty but for the last one."""
    about = {"arm": run.arm, "seed": run.seed, "weights": weights}
    return [
        {
            **about,
            "kimg": images / 1000,
            **{key: f"{found[name]:.5g}" if name in found else "" for key, name in KEYS.items()},
        }
        for images, found in read_scores(folder, weights).items()
    ]


# --- the page


def late(rows: Sequence[Row], arm: str, weights: str) -> np.ndarray:
    """SWD [seeds, T] at the checkpoints of the second half of training."""
    _, values = curve(rows, "SWD", arm=arm, weights=weights)
    return values[:, values.shape[1] // 2 :]


def last_fd(rows: Sequence[Row], arm: str, weights: str) -> np.ndarray:
    """FD [seeds] of the last checkpoint."""
    return curve(rows, "FD", arm=arm, weights=weights)[1][:, -1]


def claims_on(rows: Sequence[Row], weights: str) -> list[Claim]:
    """Table 1: RealnessGAN is better and steadier than the standard GAN. Table 2: D_KL = 11.05."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    found = []
    for arm in arms if STANDARD in arms else ():
        if arm == STANDARD:
            continue
        ours, theirs = late(rows, arm, weights), late(rows, STANDARD, weights)
        text = f"Table 1, {weights} weights: {arm} has a smaller {{}} than {STANDARD}"
        found += [
            smaller(text.format("lowest SWD"), ours.min(1), theirs.min(1)),
            smaller(text.format("mean SWD"), ours.mean(1), theirs.mean(1)),
            smaller(text.format("SD of SWD"), ours.std(1), theirs.std(1)),
            smaller(
                text.format("FD at the end"),
                last_fd(rows, arm, weights),
                last_fd(rows, STANDARD, weights),
            ),
        ]
    if {PRESET, ANCHORS} <= set(arms):
        text = f"Table 2, {weights} weights: anchors of D_KL 11.05 have a smaller {{}} than 3.03"
        ours, theirs = late(rows, ANCHORS, weights), late(rows, PRESET, weights)
        found += [
            smaller(text.format("lowest SWD"), ours.min(1), theirs.min(1)),
            smaller(
                text.format("FD at the end"),
                last_fd(rows, ANCHORS, weights),
                last_fd(rows, PRESET, weights),
            ),
        ]
    return found


def averaging(rows: Sequence[Row]) -> list[Claim]:
    """How much steadier the average is than the weights that it averages."""
    return [
        falls(
            f"{arm}: the SD of SWD is smaller for the average of G's weights than for the weights",
            late(rows, arm, "raw").std(1),
            late(rows, arm, "ema").std(1),
        )
        for arm in dict.fromkeys(row["arm"] for row in rows)
    ]


def page(rows: Sequence[Row]) -> str:
    """The table, and the verdicts."""
    kinds = list(dict.fromkeys(row["weights"] for row in rows))
    cells = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        for weights in kinds:
            times, values = curve(rows, "SWD", arm=arm, weights=weights)
            second = late(rows, arm, weights)
            own = [arm, weights, str(len(values)), f"{times[-1]:g}"]
            measures = (second.min(1), second.mean(1), second.std(1), last_fd(rows, arm, weights))
            cells.append([*own, *(spread(each, ".1f") for each in measures)])
    head = ["Arm", "Weights", "Seeds", "Thousand images", "Lowest SWD", "Mean SWD", "SD of SWD"]
    claims = [claim for weights in kinds for claim in claims_on(rows, weights)]
    if set(kinds) == set(WEIGHTS):
        claims += averaging(rows)
    return "\n".join(
        [
            "# RealnessGAN on CIFAR10, on a CPU",
            "",
            "Written by `benchmarks/realness_cifar.py`, whose first lines say what was trained. "
            "The paper trains a wider network for 16,640 thousand images. Median over seeds "
            "(least to most). SWD x 1000: lowest, mean and standard deviation over the "
            "checkpoints of the second half; FD of the last.",
            "",
            *table([*head, "FD at the end"], cells),
            "",
            "## The paper's claims",
            "",
            RULE,
            *(claim.line() for claim in claims),
            "",
            "![SWD over training](realness_cifar.png)",
            "",
        ]
    )


def panels(rows: Sequence[Row]) -> list[list[Panel]]:
    """SWD of every arm, a panel per kind of weights."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    return [
        [
            Panel(
                f"SWD x 1000, {weights} weights",
                {arm: curve(rows, "SWD", arm=arm, weights=weights) for arm in arms},
            )
            for weights in dict.fromkeys(row["weights"] for row in rows)
        ]
    ]


def main(arguments: list[str]) -> int:
    """Train everything, and write the table, the page and the figure; returns the exit code."""
    parser = options(__doc__, "realness-cifar", seeds=2)
    parser.add_argument("--cifar", type=Path, required=True, help="a zip of CIFAR10's images")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=list(WEIGHTS))
    parser.add_argument("--kimg", type=float, default=KIMG, help="thousand images per run")
    chosen: argparse.Namespace = parser.parse_args(arguments)
    planned = runs(chosen.cifar, chosen.arms, chosen.seeds, chosen.kimg)
    work = [partial(train_and_score, run, chosen.work, chosen.weights) for run in planned]
    rows = [row for found in side_by_side(work, chosen.jobs, "training") for row in found]
    write_results(chosen.out, "realness_cifar", rows, page(rows))
    draw(chosen.out / "realness_cifar.png", panels(rows), COLOURS)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
