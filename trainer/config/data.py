"""Configuration of the real images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from realness.trainer.config.base import expand_paths, not_negative, positive, require, resumable


@dataclass(frozen=True)
class DataConfig:
    """Real images."""

    data: str = resumable("")
    """Folder, zip or tar shards of square images (launch/prepare.py converts any collection)."""
    source_kind: Literal[
        "auto", "folder", "zip", "tar", "tfrecord", "cifar", "idx", "lmdb", "prepared"
    ] = resumable("auto")
    """What --data is. A folder with several kinds, such as images and tar shards, needs the choice;
    auto finds out."""
    wds_image: str = resumable("")
    """Extension of the pictures to take from WebDataset's shards, such as jpg, or several with
    commas between them. all takes every picture. Needed if samples hold several, such as masks."""
    follow_links: bool = resumable(False)
    """Follow symbolic links that leave a folder of images."""
    labels: str = resumable("auto")
    """Where classes come from: auto takes what the images come with (dataset.json, .cls files,
    CIFAR's batches, a prepared set), folders takes the folders as classes, none ignores them; or
    the path of a CSV with the columns name and class."""
    resolution: int = 1024
    """Side length of the images in pixels; a power of two from 32 to 1024."""
    mirror: bool = True
    """Flip half of the images horizontally."""
    dequantize: bool = False
    """Add uniform noise of one grey level (1/127.5) to real images, as FAR-GAN does."""
    decoder: Literal["auto", "dali", "threads"] = resumable("auto")
    """Decode with DALI or with CPU threads. auto uses DALI if it is installed, except for raw
    images and, on machines without a GPU, for JPEG."""
    decode_threads: int = resumable(4)
    """Decoding threads per rank."""
    max_bad_images: int = resumable(100)
    """Unreadable images to tolerate before the run stops; each is replaced and named once."""

    def __post_init__(self) -> None:
        expand_paths(self, "data", "labels")
        size = self.resolution
        require(
            32 <= size <= 1024 and size & (size - 1) == 0,
            f"--resolution={size} must be a power of two from 32 to 1024",
        )
        positive(self, "decode_threads")
        not_negative(self, "max_bad_images")
