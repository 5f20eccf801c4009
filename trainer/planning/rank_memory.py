"""The memory that an update needs on a rank: measured on a GPU, estimated on a CPU."""

from __future__ import annotations

import gc
import socket
from dataclasses import replace
from typing import Protocol

import torch

from realness.trainer.config import TrainConfig
from realness.trainer.distributed.collectives import gather
from realness.trainer.distributed.ranks import as_single_rank, world_size
from realness.trainer.engines.compiled import wants_compiled
from realness.trainer.planning.host_memory import available_memory
from realness.trainer.planning.memory import (
    checkpoint_bytes,
    estimate_memory,
    resident_memory,
    snapshot_bytes,
)
from realness.trainer.planning.trial import TrialRun
from realness.trainer.updates.build import Blueprint

MEMORY_MARGIN = 0.1
"""Fraction of the memory that is left free (a choice): on a GPU for the buffers of NCCL and of the
decoder, on a CPU for what the estimate does not include."""
TRIAL_ITERATIONS = 2
"""Iterations per trial: the second starts with the allocator state that the first leaves."""


class Memory(Protocol):
    """Memory of this rank, and how much of it a run needs."""

    capacity: int
    """Bytes available to this rank, the margin included."""
    remark: str
    """How needs are determined, if not by measuring; appended to the log message."""

    def needs(self, config: TrainConfig) -> dict[str, int]:
        """Bytes of this rank in the heaviest updates of "D" and of "G"; not collective.

        Raises torch.OutOfMemoryError if they do not fit.
        """
        ...

    def release(self) -> None:
        """Free the memory of a finished measurement."""
        ...


class HostMemory:
    """Estimates, because the kernel kills a process that uses too much; creation is collective."""

    remark = ", by the estimate: on a CPU running out of memory cannot be tried"

    def __init__(self) -> None:
        host = socket.gethostname()
        self._num_ranks = world_size()
        self.capacity = available_memory() // gather(host).count(host)

    def needs(self, config: TrainConfig) -> dict[str, int]:
        # Offloaded state is in the same memory, and so is the copy from which checkpoints are
        # written.
        config = replace(config, engine=replace(config.engine, offload_optimizer=False))
        parts = estimate_memory(config, self._num_ranks)
        steps = {name: parts[f"activations of the {name} step"] for name in ("D", "G")}
        copied = (checkpoint_bytes(config) + snapshot_bytes(config)) // self._num_ranks
        rest = parts["total"] - max(steps.values()) + copied
        return {name: rest + size for name, size in steps.items()}

    def release(self) -> None:
        """No-op: an estimate allocates nothing."""


class DeviceMemory:
    """Runs real updates, with the allocator capped so that they fail where the run would."""

    remark = ""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        """Collective if `config` asks for compiled networks, which trials then use too."""
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
        with as_single_rank():
            trial = TrialRun(
                config, self._num_ranks, self._device, compiled=self._compiled, averaging=True
            )
            # Memory that the run needs and the trial does not; negative if ZeRO shards a lot.
            held = torch.cuda.memory_allocated(self._device) - self._before
            missing = resident - held
            self._cap((1 - MEMORY_MARGIN) * self.capacity - missing)
            peaks = {"D": 0, "G": 0}
            for _ in range(TRIAL_ITERATIONS):
                torch.cuda.reset_peak_memory_stats(self._device)
                for name in trial.updates():
                    peak = torch.cuda.max_memory_allocated(self._device) - self._before
                    peaks[name] = max(peaks[name], peak)
                    torch.cuda.reset_peak_memory_stats(self._device)
        # A graph keeps its memory, and updates that are not yet captured need as much in addition.
        kept = max(peaks.values()) - held if config.engine.cuda_graphs else 0
        return {name: peak + missing + kept for name, peak in peaks.items()}

    def _cap(self, num_bytes: float) -> None:
        fraction = min(self._fraction, max(0.0, num_bytes / self._total))
        torch.cuda.set_per_process_memory_fraction(fraction, self._device)

    def release(self) -> None:
        """Free the trial's memory; call it when no exception refers to the trial's tensors."""
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        torch.cuda.set_per_process_memory_fraction(self._fraction, self._device)
