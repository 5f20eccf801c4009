"""Reading checkpoints: verification, then loading of the stretches that this rank holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from realness.trainer.checkpoint.format import (
    CheckpointError,
    CheckpointRemoved,
    Position,
    file_entry,
    read_manifest,
)
from realness.trainer.checkpoint.fragments import Fragment
from realness.trainer.distributed.collectives import gather, on_all_ranks
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.storage.checkpoint_folder import by_preference


def restore(root: Path, targets: list[Fragment], report: Callable[[str], None]) -> Position | None:
    """Fill `targets` from the newest undamaged checkpoint; collective. None without checkpoints.

    Each file's size and checksum are verified first. A damaged checkpoint is passed over with a
    message to `report(str)`; CheckpointError is raised if all are damaged, or if a tensor differs
    in size or type.
    """
    names = gather(by_preference(root))[0]
    for name in names:
        folder = root / name
        problems = [problem for problem in gather(_damage(folder)) if problem]
        if not problems:
            return _load(folder, targets)
        report(f"checkpoint {folder} is damaged and is passed over: {problems[0]}")
    if names:
        raise CheckpointError(
            f"none of the {len(names)} checkpoints in {root} is readable; restore one from a "
            "backup, or start over with another --run-dir"
        )
    return None


def load(folder: Path, targets: list[Fragment]) -> Position:
    """Verify the checkpoint `folder` and fill `targets` from it; collective.

    Raises CheckpointError on every rank if it is damaged, or if a tensor differs, and
    CheckpointRemoved if a run has removed or replaced it meanwhile.
    """
    with noticing_removal(folder):
        problems = [problem for problem in gather(_damage(folder)) if problem]
        if problems:
            raise CheckpointError(f"checkpoint {folder} is damaged: {problems[0]}")
        return _load(folder, targets)


@contextmanager
def noticing_removal(folder: Path) -> Iterator[None]:
    """Turn CheckpointError into CheckpointRemoved if the folder is not the one from before.

    Collective if CheckpointError is raised, which must then happen on all ranks.
    """
    before = _inode(folder)
    try:
        yield
    except CheckpointError as error:
        if any(gather(before is None or _inode(folder) != before)):
            raise CheckpointRemoved(
                f"checkpoint {folder} was removed while it was read: its run is in progress and "
                "keeps only the newest ones (--keep-checkpoints); choose a newer one"
            ) from error
        raise


def _inode(folder: Path) -> int | None:
    """What tells a folder from others that had its name; None if there is none."""
    try:
        return folder.stat().st_ino
    except OSError:
        return None


def read_tensors(folder: Path, manifest: dict[str, Any], targets: list[Fragment]) -> None:
    """Fill each target with its stretch of the stored tensors. Raises CheckpointError."""
    opened: dict[str, Any] = {}
    for target in targets:
        entry = manifest["tensors"].get(target.name)
        if entry is None and target.optional:
            continue
        if entry is None:
            raise CheckpointError(f"{folder} holds no tensor {target.name!r}")
        wanted = (target.numel, str(target.data.dtype))
        if (entry["numel"], entry["dtype"]) != wanted:
            raise CheckpointError(
                f"{folder}: {target.name!r} is {entry['numel']} x {entry['dtype']}, but the "
                f"network built here has {wanted[0]} x {wanted[1]}; the architecture differs"
            )
        _fill(folder, opened, entry["stretches"], target)


def _fill(folder: Path, opened: dict[str, Any], stretches: list[Any], target: Fragment) -> None:
    begin, end = target.offset, target.offset + target.data.numel()
    filled = 0
    for file, offset, numel in stretches:
        start, stop = max(begin, offset), min(end, offset + numel)
        if start >= stop:
            continue
        if file not in opened:
            opened[file] = _open(folder / file)
        part = opened[file].get_slice(target.name)[start - offset : stop - offset]
        target.data[start - begin : stop - begin].copy_(part)
        filled += stop - start
    if filled != end - begin:
        raise CheckpointError(f"{folder}: {target.name!r} lacks {end - begin - filled} elements")


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a valid safetensors file: {error}") from error


def _load(folder: Path, targets: list[Fragment]) -> Position:
    def read() -> dict[str, Any]:
        manifest = read_manifest(folder)
        read_tensors(folder, manifest, targets)
        return manifest

    what = "could not read the checkpoint: "
    manifest = on_all_ranks(read, failure=CheckpointError, what=what)
    return Position(manifest["images"], manifest["num_updates"], manifest["data_digest"])


def _damage(folder: Path) -> str:
    """The damage found in this rank's share of a checkpoint's files; empty if there is none."""
    try:
        files = sorted(read_manifest(folder)["files"].items())
        for name, entry in files[rank() :: world_size()]:
            if file_entry(folder / name) != entry:
                return f"{name} does not have the size or checksum with which it was written"
    except (OSError, CheckpointError) as error:
        return str(error)
    return ""
