"""Measure a training step, from plain fp32 up: `python benchmarks/train_step.py [--quick]`.

For the DCGAN and the StyleGAN2 of RealnessGAN at 1024x1024 (64x64 without a GPU, where only ratios
are meaningful): images/s, TFLOP/s and the share of the device's matrix-product speed, peak memory,
and the time of each part (data, D and its penalties, G and its penalties, optimisers, moving
average, communication), at rising levels of optimisation in one run, on 1 and more ranks. The first
losses of all levels must agree with those of the first level. On a GPU every level has processes of
its own, its row is written as soon as it is measured, and one that fails does not stop the others.
Where the batch needs more memory than there is, all levels take it in passes (--micro-batch).
Appends rows to benchmarks/results/train_step.csv, draws train_step.png, and writes torch.profiler
traces (for perfetto), with tables of the longest kernels, to runs/train_step/.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from raw_images import make_raw_images
from rich.console import Console
from rich.table import Table
from step_figures import draw

from realness.launch.train_ffhq import parse
from realness.trainer.config import TrainConfig
from realness.trainer.planning.auto_batch import with_micro_batch
from realness.trainer.planning.flops import Flops, count_flops, penalised_shares
from realness.trainer.planning.memory import estimate_memory
from realness.trainer.storage.environment import describe_environment

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TRACES = ROOT / "runs" / "train_step"

PLAIN = (
    *("--impl", "reference", "--no-tf32", "--memory-format", "contiguous"),
    *("--precision", "fp32", "--no-compile"),
)
# Each level with its flags in addition to those of earlier levels, and the largest allowed
# difference of its first losses from the plain ones, relative to 1 + their size.
LEVELS: dict[str, tuple[tuple[str, ...], float]] = {
    "plain fp32": (PLAIN, 0.0),
    "fused operations": (("--impl", "auto"), 1e-4),
    "TF32": (("--tf32",), 1e-2),
    "channels_last": (("--memory-format", "channels_last"), 1e-2),
    "bf16": (("--precision", "bf16"), 5e-2),
    "compiled": (("--compile",), 5e-2),
    "CUDA graphs": (("--no-compile", "--cuda-graphs", "--zero-g", "0", "--zero-d", "0"), 5e-2),
    "compiled, CUDA graphs": (("--compile",), 5e-2),
}
ONLY_ON_CUDA = ("TF32", "CUDA graphs", "compiled, CUDA graphs")
SYSTEMS = {
    "DCGAN": ("--preset", "ffhq1024-realness-dcgan"),
    "StyleGAN2": ("--preset", "ffhq1024-realness-stylegan2"),
}
# Sizes that a CPU can run in seconds.
SMALL = {
    "DCGAN": ("--resolution", "64", "--batch-size", "16", "--device", "cpu"),
    "StyleGAN2": (
        *("--resolution", "64", "--batch-size", "8", "--device", "cpu"),
        *("--g-channel-base", "2048", "--d-channel-base", "2048"),
    ),
}
"""Flags that override the preset if there is no GPU."""


def flags_of(level: str) -> list[str]:
    """The flags of a level and of all earlier ones; the last value of a flag counts."""
    names = list(LEVELS)
    return [flag for name in names[: names.index(level) + 1] for flag in LEVELS[name][0]]


def run_ranks(task: dict[str, Any], num_ranks: int, num_threads: int) -> list[dict[str, Any]]:
    """Measure on `num_ranks` processes of this machine; returns the results of rank 0."""
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port, result = probe.getsockname()[1], Path(folder) / "result.json"
        probe.close()
        workers = []
        for number in range(num_ranks):
            own = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": num_ranks}
            own |= {"LOCAL_SIZE": num_ranks, "MASTER_PORT": port}
            own |= {"OMP_NUM_THREADS": num_threads}
            worker = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("step_worker.py"))],
                env={**os.environ, "MASTER_ADDR": "127.0.0.1"}
                | {name: str(value) for name, value in own.items()},
                stdin=subprocess.PIPE,
                text=True,
            )
            assert worker.stdin is not None
            worker.stdin.write(json.dumps(task | {"rank": number, "result": str(result)}))
            worker.stdin.close()
            workers.append(worker)
        codes = [worker.wait() for worker in workers]
        if any(codes):
            raise SystemExit(f"{task['title']}: ranks ended with {codes}")
        return json.loads(result.read_text())


def check(levels: list[dict[str, Any]]) -> None:
    """Raise SystemExit unless the first losses of every level agree with the first level's."""
    plain = levels[0]["first_losses"]
    for level in levels[1:]:
        bound = LEVELS[level["level"]][1]
        for name, value, expected in zip("DG", level["first_losses"], plain, strict=True):
            if not abs(value - expected) <= bound * (1 + abs(expected)):
                raise SystemExit(
                    f"{level['level']}: the first loss of {name} is {value:.6f}, in "
                    f"{levels[0]['level']} {expected:.6f}; allowed is a difference of {bound:g} "
                    "of 1 + its size"
                )


