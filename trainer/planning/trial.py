"""What an update needs, measured on a GPU and estimated on a CPU: for `--auto-batch`."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from realness.trainer.config import TrainConfig
from realness.trainer.distributed.collectives import gather
from realness.trainer.distributed.ranks import alone, world_size
from realness.trainer.engines.plain_engine import PlainEngine
from realness.trainer.networks import recompute_blocks
from realness.trainer.planning.host_memory import available_memory
from realness.trainer.planning.memory import checkpoint_bytes, estimate_memory, resident_memory
from realness.trainer.randomness import Stream
from realness.trainer.updates.build import build_networks
from realness.trainer.updates.ema import Ema
from realness.trainer.updates.gan import Gan
from realness.trainer.updates.step import train_d, train_g

MARGIN = 0.1
"""Share of the memory that is left free: a choice. On a GPU for NCCL's buffers and the decoder's,
on a CPU for what the estimate leaves out."""
ROUNDS = 2
"""Iterations of a trial: the second finds the allocator as the first has left it."""


class Memory(Protocol):
    """Memory of this rank, and what a run takes of it."""

    capacity: int
    """Bytes that this rank may have, MARGIN included."""
    remark: str
    """How needs are known, where they are not measured."""

    def needs(self, config: TrainConfig) -> dict[str, int]:
        """Bytes of this rank in the heaviest update of "D" and of "G"; nothing in it is collective.

        Raises torch.OutOfMemoryError if they do not fit.
        """
        ...

    def release(self) -> None:
        """Give back what a measurement that is over has taken."""
        ...


class HostMemory:
    """Estimates, since the kernel kills a process that takes too much; making one is collective."""

    remark = ", by the estimate: on a CPU running out of memory cannot be tried"

    def __init__(self) -> None:
        host = socket.gethostname()
        self._num_ranks = world_size()
        self.capacity = available_memory() // gather(host).count(host)

    def needs(self, config: TrainConfig) -> dict[str, int]:
        # Offloading goes to the same memory, and so does the copy that a checkpoint is written of.
        config = replace(config, engine=replace(config.engine, offload_optimizer=False))
        parts = estimate_memory(config, self._num_ranks)
        steps = {name: parts[f"activations of the {name} step"] for name in ("D", "G")}
        copied = checkpoint_bytes(config) // self._num_ranks
        rest = parts["total"] - max(steps.values()) + copied
        return {name: rest + size for name, size in steps.items()}

    def release(self) -> None:
        """Nothing was taken."""


class DeviceMemory:
    """Real updates, under a cap on the allocator that makes them fail where the run would."""

    remark = ""

    def __init__(self, device: torch.device) -> None:
        self._device, self._num_ranks = device, world_size()
        self._fraction = torch.cuda.get_per_process_memory_fraction(device)
        self.release()
        free, self._total = torch.cuda.mem_get_info(device)
        self.capacity = min(free, int(self._fraction * self._total))
        self._before = torch.cuda.memory_allocated(device)

    def needs(self, config: TrainConfig) -> dict[str, int]:
        resident = sum(resident_memory(config, self._num_ranks).values())
        with alone():
            trial = Trial(config, self._num_ranks, self._device)
            # What the run holds and the trial does not; negative where ZeRO shards a lot.
            held = torch.cuda.memory_allocated(self._device) - self._before
            missing = resident - held
            self._cap((1 - MARGIN) * self.capacity - missing)
            peaks = {"D": 0, "G": 0}
            for _ in range(ROUNDS):
                torch.cuda.reset_peak_memory_stats(self._device)
                for name in trial.updates():
                    peak = torch.cuda.max_memory_allocated(self._device) - self._before
                    peaks[name] = max(peaks[name], peak)
                    torch.cuda.reset_peak_memory_stats(self._device)
        # A graph keeps its memory, and updates that are not captured yet need as much beside it.
        kept = max(peaks.values()) - held if config.engine.cuda_graphs else 0
        return {name: peak + missing + kept for name, peak in peaks.items()}

    def _cap(self, num_bytes: float) -> None:
        fraction = min(self._fraction, max(0.0, num_bytes / self._total))
        torch.cuda.set_per_process_memory_fraction(fraction, self._device)

    def release(self) -> None:
        """Once no exception holds the trial's tensors any more."""
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        torch.cuda.set_per_process_memory_fraction(self._fraction, self._device)


class Trial:
    """One rank's share of a run, as a run of one rank whose networks never learn.

    Every penalty is due in every update. The networks are the run's own at its start, in the same
    precision, and hold their gradients from the beginning to the end.
    """

    def __init__(self, config: TrainConfig, num_ranks: int, device: torch.device) -> None:
        self.config = config = heaviest(config, num_ranks)
        generator, discriminator, objective = build_networks(config)
        self._ema = Ema(generator.to(device), config.ema_halflife_kimg * 1000, config.ema_rampup)
        g, d = (_player(config, module, device) for module in (generator, discriminator))
        self._gan = Gan(config, device, objective, g, d)

    def updates(self) -> Iterator[str]:
        """An iteration as the loop makes it, on black images; "D" and "G" after their updates."""
        gan, config = self._gan, self.config
        real = self._images(Stream.D_REAL, config.num_real)
        train_d(gan, real, 0)
        yield "D"
        needed = gan.objective.needs_real_in_g_step
        real = self._images(Stream.G_REAL, config.batch_size) if needed else None
        train_g(gan, real, 0)
        self._ema.update(gan.g.module, config.batch_size, config.batch_size)
        yield "G"

    def _images(self, stream: Stream, count: int) -> Tensor:
        size = self.config.data.resolution
        black = torch.zeros(count, 3, size, size, dtype=torch.uint8, device=self._gan.device)
        return self._gan.normalise(black, stream, 0)


def heaviest(config: TrainConfig, num_ranks: int) -> TrainConfig:
    """The run of one rank on its share of every batch, with all that is ever due always due."""
    far, penalty, objective = config.far, config.penalty, config.objective
    return replace(
        config,
        batch_size=config.batch_size // num_ranks,
        far=replace(
            far,
            far_fakes=far.far_fakes // num_ranks,
            far_candidates=far.far_candidates // num_ranks,
        ),
        penalty=replace(penalty, penalty_images=0, path_length_images=0),
        objective=replace(objective, posterior=replace(objective.posterior, pretrain_kimg=0.0)),
    )


class _StillPlayer(PlainEngine):
    """Its gradients add up, and its weights stay."""

    def step(self, loss: Tensor) -> None:
        """Nothing: an optimiser's memory is known without a trial."""


def _player(config: TrainConfig, module: nn.Module, device: torch.device) -> _StillPlayer:
    module.to(device)
    if config.engine.checkpoint_activations:
        recompute_blocks(module)
    if config.engine.precision == "bf16":
        module.forward = torch.autocast(device.type, dtype=torch.bfloat16)(module.forward)
    for weight in module.parameters():
        weight.grad = torch.zeros_like(weight)
    return _StillPlayer(module, lr=0.0, optimizer=config.optimizer)
