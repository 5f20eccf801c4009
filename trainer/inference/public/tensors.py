"""Tensors of records: shapes without reading them, and values within the size of the file."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realness.trainer.inference.public.pickles import (
    ModelFileError,
    Record,
    mapping_of,
    origin_of,
)
from realness.trainer.inference.public.torch_files import Storage, read_nested

MOST_DIMENSIONS = 8
NUMPY_TYPES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"}
RECONSTRUCT = {"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"}
SCALAR = {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"}
PARAMETER = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}


@dataclass(frozen=True)
class Lazy:
    """A tensor of a file: its shape, and a function that reads it as float32."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    def changed(self, change: Callable[[Tensor], Tensor]) -> Lazy:
        """The tensor after `change`, a function of its values."""
        shape = tuple(change(torch.empty(self.shape, device="meta")).shape)
        return Lazy(shape, lambda: change(self.read()).contiguous())


class TensorReader:
    """Finds the tensors of records.

    All tensors read together may not be larger than the file, of `num_bytes`: a small file whose
    tensors share one storage could otherwise fill the memory.
    """

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = self._left = num_bytes
        self._nested: dict[int, tuple[Any, Any]] = {}

    def find(self, value: Any) -> Lazy | None:
        """The tensor of a record, an array, a parameter or numpy's number; None for others.

        Raises ModelFileError for a tensor that is damaged.
        """
        origin = origin_of(value)
        if not isinstance(value, Record):
            return None
        if origin in PARAMETER:
            return self.find(value.args[0]) if value.args else None
        if origin == "torch._utils._rebuild_tensor_v2":
            return self._tensor(value)
        if origin in RECONSTRUCT:
            return self._array(value)
        if origin in SCALAR and (number := number_of(value)) is not None:
            return Lazy((), lambda: torch.tensor(number, dtype=torch.float32))
        return None

    def _tensor(self, value: Record) -> Lazy:
        if len(value.args) < 4:
            raise ModelFileError("a tensor lacks its size: it is damaged")
        storage, offset, size, stride = value.args[:4]
        storage, size, stride = self._storage(storage), _sizes(size), _sizes(stride)
        if len(size) != len(stride) or not _is_count(offset):
            raise ModelFileError("a tensor has no valid size: it is damaged")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if 0 not in size and last >= storage.numel:
            raise ModelFileError("a tensor is larger than its storage: it is damaged")
        self._check(math.prod(size) * storage.dtype.itemsize)

        def read() -> Tensor:
            self._take(math.prod(size) * storage.dtype.itemsize)
            return storage.values().as_strided(size, stride, offset).float().clone()

        return Lazy(size, lambda: read().contiguous())

    def _storage(self, value: Any) -> Storage:
        """A storage; those of plain pickles are files of torch.save inside the pickle."""
        if isinstance(value, Storage):
            return value
        if origin_of(value) != "torch.storage._load_from_bytes" or len(value.args) != 1:
            raise ModelFileError(f"a tensor has no storage, but {origin_of(value)!r}")
        content = value.args[0]
        if not isinstance(content, bytes):
            raise ModelFileError("a storage is not made of bytes: it is damaged")
        if id(content) not in self._nested:
            # The content is kept with it: its id would otherwise be given to another object.
            self._nested[id(content)] = content, read_nested(content)
        return self._nested[id(content)][1]

    def _array(self, value: Record) -> Lazy:
        """An array: the state is (version, shape, type, whether in Fortran's order, bytes)."""
        state = value.state
        if not isinstance(state, tuple) or len(state) != 5:
            raise ModelFileError("an array lacks its values: it is damaged")
        _, shape, kind, fortran, content = state
        shape, dtype = _sizes(shape), _numpy_type(kind)
        self._check(math.prod(shape) * dtype.itemsize)

        def read() -> Tensor:
            numel = math.prod(shape)
            self._take(numel * dtype.itemsize)
            raw = _bytes_of(content)
            if len(raw) != numel * dtype.itemsize:
                raise ModelFileError(f"an array of shape {shape} has {len(raw):,} bytes")
            array = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
            return torch.from_numpy(np.ascontiguousarray(array, np.float32).copy()).reshape(shape)

        return Lazy(shape, read)

    def _check(self, num_bytes: int) -> None:
        if num_bytes > self._num_bytes:
            raise ModelFileError("a tensor is larger than the file: it is damaged")

    def _take(self, num_bytes: int) -> None:
        self._left -= num_bytes
        if self._left < 0:
            raise ModelFileError("its tensors are larger than the file; it is not a real model")


def is_scalar(value: Any) -> bool:
    """Whether a value is a number of numpy."""
    return origin_of(value) in SCALAR


def number_of(value: Any) -> float | None:
    """The number that a plain value or a numpy scalar is; None for anything else."""
    if isinstance(value, int | float):
        return float(value)
    if origin_of(value) not in SCALAR or len(value.args) != 2:
        return None
    dtype, raw = _numpy_type(value.args[0]), _bytes_of(value.args[1])
    return float(np.frombuffer(raw, dtype)[0]) if len(raw) == dtype.itemsize else None


def sizes_and_names(value: Any) -> dict[str, Any]:
    """The entries of a mapping by name."""
    return {key: item for key, item in mapping_of(value).items() if isinstance(key, str)}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 1 << 48


def _sizes(value: Any) -> tuple[int, ...]:
    if origin_of(value) == "torch.Size" and value.args:
        value = value.args[0]
    if not isinstance(value, tuple | list) or len(value) > MOST_DIMENSIONS:
        raise ModelFileError("a tensor has no valid size: it is damaged")
    if not all(map(_is_count, value)):
        raise ModelFileError(f"a tensor has the size {tuple(value)}: it is damaged")
    return tuple(value)


def _numpy_type(value: Any) -> np.dtype[Any]:
    """The type of an array: args (name, ...), state (version, order of bytes, ...)."""
    name = value.args[0] if origin_of(value) == "numpy.dtype" and value.args else None
    if name not in NUMPY_TYPES:
        raise ModelFileError(f"an array has the type {name!r}, which is not one of numbers")
    order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "="
    return np.dtype(name).newbyteorder(order if order in ("<", ">") else "=")


def _bytes_of(value: Any) -> bytes:
    """Bytes; before protocol 3 they are written as text in Latin-1."""
    if isinstance(value, bytes):
        return value
    if origin_of(value) == "_codecs.encode" and isinstance(value.args[0], str):
        return value.args[0].encode("latin1", errors="replace")
    raise ModelFileError("an array is not made of bytes: it is damaged")
