"""Sharded checkpoints that any number of ranks can read.

    checkpoints/
      000000012800/                        named by images seen
        rank-00000-of-00002.safetensors    the fragments that rank 0 owns
        rank-00001-of-00002.safetensors
        checkpoint.json                    which file holds which stretch of which tensor; checksums
      latest                               the folder to resume from, written last

Every rank writes its own share. A folder is filled under a staging name, synced to disk and
renamed, so whatever bears a final name is whole. Tensors are safetensors and the rest is JSON:
nothing is unpickled. (torch.distributed.checkpoint keeps its metadata in a pickle, hence this
format.)
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from realness.trainer.distributed import Result, gather, rank, together, world_size
from realness.trainer.fragments import Fragment

FORMAT = 1
STAGING = ".staging-"
READ_BLOCK = 1 << 24


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written or read; raised on every rank alike."""


@dataclass(frozen=True)
class Position:
    """Where a run stands.

    images: images seen; num_updates: optimiser updates by engine name; data_digest: identity of the
    images it learns from.
    """

    images: int
    num_updates: dict[str, int]
    data_digest: str


def save(root: Path, fragments: list[Fragment], position: Position, *, keep: int) -> Path:
    """Write a checkpoint; collective. Returns its folder.

    `fragments` are the stretches this rank owns; together the ranks' must tile every tensor. The
    newest `keep` checkpoints are kept. Raises CheckpointError on every rank when any rank fails;
    the previous checkpoint then still is `latest`.
    """
    name = f"{position.images:012d}"
    staging, final = root / (STAGING + name), root / name
    _together("prepare", lambda: _prepare(root, staging) if rank() == 0 else None)
    written = gather(_together("write", lambda: _write_share(staging, fragments)))
    manifest = {
        "format": FORMAT,
        "images": position.images,
        "num_updates": position.num_updates,
        "data_digest": position.data_digest,
        "files": {name: entry for name, entry, _ in written},
        "tensors": _tensor_table([table for _, _, table in written]),
    }
    _together("commit", lambda: _commit(staging, final, manifest) if rank() == 0 else None)
    if rank() == 0:
        _prune(root, keep)
    return final


def restore(root: Path, targets: list[Fragment], report: Callable[[str], None]) -> Position | None:
    """Fill `targets` from the newest good checkpoint; collective. None when there is none at all.

    Each file's size and checksum are verified first. A damaged checkpoint is passed over with a
    message through `report(str)`; CheckpointError is raised when all are damaged, or when a tensor
    differs in size or type.
    """
    candidates = gather(_candidates(root))[0]
    for name in candidates:
        folder = root / name
        problems = [problem for problem in gather(_damage(folder)) if problem]
        if not problems:
            return _load(folder, targets)
        report(f"checkpoint {folder} is damaged and is passed over: {problems[0]}")
    if candidates:
        raise CheckpointError(
            f"none of the {len(candidates)} checkpoints in {root} is readable; restore one from a "
            "backup, or start over with another --run-dir"
        )
    return None


def load(folder: Path, targets: list[Fragment]) -> Position:
    """Fill `targets` from this very checkpoint, verified first; collective.

    Raises CheckpointError on every rank when it is damaged, or when a tensor differs.
    """
    problems = [problem for problem in gather(_damage(folder)) if problem]
    if problems:
        raise CheckpointError(f"checkpoint {folder} is damaged: {problems[0]}")
    return _load(folder, targets)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The checked contents of a checkpoint's `checkpoint.json`. Raises CheckpointError."""
    path = folder / "checkpoint.json"
    try:
        manifest = json.loads(path.read_text())
        checksum = manifest.pop("checksum")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: {error!r}") from error
    if checksum != _text_checksum(manifest):
        raise CheckpointError(f"{path} does not match its own checksum")
    if manifest["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {manifest['format']}; this program reads {FORMAT}"
        )
    return manifest


