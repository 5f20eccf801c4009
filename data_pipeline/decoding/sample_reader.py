"""From sample numbers to image bytes: applies the order and substitutes bad images."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from realness.data_pipeline.catalog import Catalog, printable
from realness.data_pipeline.errors import BadImage, DataError
from realness.data_pipeline.machine import patiently
from realness.data_pipeline.order import mirror_flags, sample_indices, substitute_index

T = TypeVar("T")
_MAX_ATTEMPTS = 1000
_PLANNED_SAMPLES = 1024


@dataclass
class BatchPlan:
    """One rank's rows of a global batch.

    samples: int64 [b], numbers k in the stream; indices: int64 [b], the images shown
    (substitutes included); mirror: bool [b], whether to flip.
    """

    samples: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]
    mirror: npt.NDArray[np.bool_]


class SampleReader:
    """Plans batches and loads their samples, replacing bad images. Thread-safe."""

    def __init__(
        self,
        catalog: Catalog,
        *,
        resolution: int,
        seed: int,
        purpose: int,
        mirror: bool,
        max_bad_images: int,
    ) -> None:
        self.catalog = catalog
        self.resolution = resolution
        self._seed, self._purpose, self._mirror = seed, purpose, mirror
        self._max_bad_images = max_bad_images
        self._bad: set[int] = set()
        self._lock = threading.Lock()

    @property
    def num_bad_images(self) -> int:
        """Number of distinct bad images met so far."""
        return len(self._bad)

    def plans(self, first: int, rows: npt.NDArray[np.int64], stride: int) -> list[BatchPlan]:
        """Plans for several batches: samples first + rows, int64 [b], then `stride` later each.

        Several at once, because the order takes as long for thousands of samples as for a few.
        """
        starts = first + stride * np.arange(max(1, _PLANNED_SAMPLES // len(rows)), dtype=np.int64)
        samples = starts[:, None] + rows
        seeds = {"seed": self._seed, "purpose": self._purpose}
        if self._mirror:
            mirror = mirror_flags(samples, **seeds)
        else:
            mirror = np.zeros(samples.shape, bool)
        indices = sample_indices(
            samples, len(self.catalog), num_parts=self.catalog.num_parts, **seeds
        )
        return [BatchPlan(*rows) for rows in zip(samples, indices, mirror, strict=True)]

    def load(self, plan: BatchPlan, row: int, use: Callable[[bytes], T]) -> T:
        """Returns `use(bytes)` for the row's image or, if that is bad, its first good substitute.

        `use` raises BadImage to reject an image; it is repeated if memory runs out.
        plan.indices[row] is set to the image used. The substitutes of sample k depend on (seed,
        purpose, k) only. Raises DataError if more than max_bad_images distinct images are bad,
        and MachineError if the machine fails.
        """
        sample, index = int(plan.samples[row]), int(plan.indices[row])
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            if index not in self._bad:
                try:
                    data = self.catalog.read(index)
                    result = patiently(partial(use, data), self.catalog.name(index))
                except BadImage as error:
                    self._note_bad(index, str(error))
                else:
                    plan.indices[row] = index
                    return result
            index = substitute_index(
                sample,
                attempt,
                len(self.catalog),
                seed=self._seed,
                purpose=self._purpose,
                num_parts=self.catalog.num_parts,
            )
        raise DataError(
            f"no good image found for sample {sample} in {_MAX_ATTEMPTS} attempts: "
            f"{self.num_bad_images} of the {len(self.catalog)} images in {self.catalog.source} "
            f"are bad; {self._remedy()}"
        )

    def _note_bad(self, index: int, reason: str) -> None:
        with self._lock:
            self._bad.add(index)
            num_bad = len(self._bad)
        self.catalog.report_bad(index, reason)
        if num_bad > self._max_bad_images:
            raise DataError(
                f"{num_bad} of the {len(self.catalog)} images in {self.catalog.source} are bad, "
                f"more than max_bad_images={self._max_bad_images}; the last one is "
                f"{printable(self.catalog.name(index))}: {reason}. {self._remedy()}"
            )

    def _remedy(self) -> str:
        return (
            f"Run `{self.catalog.prepare_command(self.resolution)}`, which converts what it can "
            "and lists the rest in rejects.csv, or raise max_bad_images"
        )