def parts_ms(config: TrainConfig, level: dict[str, Any]) -> dict[str, float]:
    """Milliseconds per image of each part of an iteration, lazy penalties by their share."""
    seconds, optimizer = level["seconds"], config.optimizer
    share_d, share_g = penalised_shares(config)
    updates = {"D": (optimizer.k_d, share_d), "G": (optimizer.k_g, share_g)}
    data = {"D": seconds["data, D_REAL"], "G": seconds.get("data, G_REAL", 0.0)}
    parts = {"data": updates["D"][0] * data["D"] + updates["G"][0] * data["G"]}
    for name, (count, share) in updates.items():
        extra = max(0.0, seconds.get(f"{name} penalised", 0.0) - seconds[name])
        parts[name] = count * seconds[name]
        parts[f"{name}'s penalties"] = count * share * extra
    parts["optimisers"] = sum(
        count * seconds[f"{name}, optimiser"] for name, (count, _) in updates.items()
    )
    parts["moving average"] = seconds["average"]
    scale = 1000 / config.batch_size
    return {name: value * scale for name, value in parts.items()}


def row_of(
    config: TrainConfig, level: dict[str, Any], flops: Flops, num_ranks: int
) -> dict[str, Any]:
    """A CSV row without its provenance."""
    parts = parts_ms(config, level)
    lazy_ms = parts["D's penalties"] + parts["G's penalties"]
    rate = 1000 / (level["seconds"]["iteration"] * 1000 / config.batch_size + lazy_ms)
    return {
        "resolution": config.data.resolution,
        "batch_size": config.batch_size,
        "micro_batch": config.engine.micro_batch or config.batch_size // num_ranks,
        "ranks": num_ranks,
        "level": level["level"],
        "img_per_s": round(rate, 3),
        "tflop_per_image": round(flops.iteration / 1e12, 6),
        "tflop_per_s": round(rate * flops.iteration / 1e12, 4),
        "share_of_matmul": round(rate * flops.iteration / level["matmul_rate"] / num_ranks, 4),
        "peak_memory_gib": round(level["peak_bytes"] / 2**30, 3) or "",
        **{f"ms {name}": round(value, 4) for name, value in parts.items()},
        "ms communication": round(level["communication"] * 1000 / config.batch_size, 4),
    }


def fitting_passes(flags: list[str], num_ranks: int) -> tuple[str, ...]:
    """Flags for passes of which a device holds two in plain fp32: its own, and a graph's pool."""
    config = parse([*flags, *PLAIN]).config
    size = whole = config.batch_size // num_ranks
    room = torch.cuda.get_device_properties(0).total_memory / 2.5
    while size > 1:
        needed = estimate_memory(with_micro_batch(config, size), num_ranks)["total"]
        if needed <= room:
            break
        size //= 2
    return () if size == whole else ("--micro-batch", str(size))


