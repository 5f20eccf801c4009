"""Decoding by NVIDIA DALI: on the CPU, or `mixed` (JPEG on the GPU, PNG on the CPU and copied).

DALI only decodes, and flips on the GPU. Order, position, bad images and reading are handled
outside DALI, so its state is never saved and both decoders give the same stream. Encoded bytes go
in through `feed_input`; uint8 batches come out through DLPack without a copy, channels last as the
decoders write them. A batch belongs to its holder: under DALI's default executor (exec_dynamic) its
memory returns to DALI when the tensor is dropped, not at release_outputs.

On the CPU the pixels equal the thread decoder's bit for bit. nvJPEG rounds its inverse DCT and
its chroma upsampling differently; `jpeg_fancy_upsampling` selects libjpeg's upsampling, and a test
on a GPU checks that pixels differ by at most 4 of 255 levels, and by 0.5 on average. All JPEGs that
the GPU's decoding engine can read go there (hw_decoder_load 1): by default DALI gives a part of
each batch to CUDA kernels, which round differently, so that an image's pixels would depend on its
batch and hence on the number of ranks.

DALI decodes a JPEG that is damaged between intact markers without an error, where simplejpeg
rejects it. Sources with a CRC-32 (prepared shards, zip) detect such damage; plain folders do not.
"""

from __future__ import annotations

import importlib.util
import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from realness.data_pipeline.decoding.decode import check_image, decode_into
from realness.data_pipeline.decoding.sample_reader import BatchPlan, SampleReader

logger = logging.getLogger("realness.data")
_MAX_READ_THREADS = 4
_STRIP_ROWS = 256
# DALI may reject an image that decodes elsewhere; several failed batches in a row mean that DALI
# itself is broken.
_MAX_FAILURES_IN_A_ROW = 5


def why_not_available() -> str | None:
    """The reason why DALI cannot run here, or None if it can. Does not import DALI."""
    try:
        found = importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:
        found = False
    return None if found else "nvidia.dali is not installed (install the extra `dali`)"


@dataclass
class _Pending:
    """A batch in progress: its plan and its encoded rows, which are read in pieces."""

    plan: BatchPlan
    futures: list[Future[list[npt.NDArray[np.uint8]]]]

    def encoded(self) -> list[npt.NDArray[np.uint8]]:
        return [row for future in self.futures for row in future.result()]


