"""Decoding by a pool of threads: simplejpeg for JPEG, Pillow for PNG, a copy for raw pixels.

The decoders release the interpreter's lock, so threads scale with the cores and need neither
worker processes nor shared memory.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from realness.data_pipeline.decode import copy_raw_into, decode_into
from realness.data_pipeline.samples import BatchPlan, SampleReader


@dataclass
class _Pending:
    plan: BatchPlan
    images: torch.Tensor
    futures: list[Future[None]]


class ThreadDecoder:
    """Keeps `prefetch` batches in the making; `submit` adds one, `receive` gives the oldest."""

    name = "threads"

    def __init__(self, reader: SampleReader, *, device: torch.device, num_threads: int) -> None:
        self._reader = reader
        self._device = device
        self._num_threads = num_threads
        self._raw = reader.catalog.raw is not None
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="realness-decode")
        self._pending: deque[_Pending] = deque()

    def submit(self, plan: BatchPlan) -> None:
        """Starts decoding a batch."""
        count = len(plan.samples)
        images = _empty_images(count, self._reader.resolution, self._device)
        # A few pieces a thread: small enough to share the work evenly, large enough that tiny
        # images are not swamped by the cost of a task.
        piece = max(1, count // (4 * self._num_threads))
        futures = [
            self._pool.submit(self._decode_rows, plan, images.numpy(), start, start + piece)
            for start in range(0, count, piece)
        ]
        self._pending.append(_Pending(plan, images, futures))

    def receive(self) -> tuple[torch.Tensor, BatchPlan]:
        """The oldest batch: uint8 [b, 3, R, R] on the device. Raises what decoding raised."""
        batch = self._pending.popleft()
        for future in batch.futures:
            future.result()
        return batch.images.to(self._device, non_blocking=True), batch.plan

    def close(self) -> None:
        """Drops what is pending and ends the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()

    def _decode_rows(self, plan: BatchPlan, images: np.ndarray, start: int, stop: int) -> None:
        into = copy_raw_into if self._raw else decode_into
        for row in range(start, min(stop, len(images))):
            out, mirror = images[row], bool(plan.mirror[row])
            self._reader.load(plan, row, lambda data, o=out, m=mirror: into(data, o, m))


def _empty_images(count: int, size: int, device: torch.device) -> torch.Tensor:
    shape = (count, 3, size, size)
    if device.type == "cuda":
        return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
    # NumPy asks the kernel for huge pages, PyTorch does not: a fresh megapixel costs 50 us rather
    # than a millisecond of page faults.
    return torch.from_numpy(np.empty(shape, np.uint8))
