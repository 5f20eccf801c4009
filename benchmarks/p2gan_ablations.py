"""P2GAN without its parts: `python benchmarks/p2gan_ablations.py --cifar CIFAR.zip`.

Trains the preset cifar10-p2gan-dcgan for 200 kimg, with 33 kimg of pretraining, as it is and
without pretraining (P), posterior code (Z), posterior modules (M) or code regulariser (L), and
records the measure of convergence M_c (eq. 21; Fig. 6 and 7) and the sliced Wasserstein distance of
2,048 samples of G as trained. Without modules, codes and pretraining have no meaning, so
`w/o M` is the row "w/o P, Z, M" of the paper's Table 5, `w/o M, L` the row "w/o P, Z, M, L".

Runs are kept in --work. After a kill the same command continues, and finished runs are not
repeated. Writes p2gan_ablations.csv, .md and .png to benchmarks/results; the page says which of the
paper's claims hold, by the rules of claims.py.
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
from training_runs import TrainingRun, options, read_scores, side_by_side, write_results

from realness.trainer.reporting import read_stats

KIMG, PRETRAINED = 200.0, 33 / 200
"""Thousand images per run, and the share of them that is pretraining."""
NUM_RECORDS, NUM_SCORES, NUM_SAMPLES = 100, 5, 2048
FULL = "full"
ARMS: dict[str, tuple[str, ...]] = {
    FULL: (),
    "w/o P": ("--pretrain-kimg", "0"),
    "w/o L": ("--code-weight", "0"),
    "w/o M": ("--no-posterior-modules",),
    "w/o Z": ("--code-source", "noise"),
    "w/o P, Z": ("--pretrain-kimg", "0", "--code-source", "noise"),
    "w/o M, L": ("--no-posterior-modules", "--code-weight", "0"),
}
DEFAULT_ARMS = list(ARMS)[:5]
PAPER_FID = {FULL: 31.1, "w/o P": 35.8, "w/o P, Z": 38.0, "w/o M": 41.9, "w/o M, L": 45.6}
"""Table 5 on CIFAR10 (with ResNets, 20 epochs)."""
COLOURS = dict(
    zip(
        ARMS,
        ("#d9601a", "#2f6fd0", "#12866f", "#b83280", "#7a6a2f", "#62646d", "#1c1d21"),
        strict=True,
    )
)


def runs(data: Path, arms: Sequence[str], seeds: int, kimg: float) -> list[TrainingRun]:
    """All runs; the first seed of every arm comes first."""
    shared = (
        *("--preset", "cifar10-p2gan-dcgan", "--data", data, "--total-kimg", kimg),
        # Widths that a CPU can train, whatever the preset's are.
        *("--g-width", 32, "--d-width", 32, "--pretrain-kimg", kimg * PRETRAINED),
        *("--log-kimg", kimg / NUM_RECORDS, "--sample-kimg", kimg, "--checkpoint-kimg", kimg / 5),
        *("--metrics", "swd", "--metrics-kimg", kimg / NUM_SCORES, "--metrics-images", NUM_SAMPLES),
        # The paper mentions neither an average of the weights nor flips.
        *("--metrics-weights", "raw", "--no-mirror"),
    )
    return [TrainingRun(arm, seed, (*shared, *ARMS[arm])) for seed in range(seeds) for arm in arms]


def rows_of(run: TrainingRun, folder: Path) -> list[Row]:
    """One row per record of M_c and per score; the column that was not measured is empty."""
    about = {"arm": run.arm, "seed": run.seed}
    records = {
        record["images"]: record["convergence"]
        for record in read_stats(folder / "stats.jsonl")
        if "convergence" in record
    }
    rows = [
        {**about, "kimg": images / 1000, "M_c": f"{value:.5g}", "SWD": ""}
        for images, value in sorted(records.items())
    ]
    return rows + [
        {**about, "kimg": images / 1000, "M_c": "", "SWD": f"{found['SWD']:.5g}"}
        for images, found in read_scores(folder, "raw").items()
    ]


# --- the page


def measure(rows: Sequence[Row], key: str, arm: str) -> tuple[list[float], np.ndarray]:
    """Times and values [seeds, T] of M_c or SWD, at the times at which it was measured."""
    return curve([row for row in rows if row[key] != ""], key, arm=arm)


def halves(rows: Sequence[Row], arm: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean M_c [seeds] in the first and in the second half of the time after pretraining."""
    times, values = measure(rows, "M_c", arm)
    start, end = times[-1] * PRETRAINED, times[-1]
    middle, at = (start + end) / 2, np.array(times)
    return values[:, (at > start) & (at <= middle)].mean(1), values[:, at > middle].mean(1)


