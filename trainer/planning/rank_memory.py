"""What an update needs of a rank's memory: measured on a GPU, estimated on a CPU."""

from __future__ import annotations

import gc
import socket
from dataclasses import replace
from typing import Protocol

import torch

from realness.trainer.config import TrainConfig
from realness.trainer.distributed.collectives import gather
from realness.trainer.distributed.ranks import alone, world_size
from realness.trainer.engines.compiled import wants_compiled
from realness.trainer.planning.host_memory import available_memory
from realness.trainer.planning.memory import checkpoint_bytes, estimate_memory, resident_memory
from realness.trainer.planning.trial import Trial
from realness.trainer.updates.build import Blueprint

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

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        """Collective where `config` asks for compiled networks, which trials then have too."""
        self._device, self._num_ranks = device, world_size()
        has_statistics = Blueprint.of(config).has_batch_statistics
        self._compiled = wants_compiled(config.engine, device, has_statistics=has_statistics)
        self._fraction = torch.cuda.get_per_process_memory_fraction(device)
        self.release()
        free, self._total = torch.cuda.mem_get_info(device)
        self.capacity = min(free, int(self._fraction * self._total))
        self._before = torch.cuda.memory_allocated(device)

    def needs(self, config: TrainConfig) -> dict[str, int]:
        resident = sum(resident_memory(config, self._num_ranks).values())
        with alone():
            trial = Trial(
                config, self._num_ranks, self._device, compiled=self._compiled, averaging=True
            )
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
