"""Decoding by a pool of threads: simplejpeg for JPEG, Pillow for PNG, a copy for raw pixels.

Images are decoded straight into the batch's memory, in the decoders' channels-last layout.

The decoders release the interpreter's lock, so threads scale with the cores and need neither
worker processes nor shared memory.
"""

from __future__ import annotations

import sys
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from realness.data_pipeline.decoding.decode import copy_raw_into, decode_into
from realness.data_pipeline.decoding.sample_reader import BatchPlan, SampleReader

# A consumer that keeps more batches than this gets newly allocated memory.
_MAX_KEPT_BATCHES = 8


@dataclass
class _Pending:
    plan: BatchPlan
    images: torch.Tensor
    futures: list[Future[None]]


class ThreadDecoder:
    """Decodes up to `prefetch` batches ahead; `submit` adds one, `receive` returns the oldest."""

    name = "threads"

    def __init__(self, reader: SampleReader, *, device: torch.device, num_threads: int) -> None:
        self._reader = reader
        self._device = device
        self._num_threads = num_threads
        self._raw = reader.catalog.raw
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="realness-decode")
        self._pending: deque[_Pending] = deque()
        self._buffers: _BufferPool | None = None

    def submit(self, plan: BatchPlan) -> None:
        """Starts decoding a batch."""
        count = len(plan.samples)
        images = self._empty_images(count)
        rows = images.numpy()
        # A few pieces per thread: small enough to share the work evenly, large enough that the
        # overhead of a task does not dominate for tiny images.
        piece = max(1, count // (4 * self._num_threads))
        futures = [
            self._pool.submit(self._decode_rows, plan, rows, start, start + piece)
            for start in range(0, count, piece)
        ]
        self._pending.append(_Pending(plan, images.permute(0, 3, 1, 2), futures))

    def receive(self) -> tuple[torch.Tensor, BatchPlan]:
        """The oldest batch: uint8 [b, 3, R, R], channels last. Raises any error from decoding."""
        batch = self._pending.popleft()
        for future in batch.futures:
            future.result()
        return batch.images.to(self._device, non_blocking=True), batch.plan

    def close(self) -> None:
        """Drops what is pending and ends the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()
        self._buffers = None

    def _empty_images(self, count: int) -> torch.Tensor:
        """Memory for a batch: uint8 [count, R, R, 3]."""
        shape = (count, self._reader.resolution, self._reader.resolution, 3)
        if self._device.type == "cuda":
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        if self._buffers is None:
            self._buffers = _BufferPool(shape)
        return self._buffers.take()

    def _decode_rows(self, plan: BatchPlan, images: np.ndarray, start: int, stop: int) -> None:
        raw = self._raw
        into = decode_into if raw is None else partial(copy_raw_into, layout=raw)
        for row in range(start, min(stop, len(images))):
            mirror = bool(plan.mirror[row])
            self._reader.load(plan, row, partial(into, out=images[row], mirror=mirror))


class _BufferPool:
    """A pool of main memory for batches, reused once the last reference to a batch is gone.

    The page faults of new memory cost half as much as decoding the batch (at 1024x1024). A torch
    tensor made by from_numpy holds the array until the last tensor or view on it is gone, so an
    array that only this pool refers to is free.
    """

    # References of the list, the loop variable and the argument of getrefcount.
    _NUM_OWN_REFERENCES = 3

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self._shape = shape
        self._arrays: list[np.ndarray] = []

    def take(self) -> torch.Tensor:
        """A uint8 batch tensor with arbitrary contents; shares no memory with any live tensor."""
        for array in self._arrays:
            if sys.getrefcount(array) <= self._NUM_OWN_REFERENCES:
                return torch.from_numpy(array)
        array = np.empty(self._shape, np.uint8)
        if len(self._arrays) < _MAX_KEPT_BATCHES:
            self._arrays.append(array)
        return torch.from_numpy(array)
