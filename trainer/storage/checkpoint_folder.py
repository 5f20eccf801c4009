"""Layout of a run's checkpoints: their names, listing them, and finding the latest one.

    RUN/checkpoints/                       the root, which most functions here take
      000000012800/                        named by images seen
        rank-00000-of-00002.safetensors    the fragments that rank 0 owns
        rank-00001-of-00002.safetensors
        checkpoint.json                    maps stretches of tensors to files; holds checksums
      latest                               the name of the checkpoint to resume from, written last
      best                                 the name of the one with the best score of the run's
                                           first metric
      .staging-000000025600/               being written
      .staging-removed-000000006400/       being removed
    RUN/ema/                               snapshots of power-function averages, in the same form

This module does not import torch, so that a supervisor that only looks up the latest checkpoint
starts fast.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from realness.trainer.storage.files import remove_staged, sync_folder, write_text

MANIFEST = "checkpoint.json"
LATEST = "latest"
BEST = "best"
STAGING = ".staging-"


def checkpoint_root(run: Path) -> Path:
    """The folder that holds the checkpoints of a run."""
    return run / "checkpoints"


def snapshot_root(run: Path) -> Path:
    """The folder that holds the snapshots of a run's power-function averages."""
    return run / "ema"


def folder_name(images: int) -> str:
    """The name of the checkpoint written after `images` images."""
    return f"{images:012d}"


def share_name(rank: int, num_ranks: int) -> str:
    """The name of the file that rank `rank` of `num_ranks` writes."""
    return f"rank-{rank:05d}-of-{num_ranks:05d}.safetensors"


def list_checkpoints(root: Path) -> list[Path]:
    """The checkpoints below `root`, oldest first."""
    found = (path for path in root.glob("[0-9]*") if path.is_dir())
    return sorted(found, key=lambda path: int(path.name))


def by_preference(root: Path) -> list[str]:
    """Names of checkpoints in the order to try them: `latest`, then older ones, then newer ones."""
    names = [path.name for path in reversed(list_checkpoints(root))]
    latest = read_latest(root)
    if latest not in names:
        return names
    return sorted(names, key=lambda name: (int(name) > int(latest), -int(name)))


def read_latest(root: Path) -> str:
    """The checkpoint that the file `latest` names; empty if there is no such file."""
    return _read_pointer(root / LATEST)


def write_latest(root: Path, name: str) -> None:
    """Point `latest` to checkpoint `name`, atomically and synced to disk."""
    _write_pointer(root / LATEST, name)


def read_best(root: Path) -> str:
    """The checkpoint that the file `best` names; empty if there is no such file."""
    return _read_pointer(root / BEST)


def write_best(root: Path, name: str) -> None:
    """Point `best` to checkpoint `name`, atomically and synced to disk."""
    _write_pointer(root / BEST, name)


def _read_pointer(pointer: Path) -> str:
    return pointer.read_text(errors="replace").strip() if pointer.is_file() else ""


def _write_pointer(pointer: Path, name: str) -> None:
    write_text(pointer, name + "\n")
    sync_folder(pointer.parent)


def is_being_written(root: Path) -> bool:
    """Whether a checkpoint is partly written."""
    return any(root.glob(STAGING + "[0-9]*"))


def new_staging(root: Path, name: str) -> Path:
    """Create the empty staging folder for checkpoint `name`; returns it.

    Removes partly written checkpoints of killed runs.
    """
    root.mkdir(parents=True, exist_ok=True)
    remove_staged(root)
    for leftover in root.glob(STAGING + "*"):
        shutil.rmtree(leftover)
    staging = staging_path(root, name)
    staging.mkdir()
    return staging


def staging_path(root: Path, name: str) -> Path:
    """The folder in which checkpoint `name` is written."""
    return root / (STAGING + name)


def remove_checkpoint(folder: Path) -> None:
    """Rename a checkpoint to a staging name and remove it, so that a kill leaves no partial one."""
    removed = folder.with_name(f"{STAGING}removed-{folder.name}")
    shutil.rmtree(removed, ignore_errors=True)
    folder.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)