def measure(system: str, num_ranks: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one system on a number of ranks; levels that fail are left out."""
    on_gpu = options.device == "cuda"
    size = () if on_gpu else SMALL[system]
    # One rank has nothing to shard; DeepSpeed would only add overhead.
    stages = ("--zero-g", "0", "--zero-d", "0") if num_ranks == 1 else ()
    flags = [*SYSTEMS[system], "--device", options.device, *size, *stages, *options.flags]
    if on_gpu and "--micro-batch" not in flags:
        flags += fitting_passes(flags, num_ranks)
    levels = {name: flags_of(name) for name in LEVELS if name in options.levels}
    # On a CPU they take turns in the same processes.
    groups = [[name] for name in levels] if on_gpu else [list(levels)]
    threads = max(1, len(os.sched_getaffinity(0)) // num_ranks)
    results: list[dict[str, Any]] = []
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        resolution = parse(flags).config.data.resolution
        flags += [
            "--data",
            options.data or str(make_raw_images(Path(folder) / "s", resolution, 64)),
        ]
        task = {"title": f"{system}, {num_ranks} rank(s)", "flags": flags}
        task |= {"rounds": options.rounds, "traces": f"{options.traces}/{system}-{num_ranks}"}
        for group in groups:
            try:
                named = [(name, levels[name]) for name in group]
                results += run_ranks(task | {"levels": named}, num_ranks, threads)
                check(results)
            except SystemExit as error:
                print(f"FAILED {system}, {', '.join(group)}: {error}", flush=True)
                options.failures.append(error)
                continue
            for level in results[-len(group) :]:
                config = parse([*flags, *levels[level["level"]]]).config
                flops = count_flops(config)
                rows.append({"system": system} | row_of(config, level, flops, num_ranks))
                if not options.quick:
                    append(options.out / "train_step.csv", rows[-1:])
    return rows


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append rows, with the machine and versions that they were measured on."""
    described = describe_environment()
    origin = {"date": datetime.datetime.now(datetime.timezone.utc).date().isoformat()}
    origin |= {name: described[name] for name in ("commit", "torch", "deepspeed", "python")}
    origin["device"] = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else described["cpu"]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [*origin, *rows[0]], lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(origin | row for row in rows)


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the rows, with ratios to the plain level of the same system on one rank."""
    columns = ("system", "ranks", "level", "img_per_s", "tflop_per_s", "share_of_matmul")
    parts = [name for name in rows[0] if name.startswith("ms ")]
    table = Table(*columns, "ratio", *(name.replace("ms ", "ms/img ") for name in parts))
    for row in rows:
        plain = next(other for other in rows if other["system"] == row["system"])
        ratio = f"{row['img_per_s'] / plain['img_per_s']:.2f}"
        values = [str(row[name]) for name in columns], [f"{row[name]:.2f}" for name in parts]
        table.add_row(*values[0], ratio, *values[1])
    Console(width=200).print(table)


def parse_options() -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=list(LEVELS))
    ranks = range(1, torch.cuda.device_count() + 1) if cuda else (1, 2)
    parser.add_argument("--ranks", nargs="+", type=int, default=list(ranks))
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds of all levels")
    parser.add_argument("--quick", action="store_true", help="3 rounds; writes no results")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if cuda else "cpu")
    parser.add_argument("--data", help="images to train on (any source); default: raw noise")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of rows and figure")
    parser.add_argument(
        "--flags", nargs=argparse.REMAINDER, default=[], help="override the presets"
    )
    options = parser.parse_args()
    options.traces = options.out / "traces" if options.out != RESULTS else TRACES
    options.failures = []
    return options


def main() -> None:
    """Run the whole comparison; exits with 1 if a level failed."""
    options = parse_options()
    if options.quick:
        options.rounds = 3
    if options.device == "cpu":
        options.levels = [name for name in options.levels if name not in ONLY_ON_CUDA]
    rows = [
        row
        for system in options.systems
        for num_ranks in options.ranks
        for row in measure(system, num_ranks, options)
    ]
    if rows:
        print_table(rows)
        if not options.quick:
            draw(options.out / "train_step.png", rows)
    if options.failures:
        raise SystemExit(f"{len(options.failures)} groups of levels failed, see above")


if __name__ == "__main__":
    main()
