"""Throughput of a run, and time spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Sequence

import psutil
import torch

from realness.data_pipeline import Catalog, ImageStream
from realness.trainer.run.contention import CoreWaits


class Pace:
    """Throughput, data waits and memory, measured from one `read` to the next."""

    def __init__(self, catalog: Catalog, streams: Sequence[ImageStream]) -> None:
        self._catalog = catalog
        self._streams = streams
        self._process = psutil.Process()
        self._core_waits = CoreWaits()
        self._started = self._last = time.monotonic()
        self._images = 0
        self._waited = 0.0
        self._excluded = 0.0

    def add(self, num_images: int) -> None:
        """Count images that were trained on."""
        self._images += num_images

    def exclude(self, seconds: float) -> None:
        """Exclude time that was not spent on training from the throughput."""
        self._excluded += seconds

    def read(self, images_left: int) -> dict[str, float]:
        """This interval's numbers under the names that the reports use.

        img_per_s, without excluded time; eta_s; elapsed_s since the start of this process;
        data_wait_percent: percentage of the time that steps waited for images; core_wait_percent:
        that threads waited for a core; memory_gib of this process; gpu_memory_gib, its peak;
        bad_images replaced so far.
        """
        now = time.monotonic()
        waited = sum(stream.wait_seconds for stream in self._streams)
        seconds = max(now - self._last - self._excluded, 1e-9)
        rate = self._images / seconds
        record = {
            "img_per_s": rate,
            "eta_s": images_left / rate if rate else 0.0,
            "elapsed_s": now - self._started,
            "data_wait_percent": 100 * (waited - self._waited) / seconds,
            "core_wait_percent": 100 * self._core_waits.read(),
            "memory_gib": self._process.memory_info().rss / 2**30,
            "bad_images": self._catalog.num_bad_images,
        }
        if torch.cuda.is_available():
            record["gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        self._last, self._waited, self._images, self._excluded = now, waited, 0, 0.0
        return record
