"""The manifest of a checkpoint: position in the run, tables of files and tensors, checksums."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realness.trainer.storage.checkpoint_folder import MANIFEST

FORMAT = 1
READ_BLOCK = 1 << 24


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written or read; raised on every rank alike."""


class CheckpointRemoved(CheckpointError):
    """A checkpoint was removed or replaced while it was read, because its run is in progress."""


@dataclass(frozen=True)
class Position:
    """The position of a run.

    images: images seen; num_updates: optimiser updates by engine name; data_digest: digest of the
    data set.
    """

    images: int
    num_updates: dict[str, int]
    data_digest: str


def read_manifest(folder: Path) -> dict[str, Any]:
    """The contents of a checkpoint's `checkpoint.json`. Raises CheckpointError if it is damaged."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        checksum = manifest.pop("checksum")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path} is not a valid manifest ({reason})") from error
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
