"""Every file of a source is an image taken, an image refused, or something else that is counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from realness.data_pipeline.formats import (
    IMAGE_SUFFIXES,
    OTHER_SUFFIXES,
    UNREAD_SUFFIXES,
    image_format,
)
from realness.data_pipeline.sources.labels import LABELS_FILE

NameClass = Literal["image", "unknown", "other"]

HIDDEN_FILES = "by name"
TRASH_FOLDERS = frozenset(
    {
        *("__MACOSX", "@eaDir", "@Recycle", "@Recently-Snapshot", "#recycle", "#snapshot"),
        *("$RECYCLE.BIN", "RECYCLER", "System Volume Information", "lost+found"),
    }
)
"""Folders of operating systems and storage devices: metadata, thumbnails and deleted files."""


def is_skipped(part: str, is_folder: bool) -> bool:
    """Whether a file or folder of this name, one part of a path, is hidden or a trash folder."""
    return (part.startswith(".") and part not in (".", "..")) or (
        is_folder and part in TRASH_FOLDERS
    )


def kind_of(name: str) -> str:
    """The kind of a file that is not an image: its suffix."""
    path = PurePosixPath(name)
    suffix = path.suffix.lower()
    if suffix in (".gz", ".bz2", ".xz", ".zst") and path.with_suffix("").suffix.lower() == ".tar":
        return f".tar{suffix}"
    return suffix or "without a suffix"


@dataclass
class Listing:
    """What a source holds besides the images that are taken.

    refused: images as (name, reason). others: numbers of files that are not images, by kind.
    hidden: numbers of files that are hidden or lie in hidden or trash folders, by that folder.
    """

    refused: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    label_files: list[str] = field(default_factory=list)
    hidden: Counter[str] = field(default_factory=Counter)

    def classify(self, name: str) -> NameClass:
        """Whether a file is an image by its name; "unknown" has to be sniffed (see `sniffed`).

        "other" has been counted here.
        """
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            return "image"
        if suffix in UNREAD_SUFFIXES:
            self.refused.append((name, f"is {UNREAD_SUFFIXES[suffix]}; convert it to PNG"))
            return "other"
        if PurePosixPath(name).name == LABELS_FILE:
            self.label_files.append(name)
        if suffix in OTHER_SUFFIXES:
            self.others[kind_of(name)] += 1
            return "other"
        return "unknown"

    def skips(self, name: str) -> bool:
        """Whether a file in an archive is hidden or lies in a hidden or trash folder; counts it."""
        *folders, file = PurePosixPath(name.replace("\\", "/")).parts or ("",)
        for folder in folders:
            if is_skipped(folder, True):
                self.hidden[folder] += 1
                return True
        if is_skipped(file, False):
            self.hidden[HIDDEN_FILES] += 1
            return True
        return False

    def sniffed(self, name: str, head: bytes) -> bool:
        """Whether a file of unknown suffix is an image, from its first bytes; else counts it."""
        if image_format(head):
            return True
        self.others[kind_of(name)] += 1
        return False
