"""The data path: from any image collection to batches on the device, each sample once per epoch.

A source opens as a Catalog; the order and the flips are pure functions of (seed, purpose, sample
number); decoders only decode. PyTorch is imported only when ImageStream is first used, so that
commands that do not train start quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from realness.data_pipeline.catalog import Catalog
from realness.data_pipeline.check import (
    DEFAULT_MAX_BAD_IMAGES,
    check_images,
    check_shards,
    describe_readers,
)
from realness.data_pipeline.errors import BadImage, DataError, MachineError
from realness.data_pipeline.formats import IMAGE_SUFFIXES
from realness.data_pipeline.order import BatchShare, parts_of_rank, sample_indices
from realness.data_pipeline.sources import SourceKind, SourceOptions, open_catalog
from realness.data_pipeline.sources.classes import class_counts, describe_classes
from realness.data_pipeline.sources.prepared import is_prepared, read_manifest

if TYPE_CHECKING:
    from realness.data_pipeline.stream import ImageStream, StreamSettings

__all__ = [
    "DEFAULT_MAX_BAD_IMAGES",
    "IMAGE_SUFFIXES",
    "BadImage",
    "BatchShare",
    "Catalog",
    "DataError",
    "ImageStream",
    "MachineError",
    "SourceKind",
    "SourceOptions",
    "StreamSettings",
    "check_images",
    "check_shards",
    "class_counts",
    "describe_classes",
    "describe_readers",
    "is_prepared",
    "open_catalog",
    "parts_of_rank",
    "read_manifest",
    "sample_indices",
]


def __getattr__(name: str) -> Any:
    if name in ("ImageStream", "StreamSettings"):
        from realness.data_pipeline import stream

        return getattr(stream, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
