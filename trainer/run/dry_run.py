"""`--dry-run`: build everything and print what would run and what resources it needs."""

from __future__ import annotations

import json
from pathlib import Path

from realness import kernels
from realness.data_pipeline import describe_readers, is_prepared, read_manifest
from realness.trainer.config import ConfigError, TrainConfig, flag, flatten
from realness.trainer.distributed.collectives import on_all_ranks
from realness.trainer.distributed.device import pick_device
from realness.trainer.distributed.exit_codes import EXIT_OK
from realness.trainer.distributed.ranks import (
    rank,
    start_process_group,
    stop_process_group,
    world_size,
)
from realness.trainer.distributed.streams import open_images
from realness.trainer.engines.deepspeed_config import deepspeed_config
from realness.trainer.planning.auto_batch import choose_micro_batch
from realness.trainer.planning.flops import count_flops
from realness.trainer.planning.memory import GIB, checkpoint_bytes, estimate_memory
from realness.trainer.run.data import check_parts, with_classes
from realness.trainer.run.snapshots import snapshot_plan
from realness.trainer.updates.sharded_gan import build_gan


def dry_run(config: TrainConfig) -> int:
    """Build networks and engines, and print the plan on rank 0. Returns the exit code."""
    device = pick_device(config.engine.device)
    start_process_group(device)
    try:
        ranks, is_leader = world_size(), rank() == 0
        config.check_ranks(ranks)
        config = on_all_ranks(lambda: _with_classes(config), failure=ConfigError)
        num_parts = on_all_ranks(lambda: _count_parts(config), failure=ConfigError)
        with kernels.implementation(config.engine.impl):
            config = choose_micro_batch(config, device)
            memory = estimate_memory(config, ranks)
            gan = build_gan(config, device)
        counts = {engine.name: engine.num_weights for engine in (gan.g, gan.d)}
        gan.close()
    finally:
        stop_process_group()
    # Outside the process group, because one process counts the operations of all ranks.
    if is_leader:
        print(_plan(config, str(device), ranks, counts, memory, num_parts))
    return EXIT_OK


def _with_classes(config: TrainConfig) -> TrainConfig:
    """The configuration with the classes of the data, which a conditional run cannot do without."""
    if not (config.classes.conditional and config.data.data):
        return config
    catalog = open_images(config.data)
    try:
        return with_classes(config, catalog)
    finally:
        catalog.close()


def _count_parts(config: TrainConfig) -> int:
    """Number of parts of the data set, 1 if it is not available.

    Raises ConfigError if the batch size does not fit the parts.
    """
    folder = Path(config.data.data)
    num_parts = 1
    if config.data.data and is_prepared(folder):
        num_parts = read_manifest(folder)["num_parts"]
    check_parts(config, num_parts, world_size())
    return num_parts


def _plan(
    config: TrainConfig,
    device: str,
    ranks: int,
    counts: dict[str, int],
    memory: dict[str, int],
    num_parts: int,
) -> str:
    engine, optimizer = config.engine, config.optimizer
    passes = config.num_passes(ranks)
    sections = {
        "Configuration": [f"{flag(name)} {value}" for name, value in flatten(config).items()],
        "Run": [
            f"{config.num_iterations:,} iterations of {config.batch_size} images "
            f"({config.num_images / 1000:,.1f} kimg) on {ranks} rank(s), {device} first",
            f"each update: {passes} pass(es) of {config.batch_size // ranks // passes} images per "
            "rank",
            f"each iteration: {optimizer.k_d} D update(s), then {optimizer.k_g} G update(s); "
            f"{count_flops(config).iteration / 1e9:,.1f} GFLOP per image",
        ],
        "Parameters": [f"{name}: {count:,}" for name, count in counts.items()],
        "Memory per rank (estimated)": [
            f"{size / GIB:8.2f} GiB  {part}" for part, size in memory.items()
        ],
        "Checkpoints": [
            f"{checkpoint_bytes(config) / GIB:.2f} GiB each, {config.keep_checkpoints} kept"
            + (", and the best one" if config.metrics.metrics_kimg else ""),
            f"{checkpoint_bytes(config) / ranks / GIB:.2f} GiB of host memory per rank, from which "
            "they are written while training continues",
        ],
    }
    if plan := snapshot_plan(config):
        sections["Snapshots of averages"] = [plan]
    if num_parts > 1:
        sections["Parts of the images"] = [
            f"part {part} is read by {describe_readers(part, ranks, num_parts)}"
            for part in range(num_parts)
        ]
    for name, stage in zip("GD", engine.stages(ranks), strict=True):
        generated = deepspeed_config(config, stage, ranks)
        sections[f"DeepSpeed configuration of {name}"] = [json.dumps(generated, indent=2)]
    return "\n\n".join(
        "\n".join([title, *(f"  {line}" for line in "\n".join(lines).split("\n"))])
        for title, lines in sections.items()
    )
