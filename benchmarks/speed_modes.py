"""Check that speed modes keep training quality: `python benchmarks/speed_modes.py [--data FACES]`.

Trains 200 updates at 64x64 in every mode that makes a run faster or smaller, with the training
command itself, and compares with the plainest mode: PyTorch's operations, fp32, contiguous, two
passes per update. The plainest mode runs with four seeds, whose scatter gives the tolerance: for
every other mode, the mean loss of the last 50 updates and the sliced Wasserstein distance must lie
in the 99 % prediction interval of a fifth seed (Student's t). Exits with 1 otherwise. Appends rows
to benchmarks/results/speed_modes.csv and draws speed_modes.png.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats
from train_step import RESULTS, ROOT, append

NUM_UPDATES = 200
NUM_COMPARED = 50
"""Number of final updates whose mean loss is compared."""
SEEDS = range(4)
CONFIDENCE = 0.99
MEASURES = ("loss_d", "loss_g", "SWD")

FACES = ROOT / "data" / "orl-faces-64"
FUSED = ("--impl", "auto")
SLOWEST = "plain"
MODES: dict[str, tuple[str, ...]] = {
    SLOWEST: (),
    "fused": FUSED,
    "channels_last": (*FUSED, "--memory-format", "channels_last"),
    "compiled": (*FUSED, "--compile"),
    "recomputed": (*FUSED, "--checkpoint-activations"),
    "ZeRO 2": (*FUSED, "--zero-g", "2", "--zero-d", "2"),
    "ZeRO 3": (*FUSED, "--zero-g", "3", "--zero-d", "3"),
    "bf16": (*FUSED, "--memory-format", "channels_last", "--precision", "bf16"),
    "TF32": (*FUSED, "--tf32"),
    "CUDA graphs": (*FUSED, "--cuda-graphs"),
    "bf16, compiled, CUDA graphs": (
        *(*FUSED, "--memory-format", "channels_last", "--precision", "bf16"),
        *("--tf32", "--compile", "--cuda-graphs"),
    ),
}
"""Flags added to those of the plainest mode."""
ONLY_ON_CUDA = ("TF32", "CUDA graphs", "bf16, compiled, CUDA graphs")
PLAIN = ("--no-tf32", "--memory-format", "contiguous", "--zero-g", "0", "--zero-d", "0")

SYSTEMS: dict[str, tuple[int, tuple[str, ...]]] = {
    "DCGAN": (
        16,
        (
            *("--preset", "ffhq256-realness-dcgan", "--resolution", "64"),
            *("--g-width", "16", "--d-width", "16"),
        ),
    ),
    "StyleGAN2": (
        4,
        (
            *("--preset", "ffhq256-realness-stylegan2", "--resolution", "64"),
            *("--g-channel-base", "512", "--d-channel-base", "512", "--minibatch-group", "2"),
            *("--penalty-images", "64", "--path-length-images", "32", "--mirror"),
        ),
    ),
}
"""Batch size and flags, small enough for a CPU."""


def modes_of(system: str, device: str) -> list[str]:
    """The modes that a system supports on a device."""
    without: set[str] = set() if device == "cuda" else set(ONLY_ON_CUDA)
    if system == "DCGAN":
        without.add("recomputed")  # it has no blocks
    return [mode for mode in MODES if mode not in without]


def train(system: str, mode: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train one run; returns mean and scatter of the last losses, and the final distance."""
    batch, flags = SYSTEMS[system]
    kimg = NUM_UPDATES * batch / 1000
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [
            *(sys.executable, str(ROOT / "launch" / "train_ffhq.py"), *flags),
            *("--data", str(options.data), "--run-dir", str(run), "--device", options.device),
            *("--batch-size", batch, "--total-kimg", kimg, "--seed", seed),
            *("--log-kimg", batch / 1000, "--sample-kimg", kimg, "--checkpoint-kimg", kimg),
            *("--metrics", "swd", "--metrics-kimg", kimg, "--metrics-images", 400),
            *PLAIN,
            *(("--impl", "reference", "--micro-batch", batch // 2) if mode == SLOWEST else ()),
            *MODES[mode],
        ]
        ended = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if ended.returncode:
            raise SystemExit(f"{system}, {mode}, seed {seed}: {ended.stderr[-2000:]}")
        records = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
        scores = list(csv.DictReader((run / "metrics.csv").open()))
    last = [record for record in records if "loss_d" in record][-NUM_COMPARED:]
    assert len(last) == NUM_COMPARED
    [distance] = [float(row["value"]) for row in scores if row["metric"] == "SWD"]
    result: dict[str, Any] = {"system": system, "mode": mode, "seed": seed}
    for name in ("loss_d", "loss_g"):
        losses = [record[name] for record in last]
        result |= {name: float(np.mean(losses)), f"{name}_sd": float(np.std(losses))}
    return result | {"SWD": distance}


def band(values: list[float]) -> tuple[float, float]:
    """The prediction interval of one more draw from the normal distribution of `values`."""
    count = len(values)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
    half = quantile * float(np.std(values, ddof=1)) * math.sqrt(1 + 1 / count)
    centre = float(np.mean(values))
    return centre - half, centre + half


def judge(rows: list[dict[str, Any]]) -> None:
    """Add the band of its system to every row, and whether the row lies "inside"."""
    for row in rows:
        plain = [r for r in rows if r["system"] == row["system"] and r["mode"] == SLOWEST]
        inside = []
        for name in MEASURES:
            low, high = band([other[name] for other in plain])
            row |= {f"{name}_low": low, f"{name}_high": high}
            inside.append(low <= row[name] <= high)
        row["inside"] = all(inside)


def draw(path: Path, rows: list[dict[str, Any]]) -> None:
    """Draw a panel per system and measure: a point per mode, over the plainest mode's band."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    systems = list(dict.fromkeys(row["system"] for row in rows))
    labels = {"loss_d": "D's loss", "loss_g": "G's loss", "SWD": "SWD x 1000"}
    figure, axes = plt.subplots(
        len(systems), len(MEASURES), figsize=(12, 3 * len(systems)), squeeze=False, sharey="row"
    )
    for row_of_axes, system in zip(axes, systems, strict=True):
        own = [row for row in rows if row["system"] == system]
        for axis, name in zip(row_of_axes, MEASURES, strict=True):
            axis.axvspan(own[0][f"{name}_low"], own[0][f"{name}_high"], color="#2f6fd0", alpha=0.15)
            for row in own:
                colour = "#12866f" if row["inside"] else "#c0362c"
                axis.plot(row[name], row["mode"], "o", color=colour, markersize=5)
            axis.set_xlabel(labels[name])
            axis.spines[["top", "right"]].set_visible(False)
        row_of_axes[0].invert_yaxis()
        row_of_axes[0].set_title(f"{system}, {NUM_UPDATES} updates", loc="left", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    table = Table("system", "mode", "seed", *MEASURES, "in the band")
    for row in rows:
        values = [f"{row[name]:.4g} ({row[f'{name}_low']:.4g} … {row[f'{name}_high']:.4g})"
                  for name in MEASURES]  # fmt: skip
        verdict = "yes" if row["inside"] else "NO"
        table.add_row(row["system"], row["mode"], str(row["seed"]), *values, verdict)
    Console(width=150).print(table)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument(
        "--data", type=Path, default=FACES, help="64x64 images, such as those of `make demo`"
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cpu", "cuda"], default=device)
    options = parser.parse_args()
    if not options.data.exists():
        parser.error(f"--data={options.data} does not exist; run `make {FACES.relative_to(ROOT)}`")
    return options


def main() -> None:
    """Train every mode, compare, and report modes outside the band."""
    options = parse_options()
    runs = [
        (system, mode, seed)
        for system in options.systems
        for mode in modes_of(system, options.device)
        for seed in (SEEDS if mode == SLOWEST else SEEDS[:1])
    ]
    rows = [train(*run, options) for run in track(runs, "training in every mode")]
    judge(rows)
    print_table(rows)
    append(RESULTS / "speed_modes.csv", rows)
    draw(RESULTS / "speed_modes.png", rows)
    if not all(row["inside"] for row in rows if row["mode"] != SLOWEST):
        raise SystemExit("some modes lie outside the band of the plainest mode")


if __name__ == "__main__":
    main()
