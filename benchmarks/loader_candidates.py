"""The loaders that benchmarks/loader.py compares, each run in a separate process.

Every candidate yields uint8 [B, 3, R, R] batches, channels last, of the same images in some
shuffled order, half of them flipped, each in the cheapest way that its library allows.
`python benchmarks/loader_candidates.py JSON` runs one case and prints its figures.
"""

from __future__ import annotations

import importlib
import io
import itertools
import json
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from realness.data_pipeline import BatchShare, ImageStream, StreamSettings, open_catalog


@dataclass(frozen=True)
class Case:
    """One measurement: a loader on a prepared set (`packed`) or its images as files (`files`)."""

    loader: str
    packed: str
    files: str
    resolution: int
    format: str
    batch: int
    threads: int
    seconds: float
    device: str


@dataclass(frozen=True)
class Figures:
    """images/s (wall clock), CPU milliseconds per image over all processes, and their memory."""

    img_per_s: float
    cpu_ms: float
    rss_mib: float
    num_images: int


def _ours(case: Case, decoder: str) -> Iterator[torch.Tensor]:
    settings = StreamSettings(
        case.resolution,
        mirror=True,
        decoder=decoder,  # type: ignore[arg-type]
        decode_threads=case.threads,
    )
    with ImageStream(
        open_catalog(case.packed),
        settings,
        BatchShare(case.batch),
        seed=1,
        purpose=1,
        device=case.device,
    ) as stream:
        yield from stream


class FileDataset(torch.utils.data.Dataset[torch.Tensor]):
    """The common way: one file per image, decoded in a worker process."""

    def __init__(self, case: Case, decode: Callable[[bytes], np.ndarray]) -> None:
        self._paths = sorted(Path(case.files).iterdir())
        self._decode = decode

    def __len__(self) -> int:
        # Repeated, so that short sets do not measure the restart of workers.
        return len(self._paths) * 10_000

    def __getitem__(self, index: int) -> torch.Tensor:
        return _flipped(self._decode(self._paths[index % len(self._paths)].read_bytes()))


