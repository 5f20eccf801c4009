"""`--auto-batch`: the largest micro-batch with which the heaviest update of a run fits.

On a GPU it is found by trials. Each rank runs its own (`ranks.as_single_rank`), so that one which
runs out of memory leaves no other waiting in an all-reduce; then all use the smallest result. A
trial is a temporary pair of networks without optimisers, deleted before the run's own are built,
so it does not affect the run. It runs the loop's updates of D and G on one rank's share of the
batch, with every penalty due, in the run's layout and precision, compiled if the run is (which
costs one compilation per trial), and updates the average. The additional memory of a rank in the
run (moments, DeepSpeed's buffers), and the memory it saves because ZeRO shards it, are computed
from parameter counts. The trial's allocator is capped at the free memory minus a margin minus that
difference, so that the trial fails where the run would, fragmentation included.

On a CPU there is no out-of-memory error: the kernel kills the process. There the estimate of
`memory.py` is compared with the memory that is free for the ranks of a node.

Limits: fewer images must need less memory (the search bisects); the margin must cover NCCL's and a
GPU decoder's buffers, and what other programs allocate later; networks that fit a device, with
gradients, only when sharded never fit here; the metrics of --metrics-kimg are not included.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from realness.trainer.config import ConfigError, TrainConfig
from realness.trainer.distributed.collectives import gather, on_all_ranks
from realness.trainer.distributed.exit_codes import RunFailed
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.planning.memory import GIB, estimate_memory
from realness.trainer.planning.rank_memory import MEMORY_MARGIN, DeviceMemory, HostMemory, Memory
from realness.trainer.storage.run_folder import holds_run, read_pass
from realness.trainer.updates.build import Blueprint

log = logging.getLogger("realness.trainer")


@dataclass(frozen=True)
class Found:
    """The largest micro-batch that fits one rank, 0 if none does.

    needed: bytes in its heaviest update, which is that of the `network` "D" or "G"; capacity: bytes
    available to the rank, margin included.
    """

    micro_batch: int
    needed: int
    network: str
    capacity: int


def choose_micro_batch(
    config: TrainConfig, device: torch.device, memory: Memory | None = None
) -> TrainConfig:
    """The configuration with `auto_batch` replaced by a `micro_batch`; collective.

    memory: memory of this rank; by default that of `device`. A run whose results depend on the
    micro-batch (batch normalisation in G) keeps the one recorded in its folder, unless
    `accept_config_change` is set.

    Raises ConfigError, on every rank, if the smallest micro-batch, or the recorded one, does not
    fit; RunFailed if a trial fails otherwise.
    """
    if not config.engine.auto_batch:
        return config
    fixed = on_all_ranks(lambda: _recorded_size(config, world_size()), failure=ConfigError)
    sizes = [fixed] if fixed else valid_sizes(config, world_size())
    if memory is None:
        memory = DeviceMemory(config, device) if device.type == "cuda" else HostMemory()
    found = on_all_ranks(
        lambda: search(config, sizes, memory), failure=RunFailed, what="--auto-batch: "
    )
    tightest = min(gather(found), key=lambda one: (one.micro_batch, one.capacity - one.needed))
    if not tightest.micro_batch:
        raise ConfigError(_refusal(config, sizes[0], tightest, device.type, recorded=fixed > 0))
    chosen = with_micro_batch(config, tightest.micro_batch)
    if rank() == 0:
        log.info("%s%s", _describe(chosen, tightest), memory.remark)
    return chosen


def with_micro_batch(config: TrainConfig, size: int) -> TrainConfig:
    """The configuration with passes of `size` images per rank."""
    return replace(config, engine=replace(config.engine, auto_batch=False, micro_batch=size))


def valid_sizes(config: TrainConfig, num_ranks: int) -> list[int]:
    """The micro-batches that the configuration allows, ascending; the last is the whole share."""

    def is_valid(size: int) -> bool:
        try:
            with_micro_batch(config, size).check_ranks(num_ranks)
        except ConfigError:
            return False
        return True

    return [size for size in range(1, config.batch_size // num_ranks + 1) if is_valid(size)]


def search(config: TrainConfig, sizes: Sequence[int], memory: Memory) -> Found:
    """The largest of the ascending `sizes` that fits this rank; not collective.

    Bisects, but tries the largest size first.
    """
    best = Found(0, 0, "", memory.capacity)
    low, high = 0, len(sizes)  # all before index `low` fit, none from index `high` on does
    probe = high - 1
    while low < high:
        needs = _try(memory, with_micro_batch(config, sizes[probe]))
        network = max(needs, key=needs.__getitem__, default="")
        if network and needs[network] <= (1 - MEMORY_MARGIN) * memory.capacity:
            best = Found(sizes[probe], needs[network], network, memory.capacity)
            low = probe + 1
        else:
            high = probe
        probe = (low + high) // 2
    return best


def _try(memory: Memory, config: TrainConfig) -> dict[str, int]:
    """Bytes needed per update, by network; empty if out of memory."""
    needs: dict[str, int] = {}
    try:
        needs = memory.needs(config)
    except torch.OutOfMemoryError:
        log.debug("--micro-batch %d does not fit", config.engine.micro_batch)
    # After the exception is gone, because its traceback keeps tensors of its frames alive.
    memory.release()
    return needs


def _recorded_size(config: TrainConfig, num_ranks: int) -> int:
    """The micro-batch that preserves the batch statistics of a resumed run; 0 if any does."""
    folder = Path(config.run_dir)
    is_resumed = config.run_dir and holds_run(folder)
    if not is_resumed or config.accept_config_change:
        return 0
    if not Blueprint.of(config).has_batch_statistics:
        return 0
    size_then, ranks = read_pass(folder)
    # Statistics cover one pass on all ranks, or one rank's share of it.
    size, rest = size_then, 0
    if config.g.shares_statistics:
        size, rest = divmod(size_then * ranks, num_ranks)
    if rest or size not in valid_sizes(config, num_ranks):
        raise ConfigError(
            f"--auto-batch: the batch normalisation of {folder} covers passes of {size_then} "
            f"images on each of {ranks} ranks, which {num_ranks} ranks cannot reproduce; use "
            f"{ranks} ranks, or --micro-batch to change the run"
        )
    return size


def _describe(config: TrainConfig, found: Found) -> str:
    share, passes = config.batch_size // world_size(), config.num_passes(world_size())
    return (
        f"--auto-batch: {found.micro_batch} of {share} images per pass ({passes} "
        f"pass{'es' if passes > 1 else ''}); {found.needed / GIB:.1f} of "
        f"{found.capacity / GIB:.1f} GiB at the heaviest step ({_step(config, found.network)})"
    )


def _step(config: TrainConfig, network: str) -> str:
    """A description of the heaviest update of `network`, such as "D with R1"."""
    penalty = config.penalty
    terms = (
        {"path lengths": penalty.path_length_weight}
        if network == "G"
        else {"R1": penalty.has_r1, "R2": penalty.has_r2, "GP": penalty.gp_weight}
    )
    due = " and ".join(name for name, weight in terms.items() if weight)
    return f"{network} with {due}" if due else network


def _refusal(config: TrainConfig, size: int, found: Found, device: str, *, recorded: bool) -> str:
    engine, on_gpu = config.engine, device == "cuda"
    blocks = config.g.recompute and config.d.recompute
    remedies = {
        "--checkpoint-activations": on_gpu and blocks and not engine.checkpoint_activations,
        "--precision bf16": engine.precision == "fp32" and config.penalty.r1 == "exact",
        "--zero-g 3 --zero-d 3": world_size() > 1 and min(engine.zero_g, engine.zero_d) < 3,
        "--offload-optimizer": on_gpu and not engine.offload_optimizer,
        "more ranks": recorded and config.g.shares_statistics,
        "--micro-batch to change the run's batch statistics": recorded,
        "narrower networks": True,
    }
    table = estimate_memory(with_micro_batch(config, size), world_size())
    why = "with which this run was started" if recorded else "the minimum"
    lines = [
        f"--auto-batch: {size} image(s) per pass, {why}, do not fit into the "
        f"{found.capacity / GIB:.2f} GiB per rank, of which {MEMORY_MARGIN:.0%} stay free; "
        "estimate:",
        *(f"  {part_bytes / GIB:8.2f} GiB  {part}" for part, part_bytes in table.items()),
        f"use {', '.join(name for name, helps in remedies.items() if helps)}",
    ]
    return "\n".join(lines)
