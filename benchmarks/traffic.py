"""Bytes, operations, launches and collectives of an iteration, counted without a GPU:
`python benchmarks/traffic.py --preset ffhq1024-stylegan2`, with any flags of `realness train`.

Whole updates of D and G (in bf16 unless --precision is given), with the optimisers and the moving
average, run on fake tensors as they run on CUDA without DeepSpeed: `traffic_counter.py` says what
is counted. Penalties that are due in one of several updates count by their share.

The times are MODELS: every operator takes as long as its bytes at a share of the copy bandwidth or
its operations at a rate of convolutions, whichever is longer. Neither was measured on a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from traffic_counter import Counting, Traffic

from realness import kernels
from realness.launch.train_arguments import parse
from realness.trainer.config import TrainConfig
from realness.trainer.distributed.ranks import stop_process_group, world_size
from realness.trainer.engines.gradient_reduction import average_gradients
from realness.trainer.engines.optimizers import (
    GradientNorm,
    SkipCount,
    allocate_state,
    build_optimizer,
    is_bad,
)
from realness.trainer.engines.plain_engine import EngineWithoutOptimizer
from realness.trainer.engines.prepare import prepare_network
from realness.trainer.networks import batch_norm
from realness.trainer.planning.flops import penalised_shares, with_penalties, without_penalties
from realness.trainer.planning.trial import worst_case
from realness.trainer.randomness import Stream
from realness.trainer.updates.build import build_augmentation, build_networks
from realness.trainer.updates.gan import Gan
from realness.trainer.updates.iteration import Updates, run_iteration
from realness.trainer.updates.step import update_d, update_g

DEVICE = torch.device("cpu")
"""Device of the fake tensors. Those of CUDA need a CUDA build of torch."""

SHARE_OF_COPY = 0.88
"""The share of the copy bandwidth that an elementwise operator reaches."""


@dataclass(frozen=True)
class Machine:
    """A model of a GPU: bytes/s of a copy, and operations/s of bf16 convolutions."""

    copy: float
    convolution: float

    def seconds(self, traffic: Traffic) -> float:
        """The time of all launches, one after another."""
        return sum(
            count * max(call.num_bytes / (SHARE_OF_COPY * self.copy), call.flops / self.convolution)
            for call, count in traffic.calls.items()
        )


MACHINES = {
    "H100": Machine(3.0e12, 245e12),
    "H200": Machine(4.3e12, 245e12),
    "A100": Machine(1.7e12, 110e12),
}
"""Copies: NVIDIA's peak less a tenth. Convolutions: a third of the peak of bf16 products, which is
what the mixture of wide and narrow layers of StyleGAN2 is assumed to reach."""


class CountedEngine(EngineWithoutOptimizer):
    """A network with its optimiser at ZeRO 0, as `Engine` runs it, without DeepSpeed."""

    def __init__(self, module: nn.Module, network: nn.Module, config: TrainConfig, lr: float):
        super().__init__(module, network)
        self._optimizer = build_optimizer(config.optimizer, module.parameters(), lr)
        moments = config.optimizer.algorithm.moments
        allocate_state(self._optimizer, module.parameters(), moments)
        self._reduced_as = config.engine.reduce_precision
        self._skips = SkipCount(self._optimizer, DEVICE, DEVICE)
        if config.optimizer.clip_grad_norm or config.optimizer.log_grad_norm:
            GradientNorm(
                self._optimizer,
                max_norm=config.optimizer.clip_grad_norm,
                sharded=False,
                device=DEVICE,
            )

    def step(self, loss: Tensor) -> None:
        """Average the gradients over ranks, update the weights, and forget the gradients."""
        dtype = torch.bfloat16 if self._reduced_as == "bf16" else None
        self._skips.record(average_gradients(self.module.parameters(), is_bad(loss), dtype))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


@contextlib.contextmanager
def fake_ranks(count: int) -> Iterator[None]:
    """In the block, this process is rank 0 of `count` ranks whose collectives do nothing."""
    if count > 1:
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    try:
        yield
    finally:
        stop_process_group()


def count_updates(config: TrainConfig) -> dict[str, Traffic]:
    """The traffic of an update of "D" and of "G", and of the "average", in this process group."""
    config = worst_case(config, 1)
    generator, discriminator, objective = build_networks(config)
    averaged = [x for x in generator.state_dict().values() if x.is_floating_point()]
    average = [torch.empty_like(x) for x in averaged]

    def engine(module: nn.Module, lr: float) -> CountedEngine:
        network = prepare_network(module, config.engine, DEVICE, compiled=False)
        return CountedEngine(module, network, config, lr)

    g = engine(generator, config.optimizer.lr_g)
    d = engine(discriminator, config.optimizer.lr_d)
    gan = Gan(config, DEVICE, objective, g, d, augment=build_augmentation(config, DEVICE))

    def real_of(stream: Stream, first_sample: int) -> Tensor:
        count = config.num_real if stream == Stream.D_REAL else config.batch_size
        shape = (count // world_size(), 3, config.data.resolution, config.data.resolution)
        return gan.normalise(torch.empty(shape, dtype=torch.uint8), stream, first_sample)

    counts: dict[str, Traffic] = {}
    with Counting() as counting:
        for stats in run_iteration(gan, Updates(update_d, update_g), real_of, 0):
            counts["G" if "loss_g" in stats else "D"] = counting.take()
        # As `Ema.update` does; an Ema copies its network, which fake weights do not allow.
        torch._foreach_lerp_(average, averaged, 0.5)
        counts["average"] = counting.take()
    return counts


@dataclass(frozen=True)
class Counts:
    """Traffic of one rank: of updates without and with their penalties, and of an iteration.

    An iteration has all its updates of D and G, with penalties by their share, and the average.
    """

    parts: dict[str, Traffic]
    iteration: Traffic


def count(config: TrainConfig, num_ranks: int = 1) -> Counts:
    """Count an iteration of one of `num_ranks` ranks.

    Raises ConfigError if the batch cannot be divided among them.
    """
    config.check_ranks(num_ranks)
    share_d, share_g = penalised_shares(config)
    iteration, parts = Traffic(), {}
    with (
        fake_ranks(num_ranks),
        FakeTensorMode(),
        kernels.implementation("fake"),
        mock.patch.object(batch_norm, "prefers_one_pass", return_value=True),
    ):
        plain = count_updates(without_penalties(config))
        penalised = count_updates(with_penalties(config)) if _is_penalised(config) else plain
    optimizer = config.optimizer
    for name, updates, share in (("D", optimizer.k_d, share_d), ("G", optimizer.k_g, share_g)):
        parts[name] = plain[name]
        if penalised is not plain:
            parts[f"{name} with penalties"] = penalised[name]
        iteration.add(plain[name], updates * (1 - share))
        iteration.add(penalised[name], updates * share)
    parts["average"] = plain["average"]
    iteration.add(plain["average"])
    return Counts(parts, iteration)


def _is_penalised(config: TrainConfig) -> bool:
    return config.penalty.any or config.penalty.path_length_weight > 0


def print_counts(counts: Counts, images: int, machines: dict[str, Machine], top: int) -> None:
    """Print the parts, the operators that move most, and the modelled times."""
    console = Console(width=110)
    table = Table("part", "GB", "TFLOP", "launches", "collectives", "MB sent")
    for name, traffic in {**counts.parts, "iteration": counts.iteration}.items():
        table.add_row(name, *_figures(traffic), _collectives(traffic), _sent(traffic))
    console.print(table)
    table = Table("operator", "GB", "TFLOP", "launches")
    for name, traffic in list(counts.iteration.by_operator())[:top]:
        table.add_row(name, *_figures(traffic))
    console.print(table)
    table = Table("machine (model)", "copy TB/s", "conv TFLOP/s", "ms", "images/s")
    for name, machine in machines.items():
        seconds = machine.seconds(counts.iteration)
        rates = f"{machine.copy / 1e12:.2f}", f"{machine.convolution / 1e12:.0f}"
        table.add_row(name, *rates, f"{1000 * seconds:.1f}", f"{images / seconds:.0f}")
    console.print(table)


def _figures(traffic: Traffic) -> tuple[str, str, str]:
    return (
        f"{traffic.num_bytes / 1e9:,.2f}",
        f"{traffic.flops / 1e12:,.3f}",
        f"{traffic.launches:,.0f}",
    )


def _collectives(traffic: Traffic) -> str:
    return f"{traffic.num_collectives:.4g}"


def _sent(traffic: Traffic) -> str:
    return f"{sum(traffic.sent.values()) / 1e6:,.2f}"


def parse_options(arguments: list[str] | None = None) -> tuple[argparse.Namespace, TrainConfig]:
    """This command's options, and the configuration of the other flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ranks", type=int, default=1, help="counts one of this many ranks")
    parser.add_argument("--top", type=int, default=25, help="operators in the table")
    parser.add_argument("--copy-tb-s", type=float, help="a machine's copy bandwidth")
    parser.add_argument("--conv-tflop-s", type=float, help="its rate of convolutions")
    options, flags = parser.parse_known_args(arguments)
    if (options.copy_tb_s is None) != (options.conv_tflop_s is None):
        parser.error("--copy-tb-s and --conv-tflop-s describe a machine together; give both")
    return options, parse(["--precision", "bf16", *flags]).config


def main() -> None:
    """Count, and print tables."""
    options, config = parse_options()
    machines: dict[str, Any] = MACHINES
    if options.copy_tb_s is not None:
        machines = {"given": Machine(1e12 * options.copy_tb_s, 1e12 * options.conv_tflop_s)}
    counts = count(config, options.ranks)
    print_counts(counts, config.batch_size // options.ranks, machines, options.top)


if __name__ == "__main__":
    main()