def roughness(rows: Sequence[Row], arm: str) -> np.ndarray:
    """Mean change of M_c from record to record after pretraining, over the mean of M_c, [seeds]."""
    times, values = measure(rows, "M_c", arm)
    late = values[:, np.array(times) > times[-1] * PRETRAINED]
    return np.abs(np.diff(late, axis=1)).mean(1) / late.mean(1)


def claims_on(rows: Sequence[Row]) -> list[Claim]:
    """Fig. 6: M_c falls. Fig. 7: smoothest with all parts. Table 5: best with all parts."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    if FULL not in arms:
        return []
    found = [falls("Fig. 6: M_c keeps falling with all parts", *halves(rows, FULL))]
    for arm in arms:
        if arm == FULL:
            continue
        text = f"Fig. 7: M_c is smoother with all parts than {arm}"
        found.append(smaller(text, roughness(rows, FULL), roughness(rows, arm)))
        paper = f", FID {PAPER_FID[FULL]} to {PAPER_FID[arm]}" if arm in PAPER_FID else ""
        text = f"Table 5{paper}: the lowest SWD is lower with all parts than {arm}"
        best = (measure(rows, "SWD", each)[1].min(1) for each in (FULL, arm))
        found.append(smaller(text, *best))
    return found


def page(rows: Sequence[Row]) -> str:
    """The table, and the verdicts."""
    cells = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        times, distances = measure(rows, "SWD", arm)
        early, late = halves(rows, arm)
        cells.append(
            [
                *(arm, str(len(distances)), f"{times[-1]:g}", spread(early, ".3g")),
                *(spread(late, ".3g"), spread(roughness(rows, arm), ".3f")),
                *(spread(distances[:, -1], ".1f"), spread(distances.min(1), ".1f")),
                f"{PAPER_FID[arm]}" if arm in PAPER_FID else "–",
            ]
        )
    head = ["Arm", "Seeds", "Thousand images", "M_c, first half", "M_c, second half"]
    head += ["Roughness of M_c", "SWD at the end", "Lowest SWD", "Paper's FID"]
    return "\n".join(
        [
            "# P2GAN without its parts",
            "",
            "Written by `benchmarks/p2gan_ablations.py`, whose first lines say what was trained: "
            "DCGANs of base width 32, where the paper has ResNets for its Table 5. Median over "
            "seeds (least to most). M_c: means over the halves of the time after pretraining; "
            "roughness: the mean change between its records (1 % of a run each), over its mean. "
            "SWD x 1000 is not FID.",
            "",
            *table(head, cells),
            "",
            "## The paper's claims",
            "",
            RULE,
            *(claim.line() for claim in claims_on(rows)),
            "",
            "![M_c and SWD over training](p2gan_ablations.png)",
            "",
        ]
    )


def panels(rows: Sequence[Row]) -> list[list[Panel]]:
    """M_c and SWD of every arm."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    titles = {"M_c": "M_c (eq. 21)", "SWD": "SWD x 1000"}
    return [
        [
            Panel(title, {arm: measure(rows, key, arm) for arm in arms}, logarithmic=key == "M_c")
            for key, title in titles.items()
        ]
    ]


def main(arguments: list[str]) -> int:
    """Train everything, and write the table, the page and the figure; returns the exit code."""
    parser = options(__doc__, "p2gan-ablations", seeds=2)
    parser.add_argument("--cifar", type=Path, required=True, help="a zip of CIFAR10's images")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=DEFAULT_ARMS)
    parser.add_argument("--kimg", type=float, default=KIMG, help="thousand images per run")
    chosen: argparse.Namespace = parser.parse_args(arguments)
    planned = runs(chosen.cifar, chosen.arms, chosen.seeds, chosen.kimg)
    folders = side_by_side(
        [partial(run.train, chosen.work) for run in planned], chosen.jobs, "training"
    )
    rows = [
        row for run, folder in zip(planned, folders, strict=True) for row in rows_of(run, folder)
    ]
    write_results(chosen.out, "p2gan_ablations", rows, page(rows))
    draw(chosen.out / "p2gan_ablations.png", panels(rows), COLOURS)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
