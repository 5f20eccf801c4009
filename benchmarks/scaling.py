"""Predict runs on 1 to 1,024 GPUs from measured parts: `python benchmarks/scaling.py`.

    step = fixed + seconds per image * images per rank + bytes / rate + collectives * latency

The bytes follow from the networks and the ZeRO stages. First the formula is compared with 1, 2 and
4 gloo ranks of this machine. Compute is measured in the same number of processes without
communication, and the network by all-reduces of 64 MiB and of 4 bytes; a table shows the error.
Then the formula is applied to a cluster, whose figures are flags: `--image-ms` and `--fixed-ms`
come from benchmarks/train_step.py on the GPU in question. The formula models neither overlap nor
stragglers. Writes benchmarks/results/scaling.csv (the check) and scaling.png.
"""

from __future__ import annotations

import argparse
import csv
import math
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loader import make_images
from rich.console import Console
from rich.table import Table
from train_step import RESULTS, SMALL, SYSTEMS, run_ranks

from realness.launch.train_ffhq import parse
from realness.trainer.config import TrainConfig
from realness.trainer.planning.memory import checkpoint_bytes, estimate_memory
from realness.trainer.updates.build import Blueprint

GIB = 2**30
RANKS = (1, 8, 16, 64, 256, 1024)
MEASURED_RANKS = (1, 2, 4)
BYTES_64MIB = 1 << 26
FUSED = ("--impl", "auto", "--no-tf32", "--precision", "fp32")
"""Flags with which the parts are measured."""


@dataclass(frozen=True)
class Network:
    """rate: bytes per second that a rank sends and receives at once; latency_s: of one hop."""

    rate: float
    latency_s: float

    def turn(self, num_bytes: float, num_ranks: int) -> float:
        """Seconds of one pass around a ring (a reduce-scatter or an all-gather) of `num_bytes`."""
        return (num_ranks - 1) / num_ranks * num_bytes / self.rate

    def wait(self, num_ranks: int) -> float:
        """Seconds of a collective with almost no data: up a binary tree and down again."""
        return 2 * math.log2(num_ranks) * self.latency_s


@dataclass(frozen=True)
class Parts:
    """The measured parts of an iteration of one rank."""

    fixed_s: float
    image_s: float
    num_collectives: int


def bytes_turned(config: TrainConfig) -> float:
    """Bytes that pass around the ring per iteration; an all-reduce counts twice.

    fp32 gradients are all-reduced in every update, and at ZeRO 1 and 2 new weights are gathered
    (measured in docs/sharding.md). At ZeRO 3 gradients are sent once, and weights once per pass:
    D's for four passes per iteration (its own forward and backward, and G's), G's for three.
    """
    blueprint = Blueprint.of(config)
    engine, optimizer = config.engine, config.optimizer
    turns_d = {0: 2, 1: 3, 2: 3, 3: 5}[engine.zero_d]
    turns_g = {0: 2, 1: 3, 2: 3, 3: 4}[engine.zero_g]
    d = turns_d * optimizer.k_d * blueprint.d.num_weights
    g = turns_g * optimizer.k_g * blueprint.g.num_weights
    return 4.0 * (d + g)


def predict(parts: Parts, num_images: float, turned: float, num_ranks: int, net: Network) -> float:
    """Seconds per iteration with `num_images` per rank."""
    compute = parts.fixed_s + parts.image_s * num_images
    if num_ranks == 1:
        return compute
    small = parts.num_collectives * net.wait(num_ranks)
    return compute + net.turn(turned, num_ranks) + small


def measure(flags: list[str], num_ranks: int, folder: Path, rounds: int) -> dict[str, Any]:
    """Measure one level on `num_ranks` ranks of one thread each."""
    task = {"title": f"measuring {num_ranks} rank(s)", "flags": flags, "rounds": rounds}
    task |= {"levels": [["fused operations", list(FUSED)]], "traces": str(folder)}
    return run_ranks(task, num_ranks, 1)[0]


def compute_alone(flags: list[str], num_ranks: int, folder: Path, rounds: int) -> float:
    """Seconds per iteration in concurrent processes that do not communicate.

    Cores and memory are then as busy as with ranks, but nothing is sent.
    """
    with ThreadPoolExecutor(num_ranks) as pool:
        results = pool.map(lambda _: measure(flags, 1, folder, rounds), range(num_ranks))
        return max(result["seconds"]["iteration"] for result in results)


