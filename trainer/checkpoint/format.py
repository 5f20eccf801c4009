"""What a checkpoint looks like on disk: names, manifest, checksums."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
MANIFEST = "checkpoint.json"
LATEST = "latest"
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


def folder_name(images: int) -> str:
    """The name of the checkpoint made after so many images."""
    return f"{images:012d}"


def candidates(root: Path) -> list[str]:
    """Checkpoints in the order to try: where `latest` points, then older ones, then newer."""
    names = sorted(
        (path.name for path in root.glob("[0-9]*") if path.is_dir()), key=int, reverse=True
    )
    latest = read_latest(root)
    if latest not in names:
        return names
    return sorted(names, key=lambda name: (int(name) > int(latest), -int(name)))


def read_latest(root: Path) -> str:
    """The name that `latest` holds; empty where there is none."""
    pointer = root / LATEST
    return pointer.read_text(errors="replace").strip() if pointer.is_file() else ""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The checked contents of a checkpoint's `checkpoint.json`. Raises CheckpointError."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        checksum = manifest.pop("checksum")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path} is no readable manifest ({reason})") from error
    if checksum != text_checksum(manifest):
        raise CheckpointError(f"{path} does not match its own checksum")
    if manifest["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {manifest['format']}; this program reads {FORMAT}"
        )
    return manifest


def file_entry(path: Path) -> dict[str, int]:
    """Size and CRC-32 of a file."""
    checksum, size = 0, 0
    with path.open("rb") as file:
        while block := file.read(READ_BLOCK):
            checksum, size = zlib.crc32(block, checksum), size + len(block)
    return {"size": size, "crc32": checksum}


def text_checksum(manifest: dict[str, Any]) -> int:
    """CRC-32 of a manifest's canonical JSON."""
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
