"""The stream of real images for training."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, get_args

import torch

from realness.data_pipeline.catalog import Catalog
from realness.data_pipeline.check import DEFAULT_MAX_BAD_IMAGES
from realness.data_pipeline.decoding.dali import DaliDecoder, why_not_available
from realness.data_pipeline.decoding.sample_reader import BatchPlan, SampleReader
from realness.data_pipeline.decoding.starvation import (
    StarvationWatch,
    WaitClock,
    starvation_remedy,
)
from realness.data_pipeline.decoding.threads import ThreadDecoder
from realness.data_pipeline.errors import BadImage, DataError
from realness.data_pipeline.formats import JPEG_SIGNATURE
from realness.data_pipeline.order import BatchShare

logger = logging.getLogger("realness.data")
DecoderName = Literal["auto", "dali", "threads"]
_NUM_PROBES = 16


@dataclass(frozen=True)
class StreamSettings:
    """Settings of a stream: its images and how they are decoded.

    resolution: side in pixels. mirror: whether half of the samples are flipped left-right. decoder:
    "auto" is DALI where it runs, but threads for raw pixels and, without a GPU, for JPEG, where
    DALI costs more CPU time (benchmarks/loader.py). The images are the same. max_bad_images: how
    many distinct images may be bad (logged, replaced) before the stream raises DataError.

    Raises ValueError for an unknown decoder, or for less than one decoding thread.
    """

    resolution: int
    mirror: bool
    decoder: DecoderName = "auto"
    decode_threads: int = 2
    max_bad_images: int = DEFAULT_MAX_BAD_IMAGES

    def __post_init__(self) -> None:
        if self.decoder not in get_args(DecoderName):
            known = " or ".join(map(repr, get_args(DecoderName)))
            raise ValueError(f"decoder={self.decoder!r} is unknown; use {known}")
        if self.decode_threads < 1:
            raise ValueError(f"decode_threads={self.decode_threads} must be at least 1")


class Decoder(Protocol):
    """Turns plans into batches, in order."""

    name: str

    def submit(self, plan: BatchPlan) -> None: ...

    def receive(self) -> tuple[torch.Tensor, BatchPlan]: ...

    def close(self) -> None: ...


class ImageStream:
    """An endless iterator over one rank's share of each global batch.

    Yields uint8 [share.local_batch, 3, R, R] on `device`, channels last in memory (NHWC,
    torch.channels_last), as decoders write and convolutions prefer them. Sample k, counted over
    all ranks, is image permutation(seed, purpose, k // n)(k % n), flipped left-right for half of
    all k if settings.mirror; rank r takes rows r * b .. (r + 1) * b - 1 of each global batch. The
    stream starts at sample `first_sample` and has no other state: to resume, open it at that
    sample. For a set in parts, each global batch has the same number of rows from every part,
    sorted by part (see order).

    catalog: from open_catalog; it must hold upright 8-bit RGB JPEG or PNG images in sRGB (or
    raw pixels) of resolution x resolution. purpose: separates streams of the same seed. prefetch:
    number of batches prepared ahead of the current one.

    Raises ValueError for inconsistent arguments, and DataError for unusable data.
    """

    def __init__(
        self,
        catalog: Catalog,
        settings: StreamSettings,
        share: BatchShare,
        *,
        seed: int,
        purpose: int,
        first_sample: int = 0,
        device: torch.device | str = "cpu",
        prefetch: int = 2,
    ) -> None:
        _check_start(catalog, settings.resolution, first_sample)
        if prefetch < 1:
            raise ValueError(f"prefetch={prefetch} must be at least 1")
        self._reader = SampleReader(
            catalog,
            resolution=settings.resolution,
            seed=seed,
            purpose=purpose,
            mirror=settings.mirror,
            max_bad_images=settings.max_bad_images,
        )
        self._share = share
        self._num_classes = catalog.num_classes
        self._rows = share.rows(catalog.num_parts)
        self._position = self._next_first = first_sample
        self._planned: deque[BatchPlan] = deque()
        self._plan: BatchPlan | None = None
        self._closed = False
        self._device = torch.device(device)
        self._clock = WaitClock(self._device)
        self._watch = StarvationWatch(
            catalog.warn_once,
            starvation_remedy(catalog, settings.resolution, settings.decode_threads),
            num_first=prefetch + 2,
        )
        self._decoder, num_ahead = self._make_decoder(
            settings.decoder, settings.decode_threads, prefetch
        )
        for _ in range(num_ahead):
            self._submit()

    def __iter__(self) -> ImageStream:
        return self

    def __next__(self) -> torch.Tensor:
        if self._closed:
            raise ValueError("the image stream is closed; open a new one at its position")
        self._clock.start()
        self._submit()
        images, self._plan = self._decoder.receive()
        self._clock.stop()
        self._watch.look(self._clock.seconds)
        self._position += self._share.global_batch
        return images

    @property
    def position(self) -> int:
        """Number of samples returned so far, over all ranks: the next first_sample."""
        return self._position

    @property
    def wait_seconds(self) -> float:
        """Time spent waiting for batches since the start, in seconds; see WaitClock."""
        return self._clock.seconds

    @property
    def num_bad_images(self) -> int:
        """Number of distinct bad images that this rank's stream has met."""
        return self._reader.num_bad_images

    @property
    def decoder_name(self) -> str:
        """The active decoder: "threads", "dali-cpu" or "dali-mixed"."""
        return self._decoder.name

    @property
    def indices(self) -> torch.Tensor:
        """Catalog indices of the last batch: int64 [b], substitutes included."""
        if self._plan is None:
            raise ValueError("no batch has been handed out yet")
        return torch.from_numpy(self._plan.indices.copy())

    @property
    def samples(self) -> torch.Tensor:
        """Sample numbers k of the last batch: int64 [b]."""
        if self._plan is None:
            raise ValueError("no batch has been handed out yet")
        return torch.from_numpy(self._plan.samples.copy())

    @property
    def labels(self) -> torch.Tensor | None:
        """One-hot classes of the last batch: float32 [b, num_classes] on the device.

        None if the catalog has no labels. Raises DataError if an image of the batch has none.
        """
        labels = self._reader.catalog.labels
        if labels is None or self._plan is None:
            return None
        chosen = labels[self._plan.indices].astype("int64")
        if chosen.min() < 0:
            raise DataError(
                f"{self._reader.catalog.source} has images without a class; label all of them"
            )
        # The classes are sent, not their rows, which are longer.
        classes = torch.from_numpy(chosen).to(self._device)
        numbers = torch.arange(self._num_classes, device=self._device)
        return (classes[:, None] == numbers).float()

    def close(self) -> None:
        """Ends the decoder's threads. The catalog stays open; closing twice is allowed."""
        if not self._closed:
            self._closed = True
            self._decoder.close()

    def __enter__(self) -> ImageStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _submit(self) -> None:
        if not self._planned:
            stride = self._share.global_batch
            self._planned += self._reader.plans(self._next_first, self._rows, stride)
            self._next_first += len(self._planned) * stride
        self._decoder.submit(self._planned.popleft())

    def _make_decoder(
        self, wanted: DecoderName, num_threads: int, prefetch: int
    ) -> tuple[Decoder, int]:
        """The decoder, and the number of batches to submit to it before the first is received."""
        on_cpu = self._device.type == "cpu"
        threads_are_cheaper = wanted == "auto" and on_cpu and _mostly_jpeg(self._reader.catalog)
        if threads_are_cheaper:
            problem = "without a GPU they cost less CPU time for JPEG than DALI"
        elif wanted == "threads":
            problem = "decoder='threads' was requested"
        else:
            problem = self._why_not_dali()
        if problem is None:
            try:
                return self._start_dali(num_threads, prefetch)
            except (RuntimeError, ImportError, OSError) as error:
                problem = f"DALI does not start: {error}"
        if wanted == "dali":
            raise ValueError(f"decoder='dali' cannot run: {problem}; use decoder='threads'")
        is_fallback = (
            wanted == "auto" and self._reader.catalog.raw is None and not threads_are_cheaper
        )
        level = logging.WARNING if is_fallback else logging.INFO
        _log_choice(level, f"decoding with threads (simplejpeg, Pillow): {problem}")
        threads = ThreadDecoder(self._reader, device=self._device, num_threads=num_threads)
        return threads, prefetch

    def _start_dali(self, num_threads: int, prefetch: int) -> tuple[Decoder, int]:
        # One batch more than with threads: DALI decodes only batches that have been read.
        depth = prefetch + 1
        dali = DaliDecoder(
            self._reader,
            device=self._device,
            num_threads=num_threads,
            batch=self._share.local_batch,
            depth=depth,
        )
        _log_choice(logging.INFO, f"decoding with DALI ({dali.name})")
        return dali, depth

    def _why_not_dali(self) -> str | None:
        if self._reader.catalog.raw is not None:
            return "raw pixels need no decoder"
        return why_not_available()


def _check_start(catalog: Catalog, resolution: int, first_sample: int) -> None:
    if catalog.raw is not None and catalog.raw.shape[1:] != (resolution, resolution):
        raise DataError(
            f"{catalog.source} holds raw images of shape {catalog.raw.shape}, training needs "
            f"resolution={resolution}; prepare it again with --resolution {resolution}"
        )
    if first_sample < 0:
        raise ValueError(f"first_sample={first_sample} must not be negative")
    if first_sample % catalog.num_parts:
        raise ValueError(
            f"first_sample={first_sample} is not divisible by the {catalog.num_parts} parts of "
            f"{catalog.source}; start at a whole batch"
        )


def _mostly_jpeg(catalog: Catalog) -> bool:
    """Whether most of a few images sampled across the set are JPEG."""
    starts = []
    for position in range(_NUM_PROBES):
        with contextlib.suppress(BadImage):
            starts.append(catalog.read_head(position * len(catalog) // _NUM_PROBES, 2))
    return 2 * starts.count(JPEG_SIGNATURE) > len(starts)


@functools.cache
def _log_choice(level: int, message: str) -> None:
    """Log each message once per process, since a run opens several streams."""
    logger.log(level, message)