class DaliDecoder:
    """Reads ahead in threads and keeps DALI's queue filled. See the module's docstring.

    submit adds a batch and receive returns the oldest. At least `depth` batches must be submitted
    before the first receive, and one more before each later one.
    """

    def __init__(
        self,
        reader: SampleReader,
        *,
        device: torch.device,
        num_threads: int,
        batch: int,
        depth: int,
    ) -> None:
        self._reader, self._device, self._depth = reader, device, depth
        self._mixed = device.type == "cuda"
        self.name = "dali-mixed" if self._mixed else "dali-cpu"
        self._batch, self._num_threads = batch, num_threads
        self._unfed: deque[_Pending] = deque()
        # On the CPU DALI reads the arrays in place: they are kept until the batch is received.
        self._fed: deque[tuple[_Pending, list[npt.NDArray[np.uint8]]]] = deque()
        self._started = False
        self._failures_in_a_row = 0
        self._pipeline: Any = self._build()
        self._pool = ThreadPoolExecutor(
            min(num_threads, _MAX_READ_THREADS), thread_name_prefix="realness-read"
        )

    def submit(self, plan: BatchPlan) -> None:
        """Starts reading a batch's files."""
        count = len(plan.samples)
        piece = max(1, -(-count // (2 * _MAX_READ_THREADS)))
        futures = [
            self._pool.submit(self._read_rows, plan, range(start, min(start + piece, count)))
            for start in range(0, count, piece)
        ]
        self._unfed.append(_Pending(plan, futures))

    def receive(self) -> tuple[torch.Tensor, BatchPlan]:
        """The oldest batch: uint8 [b, 3, R, R], channels last.

        Raises any error from reading, and RuntimeError if DALI fails on several batches in a row.
        """
        self._feed()
        # With torch's stream, the batch's memory returns to DALI only after the kernels that read
        # it; without the stream it would return as soon as Python drops the tensor.
        stream = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None
        failure = ""
        try:
            (output,) = self._pipeline.share_outputs(cuda_stream=stream)
            images = torch.from_dlpack(output.as_tensor()).permute(0, 3, 1, 2)
            self._pipeline.release_outputs()
        except RuntimeError as error:
            failure = str(error)
        pending, _ = self._fed.popleft()
        if failure:
            # Outside the handler, because the traceback keeps the broken pipeline alive until then.
            images = self._decode_elsewhere(pending.plan, failure)
            self._restart()
            return images, pending.plan
        self._failures_in_a_row = 0
        if not self._mixed:
            _flip_rows(images, pending.plan.mirror)
        return images, pending.plan

    def close(self) -> None:
        """Ends the reading threads and destroys the pipeline with its threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._unfed.clear()
        self._pipeline = None
        self._fed.clear()

    def _build(self) -> Any:
        from nvidia.dali import fn, pipeline_def, types

        size = self._reader.resolution
        mixed = self._mixed
        options: dict[str, Any] = {"device": "mixed" if mixed else "cpu"}
        if mixed:
            options |= {"preallocate_width_hint": size, "preallocate_height_hint": size}
            options |= {"jpeg_fancy_upsampling": True, "hw_decoder_load": 1.0}
        uint8, int32 = types.DALIDataType.UINT8, types.DALIDataType.INT32

        @pipeline_def
        def decode() -> Any:
            encoded = fn.external_source(
                name="encoded", dtype=uint8, ndim=1, batch=True, no_copy=not mixed
            )
            pixels = fn.decoders.image(
                encoded,
                output_type=types.DALIImageType.RGB,
                **options,
            )
            if not mixed:
                return pixels
            mirror = fn.external_source(name="mirror", dtype=int32, ndim=0, batch=True)
            return fn.flip(pixels, horizontal=mirror)

        pipeline = decode(
            batch_size=self._batch,
            num_threads=self._num_threads,
            device_id=_device_index(self._device),
            prefetch_queue_depth=self._depth,
            seed=0,
        )
        pipeline.build()
        return pipeline

    def _feed(self) -> None:
        """Fills DALI's queue. The first schedule_run starts a whole queue, later ones one batch."""
        while len(self._fed) < self._depth:
            pending = self._unfed[0]
            encoded = pending.encoded()
            self._unfed.popleft()
            self._pipeline.feed_input("encoded", encoded)
            if self._mixed:
                self._pipeline.feed_input("mirror", pending.plan.mirror.astype(np.int32))
            self._fed.append((pending, encoded))
            if self._started:
                self._pipeline.schedule_run()
        if not self._started:
            self._started = True
            self._pipeline.schedule_run()

    def _restart(self) -> None:
        """Replaces a failed pipeline by a new one and feeds its batches again."""
        self._unfed.extendleft(pending for pending, _ in reversed(self._fed))
        self._fed.clear()
        self._pipeline = None
        self._started = False
        self._pipeline = self._build()

    def _decode_elsewhere(self, plan: BatchPlan, failure: str) -> torch.Tensor:
        """Decodes a batch that DALI rejected, image by image, and replaces the bad image."""
        known = self._reader.num_bad_images
        size = self._reader.resolution
        images = torch.empty((len(plan.samples), size, size, 3), dtype=torch.uint8)
        for row, out in enumerate(images.numpy()):
            mirror = bool(plan.mirror[row])
            self._reader.load(plan, row, partial(decode_into, out=out, mirror=mirror))
        if self._reader.num_bad_images == known:
            self._failures_in_a_row += 1
            if self._failures_in_a_row == _MAX_FAILURES_IN_A_ROW:
                raise RuntimeError(
                    f"DALI ({self.name}) failed on {_MAX_FAILURES_IN_A_ROW} batches in a row whose "
                    f"images decode elsewhere: {failure.strip()}; use decoder='threads'"
                )
            names = ", ".join(self._reader.catalog.name(int(index)) for index in plan.indices)
            logger.warning(
                "DALI rejected one of %s, which decode elsewhere: %s", names, failure.strip()
            )
        return images.permute(0, 3, 1, 2).to(self._device)

    def _read_rows(self, plan: BatchPlan, rows: Sequence[int]) -> list[npt.NDArray[np.uint8]]:
        return [self._reader.load(plan, row, self._checked) for row in rows]

    def _checked(self, data: bytes) -> npt.NDArray[np.uint8]:
        check_image(data, self._reader.resolution)
        return np.frombuffer(data, np.uint8)


def _flip_rows(images: torch.Tensor, mirror: npt.NDArray[np.bool_]) -> None:
    """Flips rows of a batch in main memory in place.

    DALI's own flip on the CPU also copies the images that are not flipped, and costs a quarter of
    the decoding time. Strips of an image stay in the processor's cache between the two copies.
    """
    for row in np.flatnonzero(mirror):
        for strip in images[row : row + 1].split(_STRIP_ROWS, dim=2):
            strip.copy_(strip.flip(3))


def _device_index(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    return torch.cuda.current_device() if device.index is None else device.index
