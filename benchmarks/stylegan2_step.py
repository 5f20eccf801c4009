"""CPU-seconds of a StyleGAN2 iteration: ours and plain PyTorch (`stylegan2_step.py`).

The plain networks (plain_stylegan2.py) get the weights of ours and must give the same images and
scores before anything is timed. Then all contenders take turns, iteration by iteration, on one
thread: without penalties, with R1 and with path lengths. CPU time is compared, not the clock's,
because other programs disturb it less. Medians; lazy penalties count by their share of the
iterations (1/16 and 1/4). Rows are appended to benchmarks/results/stylegan2_step.csv.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from plain_stylegan2 import Discriminator, Generator
from plain_updates import Plain
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor
from train_step import RESULTS, append

from realness import kernels
from realness.launch.train_ffhq import parse
from realness.trainer.config import TrainConfig
from realness.trainer.distributed.numerics import set_numerics
from realness.trainer.distributed.ranks import start_process_group, stop_process_group
from realness.trainer.networks.stylegan2_generator import side_channels
from realness.trainer.planning.flops import with_penalties, without_penalties
from realness.trainer.updates.iteration import choose_updates, run_iteration
from realness.trainer.updates.sharded_gan import ShardedGan, build_gan

BASE, WIDEST = 16384, 256
"""Channels: min(256, 16384 / side)."""
KINDS = ("no penalty", "R1", "path lengths")
SHARES = {"R1": 1 / 16, "path lengths": 1 / 4}
PLAIN = {
    "plain fp32, contiguous": (torch.contiguous_format, torch.float32),
    "plain fp32, channels_last": (torch.channels_last, torch.float32),
    "plain bf16, channels_last": (torch.channels_last, torch.bfloat16),
}
CONTENDERS = (*PLAIN, "ours fp32", "ours bf16")
Iteration = Callable[[Tensor, str], Any]


def configuration(resolution: int, batch: int, *flags: str) -> TrainConfig:
    """The preset at this size on one process."""
    channels = (str(value) for value in (BASE, WIDEST, BASE, WIDEST))
    names = ("g-channel-base", "g-max-channels", "d-channel-base", "d-max-channels")
    sizes = [
        word for pair in zip(names, channels, strict=True) for word in (f"--{pair[0]}", pair[1])
    ]
    return parse(
        [
            *("--preset", "ffhq256-stylegan2", "--data", tempfile.gettempdir(), *sizes),
            *("--resolution", str(resolution), "--batch-size", str(batch), "--device", "cpu"),
            *("--minibatch-group", str(min(4, batch)), "--zero-g", "0", "--zero-d", "0", *flags),
        ]
    ).config


class Ours:
    """A configuration, ready to train on given images."""

    def __init__(self, config: TrainConfig) -> None:
        set_numerics(config.engine)
        with kernels.implementation(config.engine.impl):
            self.gan = build_gan(config, torch.device("cpu"))
        self.updates = choose_updates(config.engine)
        every = with_penalties(config)
        self.configs = {
            "no penalty": without_penalties(config),
            "R1": replace(every, penalty=replace(every.penalty, path_length_weight=0.0)),
            "path lengths": replace(every, penalty=replace(every.penalty, r1_gamma=0.0)),
        }
        self.images = 0

    def iteration(self, real: Tensor, kind: str) -> None:
        config = self.configs[kind]
        gan = cast(ShardedGan, replace(self.gan, config=config))
        with kernels.implementation(config.engine.impl):
            list(run_iteration(gan, self.updates, lambda *_: real, self.images))  # a generator
            self.images += config.batch_size
            gan.update_average(self.images)


def plain_networks(ours: Ours, config: TrainConfig) -> tuple[Generator, Discriminator]:
    """Plain networks with the weights of ours."""
    channels = side_channels(BASE, WIDEST, config.data.resolution)
    settings = cast(Any, config.g)
    g = Generator(channels, settings.z_dim, settings.w_dim, settings.mapping_layers)
    d = Discriminator(channels, cast(Any, config.d).group)
    for network, engine in ((g, ours.gan.g), (d, ours.gan.d)):
        state = engine.module.state_dict()
        state.pop("path_length_mean", None)
        network.load_state_dict(state)
    return g, d


def check(ours: Ours, plain: Plain) -> None:
    """Raise SystemExit unless both networks compute the same, to rounding in float32."""
    generator = cast(Any, ours.gan.g.module)
    z, mixed = torch.randn(2, plain.batch, generator.z_dim)
    crossover = torch.randint(1, generator.num_styles, (plain.batch,))
    noise = torch.randn(plain.batch, generator.noise_dim)
    maps = [
        part.unflatten(1, (1, side, side))
        for side, part in zip(
            generator.noise_sides,
            noise.split([side**2 for side in generator.noise_sides], 1),
            strict=True,
        )
    ]
    with torch.no_grad():
        images = generator(z, noise, mixing=(mixed, crossover))
        same = plain.g(plain.g.styles(z, mixed, crossover), maps, plain.layout)
        pairs = {"G": (images, same), "D": (ours.gan.d.module(images), plain.score(images))}
    for name, (left, right) in pairs.items():
        difference = ((left - right).abs().max() / right.abs().max()).item()
        if not difference < 1e-4:  # some thousand roundings of 6e-8
            raise SystemExit(f"plain {name} differs from ours by {difference:.2g} of its maximum")


def contenders(names: list[str], resolution: int, batch: int) -> dict[str, Iteration]:
    """Functions of a batch of real images and a kind of iteration."""
    config = configuration(resolution, batch)
    ours = Ours(config)
    found: dict[str, Iteration] = {}
    for name in names:
        if name in PLAIN:
            layout, precision = PLAIN[name]
            networks = plain_networks(ours, config)
            plain = Plain(*networks, batch, resolution, layout, precision)
            if precision == torch.float32:
                check(ours, plain)
            found[name] = lambda real, kind, plain=plain: plain.iteration(
                real, r1=kind == "R1", paths=kind == "path lengths"
            )
        elif name == "ours fp32":
            found[name] = ours.iteration
        else:
            found[name] = Ours(configuration(resolution, batch, "--precision", "bf16")).iteration
    return found


def measure(
    names: list[str], resolution: int, options: argparse.Namespace, progress: Progress
) -> list[dict[str, Any]]:
    """A row per contender."""
    batch, rounds = options.batch, options.rounds
    found = contenders(names, resolution, batch)
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    turns = [("no penalty", False), *((kind, True) for _ in range(rounds) for kind in KINDS)]
    total = len(turns) * len(found)
    bar = progress.add_task(f"{resolution} pixels", total=total)
    real = torch.rand(batch, 3, resolution, resolution) * 2 - 1
    for kind, counts in turns:  # the first warms up
        for name, iteration in found.items():
            begin = time.process_time()
            iteration(real, kind)
            if counts:
                seconds[name, kind].append(time.process_time() - begin)
            progress.advance(bar)
    rows = []
    for name in found:
        medians = {kind: statistics.median(seconds[name, kind]) for kind in KINDS}
        base = medians["no penalty"]
        extra = {kind: share * (medians[kind] - base) for kind, share in SHARES.items()}
        rows.append(
            {"resolution": resolution, "batch_size": batch, "contender": name, "rounds": rounds}
            | {f"cpu_s {kind}": round(value, 4) for kind, value in medians.items()}
            | {"cpu_s iteration": round(base + extra["R1"], 4)}
            | {"cpu_s iteration with path lengths": round(base + sum(extra.values()), 4)}
        )
    return rows


def with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their speed relative to the first, plain PyTorch in float32."""
    plain = rows[0]
    names = ("ratio", "ratio with path lengths")
    columns = dict(
        zip(names, ("cpu_s iteration", "cpu_s iteration with path lengths"), strict=True)
    )
    return [
        row | {name: round(plain[column] / row[column], 3) for name, column in columns.items()}
        for row in rows
    ]


def print_table(rows: list[dict[str, Any]]) -> None:
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(width=200).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--resolutions", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--csv", type=Path, default=RESULTS / "stylegan2_step.csv")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    own = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
    os.environ.update(own | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port})
    start_process_group(torch.device("cpu"))
    every = []
    with Progress(transient=True) as progress:
        for resolution in options.resolutions:
            rows = with_ratios(measure(options.contenders, resolution, options, progress))
            append(options.csv, [{"threads": options.threads} | row for row in rows])
            every += rows
    print_table(every)
    stop_process_group()


if __name__ == "__main__":
    main()
