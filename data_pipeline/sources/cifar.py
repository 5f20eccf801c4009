"""CIFAR-10 and CIFAR-100 as published: binary batches or Python pickles, read in place.

Binary (cs.toronto.edu/~kriz/cifar.html): records of one label byte (CIFAR-100: coarse, fine) and
3072 bytes, 32x32 in the order C, H, W. Pickles hold the same pixels as one array. They are never
really unpickled: a restricted unpickler that builds only inert stand-ins locates the pixels in the
file, and they are read from there.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import pickletools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from realness.data_pipeline.catalog import Catalog, NameTable, RawLayout
from realness.data_pipeline.errors import DataError
from realness.data_pipeline.sources.class_labels import checked_names
from realness.data_pipeline.sources.common import MAX_ENTRY_BYTES, SpanReader

_SHAPE = (3, 32, 32)
_PIXELS = 3072
_TRAINING_FILES = (
    [f"data_batch_{number}.bin" for number in range(1, 6)],
    [f"data_batch_{number}" for number in range(1, 6)],
    ["train.bin"],
    ["train"],
)
_META_BYTES = 1 << 16
_PICKLE_ERRORS = (
    pickle.UnpicklingError, KeyError, ValueError, TypeError, AttributeError, EOFError, IndexError,
    OverflowError, RecursionError,
)  # fmt: skip
_META_FILES = {"batches.meta", "batches.meta.txt", "meta", "fine_label_names.txt"}


def training_files(folder: Path) -> list[Path]:
    """The training batches in a CIFAR folder; empty if the folder is not one."""
    if not any((folder / name).is_file() for name in _META_FILES):
        return []
    for names in _TRAINING_FILES:
        if all((folder / name).is_file() for name in names):
            return [folder / name for name in names]
    return []


def open_cifar(source: Path, files: Sequence[Path]) -> Catalog:
    """The images of CIFAR batch files, in their order, with labels (fine labels of CIFAR-100).

    Raises DataError for files that are damaged or of another kind. See open_catalog.
    """
    offsets, file_ids, labels, names = [], [], [], []
    for file_id, path in enumerate(files):
        starts, classes = _locate(path)
        offsets.append(starts)
        file_ids.append(np.full(len(starts), file_id))
        labels.append(classes)
        names += [f"{path.name}/{number:05d}" for number in range(len(starts))]
    lengths = np.full(len(names), _PIXELS, np.int64)
    return Catalog(
        source=str(source),
        kind="cifar",
        names=NameTable.of(names),
        lengths=lengths,
        reader=SpanReader(files, np.concatenate(file_ids), np.concatenate(offsets), lengths),
        labels=np.concatenate(labels).astype(np.int32),
        class_names=_class_names(files[0].parent, int(max(found.max() for found in labels)) + 1),
        raw=RawLayout(_SHAPE),
    )


def _class_names(folder: Path, num_classes: int) -> tuple[str, ...]:
    """The names beside the batches, in a text or in a pickle; none if they are missing or damaged.

    Nothing depends on them but what people read.
    """
    for name in ("batches.meta.txt", "fine_label_names.txt"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
            text = (folder / name).read_bytes()[:_META_BYTES].decode()
            return checked_names(filter(None, map(str.strip, text.splitlines())), num_classes)
    for name in ("batches.meta", "meta"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, *_PICKLE_ERRORS):
            content = (folder / name).read_bytes()[:_META_BYTES]
            _check_opcodes(content)
            meta = _InertUnpickler(io.BytesIO(content), encoding="bytes").load()
            names = meta.get(b"label_names") or meta[b"fine_label_names"]
            return checked_names([name.decode() for name in names], num_classes)
    return ()


def _locate(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Byte offsets of the images in a batch file, and their classes: int64 [n] each."""
    return _locate_binary(path) if path.suffix == ".bin" else _locate_pickled(path)


def _locate_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    label_bytes = 2 if path.name in ("train.bin", "test.bin") else 1
    record = label_bytes + _PIXELS
    size = path.stat().st_size
    if size == 0 or size % record:
        raise DataError(
            f"{path} has {size:,} bytes, not a multiple of {record}: "
            "it is not a CIFAR batch, or cut short"
        )
    starts = np.arange(0, size, record, dtype=np.int64) + label_bytes
    classes = np.memmap(path, np.uint8, "r")[starts - 1]
    return starts, classes.astype(np.int64)


def _check_opcodes(content: bytes) -> None:
    """Raises ValueError for lengths and memo slots that would exhaust memory in the unpickler.

    A value cannot be longer than the file, and there cannot be more memo slots than bytes.
    """
    for opcode, argument, _ in pickletools.genops(content):
        if "PUT" in opcode.name and isinstance(argument, int) and argument > len(content):
            raise ValueError(f"it uses memo slot {argument}")


class _Inert:
    """Inert stand-in for any object that a pickle builds; keeps the state it is given."""

    state: Any = None

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _InertUnpickler(pickle.Unpickler):
    _ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        }
    )

    def find_class(self, module: str, name: str) -> type[_Inert]:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _Inert


def _locate_pickled(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if path.stat().st_size > MAX_ENTRY_BYTES:
        raise DataError(f"{path} is not a CIFAR batch: it has {path.stat().st_size:,} bytes")
    content = path.read_bytes()
    try:
        _check_opcodes(content)
        batch = _InertUnpickler(io.BytesIO(content), encoding="bytes").load()
        pixels = batch[b"data"].state[-1]
        classes = batch.get(b"labels") or batch[b"fine_labels"]
        start = content.find(pixels)
        valid = isinstance(pixels, bytes) and len(pixels) == len(classes) * _PIXELS and start >= 0
        labels = np.array(classes, np.int64)
    except _PICKLE_ERRORS as error:
        raise DataError(f"{path} is not a CIFAR pickle, or is damaged ({error})") from error
    if not valid:
        raise DataError(
            f"{path} does not hold a plain array of {len(classes)} images of {_PIXELS} bytes; use "
            "the archive as published"
        )
    return start + np.arange(len(classes), dtype=np.int64) * _PIXELS, labels
