"""Snapshots of the power-function averages, from which averages of other widths are computed.

A snapshot is in the format of a checkpoint, in a folder of its own. It is on disk before any later
checkpoint is, and a run that returns to a checkpoint removes the snapshots after it and makes them
again. A kill therefore neither loses a snapshot nor leaves one of another trajectory.
"""

from __future__ import annotations

import logging
import math
import shutil
import sys
from pathlib import Path

from realness.trainer.checkpoint import Position, Retention, Saver
from realness.trainer.config import ConfigError, TrainConfig
from realness.trainer.distributed.ranks import rank
from realness.trainer.planning.memory import GIB, snapshot_bytes
from realness.trainer.run.state import Run
from realness.trainer.storage.checkpoint_folder import (
    checkpoint_root,
    list_checkpoints,
    remove_checkpoint,
    snapshot_root,
)
from realness.trainer.storage.run_folder import holds_run, read_config
from realness.trainer.updates.schedule import is_due

log = logging.getLogger("realness.trainer")


def check_averages(config: TrainConfig, folder: Path) -> None:
    """Check that the run can keep its power-function averages; log what their snapshots cost.

    Raises ConfigError if they would begin in the middle of the run in `folder`.
    """
    if not config.average.widths:
        return
    if holds_run(folder) and list_checkpoints(checkpoint_root(folder)):
        started = read_config(folder).average
        if started.names != config.average.names:
            raise ConfigError(
                f"--ema={config.average.ema} --ema-widths={config.average.ema_widths}: "
                "power-function averages cover all of training and cannot begin in the middle, and "
                f"the run in {folder} has --ema={started.ema} --ema-widths={started.ema_widths}; "
                "use its values, --ema exponential, or start a new run from its weights: another "
                f"--run-dir, with --init-from {folder}"
            )
    if rank() == 0:
        log.info("%s", snapshot_plan(config))
        _warn_of_snapshots(config, folder)


def snapshot_plan(config: TrainConfig) -> str:
    """How many snapshots the run makes, and what they cost on disk; empty if it makes none."""
    if not config.average.widths:
        return ""
    count, size = _num_snapshots(config), snapshot_bytes(config)
    kept = f"the newest {config.average.keep_ema_snapshots}"
    return (
        f"{count} snapshots of {len(config.average.widths)} power-function averages, "
        f"{size / GIB:.2f} GiB each; {kept if config.average.keep_ema_snapshots else 'all'} are "
        f"kept, {size * _num_kept(config) / GIB:.2f} GiB in all"
    )


def _num_snapshots(config: TrainConfig) -> int:
    return math.floor(config.num_images / (config.average.ema_snapshot_kimg * 1000))


def _num_kept(config: TrainConfig) -> int:
    return min(_num_snapshots(config), config.average.keep_ema_snapshots or sys.maxsize)


def _warn_of_snapshots(config: TrainConfig, folder: Path) -> None:
    existing = len(list_checkpoints(snapshot_root(folder)))
    needed = snapshot_bytes(config) * max(0, _num_kept(config) - existing)
    free = shutil.disk_usage(folder).free
    if not _num_snapshots(config):
        log.warning(
            "--ema-snapshot-kimg=%g makes no snapshot in a run of %g kimg, so other widths cannot "
            "be computed from it; use %.3g",
            config.average.ema_snapshot_kimg,
            config.num_images / 1000,
            config.num_images / 1000 / 30,
        )
    elif free < needed:
        log.warning(
            "the snapshots of the averages will need %.1f GiB, but the disk of --run-dir=%s has "
            "%.1f GiB free; raise --ema-snapshot-kimg, use --keep-ema-snapshots, or move some of "
            "them to another disk in time",
            needed / GIB,
            folder,
            free / GIB,
        )


def open_snapshots(config: TrainConfig, folder: Path) -> Saver | None:
    """The writer of snapshots, None for a run without them; collective."""
    if not config.average.widths:
        return None
    keep = config.average.keep_ema_snapshots or sys.maxsize
    return Saver(snapshot_root(folder), Retention(keep))


def save_snapshot_if_due(run: Run) -> None:
    """Start writing a snapshot every `ema_snapshot_kimg`, after the one in progress; collective."""
    interval, batch = run.config.average.ema_snapshot_kimg, run.config.batch_size
    if run.snapshots is not None and is_due(interval, run.images, batch):
        await_snapshot(run)
        position = Position(run.images, {}, run.catalog.digest)
        run.snapshots.start(run.gan.owned_snapshot(), position)


def await_snapshot(run: Run) -> None:
    """Wait until the snapshot in progress is written; collective."""
    outcome = run.snapshots.wait() if run.snapshots is not None else None
    if outcome is not None and outcome.problem:
        run.reporter.warn(
            f"NO SNAPSHOT of the averages at {outcome.images / 1000:.1f} kimg: {outcome.problem}; "
            "training continues, and other widths will be computed from the other snapshots"
        )


def remove_later_snapshots(folder: Path, images: int) -> None:
    """Remove the snapshots after `images`, where a run continues: it makes them again."""
    later = [path for path in list_checkpoints(snapshot_root(folder)) if int(path.name) > images]
    for path in later if rank() == 0 else ():
        try:
            remove_checkpoint(path)
        except OSError as error:
            log.warning("the snapshot %s cannot be removed: %s", path, error)