def _flipped(pixels: np.ndarray) -> torch.Tensor:
    """[R, R, 3], flipped or not, by PyTorch, whose flip is many times faster than NumPy's here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        image = torch.from_numpy(pixels)
    return image.flip(1) if random.random() < 0.5 else image


def _channels_first(batches: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    """View [B, R, R, 3] as [B, 3, R, R]."""
    return (batch.permute(0, 3, 1, 2) for batch in batches)


def _decode_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _decode_simplejpeg(data: bytes) -> np.ndarray:
    import simplejpeg

    return simplejpeg.decode_jpeg(data, colorspace="RGB")


def _decode_raw(data: bytes) -> np.ndarray:
    side = round((len(data) // 3) ** 0.5)
    return np.frombuffer(data, np.uint8).reshape(side, side, 3)


def _dataloader(case: Case, decode: Callable[[bytes], np.ndarray]) -> Iterator[torch.Tensor]:
    loader = torch.utils.data.DataLoader(
        FileDataset(case, decode),
        case.batch,
        shuffle=True,
        num_workers=case.threads,
        drop_last=True,
        pin_memory=case.device == "cuda",
    )
    yield from _channels_first(iter(loader))


def _webdataset(case: Case) -> Iterator[torch.Tensor]:
    webdataset: Any = importlib.import_module("webdataset")
    decoders = {"png": _decode_pillow, "jpeg": _decode_simplejpeg, "raw": _decode_raw}
    decode = decoders[case.format]
    shards = sorted(str(path) for path in Path(case.packed).glob("*.tar"))
    dataset = (
        webdataset.WebDataset(shards, resampled=True, shardshuffle=False, nodesplitter=None)
        .shuffle(100)
        .map(lambda sample: _flipped(decode(sample[case.format])))
        .batched(case.batch, collation_fn=torch.stack)
    )
    loader = webdataset.WebLoader(
        dataset, batch_size=None, num_workers=case.threads, pin_memory=case.device == "cuda"
    )
    yield from _channels_first(iter(loader))


def _streaming(case: Case) -> Iterator[torch.Tensor]:
    streaming: Any = importlib.import_module("streaming")
    local = Path(case.packed).with_name(Path(case.packed).name + "-mds")
    decoders = {"png": _decode_pillow, "jpeg": _decode_simplejpeg, "raw": _decode_raw}
    catalog = open_catalog(case.packed)
    if not local.exists():
        with streaming.MDSWriter(out=str(local), columns={"image": "bytes"}) as writer:
            for index in range(len(catalog)):
                writer.write({"image": catalog.read(index)})

    class Decoded(streaming.StreamingDataset):
        def __getitem__(self, at: Any) -> torch.Tensor:
            return _flipped(decoders[case.format](super().__getitem__(at)["image"]))

    # Repeated, so that short sets do not measure the restart of workers.
    repeated = len(catalog) * 1000
    dataset = Decoded(local=str(local), shuffle=True, batch_size=case.batch, epoch_size=repeated)
    loader = torch.utils.data.DataLoader(
        dataset,
        case.batch,
        num_workers=case.threads,
        drop_last=True,
        pin_memory=case.device == "cuda",
    )
    yield from _channels_first(iter(loader))


def _bare(case: Case) -> Iterator[list[None]]:
    """The decoder alone: one thread, bytes in memory, pixels discarded."""
    catalog = open_catalog(case.packed)
    encoded = [catalog.read(index) for index in range(len(catalog))]
    decoders = {"png": _decode_pillow, "jpeg": _decode_simplejpeg, "raw": bytearray}
    decode = decoders[case.format]
    rows = itertools.cycle(encoded)
    while True:
        for data in itertools.islice(rows, case.batch):
            decode(data)
        yield [None] * case.batch


LOADERS: dict[str, Callable[[Case], Iterator[Any]]] = {
    "bare decoder": _bare,
    "ours, threads": lambda case: _ours(case, "threads"),
    "ours, DALI": lambda case: _ours(case, "dali"),
    "DataLoader + Pillow": lambda case: _dataloader(case, _decode_pillow),
    "DataLoader + simplejpeg": lambda case: _dataloader(case, _decode_simplejpeg),
    "DataLoader + memory copy": lambda case: _dataloader(case, _decode_raw),
    "webdataset": _webdataset,
    "mosaicml-streaming": _streaming,
}


def measure(case: Case) -> Figures:
    """Runs one case: warms up, measures for about `seconds`, and checks the output.

    With the device "cuda" the batches of every loader end in the device's memory: for loaders that
    yield CPU batches by a copy from pinned memory behind the running loader. The batches of the
    bare decoder are not copied.
    """
    batches = LOADERS[case.loader](case)
    if case.device == "cuda" and case.loader != "bare decoder":
        batches = (batch.to("cuda", non_blocking=True) for batch in batches)
    for _ in range(4):
        _check(next(batches), case)
    started, cpu = time.perf_counter(), _cpu_seconds()
    num_batches, rss = 0, 0.0
    while time.perf_counter() - started < case.seconds:
        next(batches)
        num_batches += 1
    if case.device == "cuda":
        torch.cuda.synchronize()
    elapsed, cpu = time.perf_counter() - started, _cpu_seconds() - cpu
    rss = sum(process.memory_full_info().pss for process in _processes()) / 1024**2
    batches.close()  # type: ignore[attr-defined]
    count = num_batches * case.batch
    return Figures(count / elapsed, cpu / count * 1000, rss, count)


def _check(batch: Any, case: Case) -> None:
    if case.loader == "bare decoder":
        return
    expected = (case.batch, 3, case.resolution, case.resolution)
    fits = tuple(batch.shape) == expected and batch.dtype == torch.uint8 and batch.any()
    if not fits or not batch.is_contiguous(memory_format=torch.channels_last):
        raise SystemExit(
            f"{case.loader} gave {batch.dtype} {tuple(batch.shape)} of strides {batch.stride()}, "
            f"not uint8 {expected}, channels last"
        )


def _processes() -> list[psutil.Process]:
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def _cpu_seconds() -> float:
    """User and system time of this process and its workers, including those that have ended."""
    times = [process.cpu_times() for process in _processes()]
    ended = times[0].children_user + times[0].children_system
    return ended + sum(t.user + t.system for t in times)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(asdict(measure(Case(**json.loads(sys.argv[1]))))))