def read_tensors(folder: Path, manifest: dict[str, Any], targets: list[Fragment]) -> None:
    """Fill each target with its stretch of the stored tensors. Raises CheckpointError."""
    opened: dict[str, Any] = {}
    for target in targets:
        entry = manifest["tensors"].get(target.name)
        if entry is None:
            raise CheckpointError(f"{folder} holds no tensor {target.name!r}")
        wanted = (target.numel, str(target.data.dtype))
        if (entry["numel"], entry["dtype"]) != wanted:
            raise CheckpointError(
                f"{folder}: {target.name!r} is {entry['numel']} x {entry['dtype']}, but the "
                f"network built here wants {wanted[0]} x {wanted[1]}; the architecture differs"
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
            opened[file] = safe_open(folder / file, framework="pt")
        part = opened[file].get_slice(target.name)[start - offset : stop - offset]
        target.data[start - begin : stop - begin].copy_(part)
        filled += stop - start
    if filled != end - begin:
        raise CheckpointError(f"{folder}: {target.name!r} lacks {end - begin - filled} elements")


def _load(folder: Path, targets: list[Fragment]) -> Position:
    manifest = read_manifest(folder)
    _together("read", lambda: read_tensors(folder, manifest, targets))
    return Position(manifest["images"], manifest["num_updates"], manifest["data_digest"])


def _together(what: str, action: Callable[[], Result]) -> Result:
    return together(action, failure=CheckpointError, what=f"could not {what} the checkpoint: ")


def _prepare(root: Path, staging: Path) -> None:
    """Make an empty staging folder; remove what a killed run left half-written."""
    root.mkdir(parents=True, exist_ok=True)
    for leftover in root.glob(STAGING + "*"):
        shutil.rmtree(leftover)
    staging.mkdir()


def _write_share(staging: Path, fragments: list[Fragment]) -> tuple[str, dict[str, int], Any]:
    """Write this rank's file; returns (file name, {size, crc32}, {tensor: (dtype, numel, ...)})."""
    name = f"rank-{rank():05d}-of-{world_size():05d}.safetensors"
    owned = [fragment for fragment in fragments if fragment.data.numel()]
    save_file({item.name: item.data.detach().cpu().clone() for item in owned}, staging / name)
    _sync(staging / name)
    table = {
        item.name: (str(item.data.dtype), item.numel, (name, item.offset, item.data.numel()))
        for item in owned
    }
    return name, _file_entry(staging / name), table


def _tensor_table(tables: list[dict[str, Any]]) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for table in tables:
        for name, (dtype, numel, stretch) in table.items():
            entry = tensors.setdefault(name, {"dtype": dtype, "numel": numel, "stretches": []})
            entry["stretches"].append(stretch)
    return tensors


def _commit(staging: Path, final: Path, manifest: dict[str, Any]) -> None:
    manifest = {**manifest, "checksum": _text_checksum(manifest)}
    path = staging / "checkpoint.json"
    path.write_text(json.dumps(manifest))
    _sync(path)
    _sync(staging)
    if final.exists():
        shutil.rmtree(final)
    staging.rename(final)
    _sync(final.parent)
    pointer = final.parent / ".latest"
    pointer.write_text(final.name + "\n")
    _sync(pointer)
    pointer.rename(final.parent / "latest")
    _sync(final.parent)


def _candidates(root: Path) -> list[str]:
    """Checkpoints in the order to try: where `latest` points, then older ones, then newer."""
    names = sorted(
        (path.name for path in root.glob("[0-9]*") if path.is_dir()), key=int, reverse=True
    )
    pointer = root / "latest"
    latest = pointer.read_text().strip() if pointer.is_file() else ""
    if latest not in names:
        return names
    return sorted(names, key=lambda name: (int(name) > int(latest), -int(name)))


def _damage(folder: Path) -> str:
    """What is wrong with this rank's share of a checkpoint's files; empty when nothing is."""
    try:
        files = sorted(read_manifest(folder)["files"].items())
        for name, entry in files[rank() :: world_size()]:
            if _file_entry(folder / name) != entry:
                return f"{name} has another size or checksum than when it was written"
    except (OSError, CheckpointError) as error:
        return str(error)
    return ""


def _prune(root: Path, keep: int) -> None:
    for name in _candidates(root)[keep:]:
        shutil.rmtree(root / name, ignore_errors=True)


def _file_entry(path: Path) -> dict[str, int]:
    checksum, size = 0, 0
    with path.open("rb") as file:
        while block := file.read(READ_BLOCK):
            checksum, size = zlib.crc32(block, checksum), size + len(block)
    return {"size": size, "crc32": checksum}


def _text_checksum(manifest: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