def check_here(rounds: int) -> list[dict[str, Any]]:
    """Predicted and measured iterations of gloo ranks on this machine's cores."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flags = [*SYSTEMS["DCGAN"], *SMALL["DCGAN"]]
        config = parse(flags).config
        images = make_images(folder / "images", 64, config.data.resolution)
        flags += ["--data", str(images), "--decoder", "threads"]
        for ranks in MEASURED_RANKS:
            share = ["--batch-size", str(config.batch_size // ranks)]
            compute_s = compute_alone([*flags, *share], ranks, folder, rounds)
            result = measure(flags, ranks, folder, rounds)
            turns = 2 * (ranks - 1) / ranks
            net = Network(
                rate=turns * BYTES_64MIB / result["reduce_64mib_s"] or math.inf,
                latency_s=result["reduce_4b_s"] / max(1.0, 2 * math.log2(ranks)),
            )
            parts = Parts(compute_s, 0.0, result["num_collectives"])
            predicted = predict(parts, 0, bytes_turned(config), ranks, net)
            seconds = result["seconds"]["iteration"]
            rows.append(
                {
                    "ranks": ranks,
                    "compute_s": round(compute_s, 4),
                    "predicted_s": round(predicted, 4),
                    "measured_s": round(seconds, 4),
                    "error": round(predicted / seconds - 1, 3),
                    "collectives": result["num_collectives"],
                }
            )
    return rows


def of_cluster(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Predictions for 1 to 1,024 GPUs at a fixed batch per GPU (the global batch grows)."""
    base = parse(["--preset", options.preset, *options.flags]).config
    rows = []
    for ranks in RANKS:
        config = replace(base, batch_size=options.images_per_rank * ranks)
        rate = options.local_gbs if ranks <= options.ranks_per_node else options.remote_gbs
        net = Network(rate * 1e9, options.latency_us * 1e-6)
        parts = Parts(options.fixed_ms / 1e3, options.image_ms / 1e3, options.collectives)
        seconds = predict(parts, options.images_per_rank, bytes_turned(config), ranks, net)
        size = checkpoint_bytes(config)
        nodes = math.ceil(ranks / options.ranks_per_node)
        rows.append(
            {
                "GPUs": ranks,
                "step s": round(seconds, 4),
                "img/s": round(config.batch_size / seconds, 1),
                "efficiency": round(
                    (options.fixed_ms + options.image_ms * options.images_per_rank) / 1e3 / seconds,
                    3,
                ),
                "memory a rank GiB": round(estimate_memory(config, ranks)["total"] / GIB, 2),
                "checkpoint GiB": round(size / GIB, 2),
                "of a rank GiB": round(size / ranks / GIB, 3),
                "written in s": round(size / nodes / (options.disk_gbs * 1e9), 2),
            }
        )
    return rows


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=120).print(table)


def draw(path: Path, checked: list[dict[str, Any]], predicted: list[dict[str, Any]]) -> None:
    """Draw the check on this machine (left) and the cluster's efficiency (right)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    ranks = [str(row["ranks"]) for row in checked]
    left.plot(ranks, [row["measured_s"] for row in checked], "o", label="measured")
    left.plot(ranks, [row["predicted_s"] for row in checked], "x--", label="predicted")
    left.set(xlabel="gloo ranks of this machine", ylabel="seconds per iteration", ylim=(0, None))
    left.legend()
    right.plot([row["GPUs"] for row in predicted], [row["efficiency"] for row in predicted], "o-")
    right.set(xlabel="GPUs", ylabel="share of perfect scaling", xscale="log", ylim=(0, 1.05))
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", default="ffhq1024-realness-dcgan")
    parser.add_argument("--images-per-rank", type=int, default=32)
    parser.add_argument(
        "--image-ms", type=float, default=1.67, help="compute per image; 1.67 is a goal (600 img/s)"
    )
    parser.add_argument("--fixed-ms", type=float, default=5.0, help="further compute per iteration")
    parser.add_argument("--collectives", type=int, default=60, help="number per iteration")
    parser.add_argument("--ranks-per-node", type=int, default=8)
    parser.add_argument("--local-gbs", type=float, default=300.0, help="GB/s per rank in a node")
    parser.add_argument(
        "--remote-gbs", type=float, default=40.0, help="GB/s per rank between nodes"
    )
    parser.add_argument("--latency-us", type=float, default=8.0, help="per hop")
    parser.add_argument("--disk-gbs", type=float, default=2.0, help="GB/s written per node")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="override the preset")
    return parser.parse_args()


def main() -> None:
    """Check the formula on this machine, then apply it to the cluster."""
    options = parse_options()
    checked, predicted = check_here(options.rounds), of_cluster(options)
    print_table("gloo ranks of this machine", checked)
    print_table(
        f"{options.preset}, {options.images_per_rank} images per GPU (predicted)", predicted
    )
    with (RESULTS / "scaling.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(checked[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(checked)
    draw(RESULTS / "scaling.png", checked, predicted)


if __name__ == "__main__":
    main()
