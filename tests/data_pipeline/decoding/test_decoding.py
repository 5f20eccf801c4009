"""Decoded pixels, the stream's order over ranks and resumption, accounting and shutdown."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image, PngImagePlugin

from realness.data_pipeline import Catalog, ImageStream, open_catalog
from realness.data_pipeline.order import mirror_flags, sample_indices
from tests.helpers.data_images import (
    encoded,
    image_files,
    picture,
    write_folder,
    write_tar,
    write_zip,
)
from tests.helpers.streams import stream_of

SIZE = 32
needs_dali = pytest.mark.skipif(
    importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None,
    reason="DALI is not installed",
)
DECODERS = ["threads", pytest.param("dali", marks=needs_dali)]


def open_stream(catalog: Catalog, **changes: object) -> ImageStream:
    arguments: dict[str, object] = {
        "resolution": SIZE, "global_batch": 8, "rank": 0, "world_size": 1, "seed": 7,
        "purpose": 1, "mirror": True, "first_sample": 0, "decoder": "threads",
        "device": torch.device("cpu"), "decode_threads": 2, "max_bad_images": 0,
    }  # fmt: skip
    return stream_of(catalog, **(arguments | changes))  # type: ignore[arg-type]


def take(stream: ImageStream, count: int) -> torch.Tensor:
    with stream:
        return torch.cat([next(stream) for _ in range(count)])


def pillow_pixels(data: bytes, path: Path) -> np.ndarray:
    path.write_bytes(data)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """JPEG (4:2:0, 4:4:4, progressive) and PNG (with sRGB's gamma)."""
    gamma = PngImagePlugin.PngInfo()
    gamma.add(b"gAMA", (45_455).to_bytes(4, "big"))
    files = {}
    for seed in range(24):
        image = picture(seed, SIZE)
        files[f"{seed:02d}.jpg"] = [
            lambda im: encoded(im, quality=90),
            lambda im: encoded(im, quality=95, subsampling=0),
            lambda im: encoded(im, quality=80, progressive=True),
        ][seed % 3](image)
        files[f"{seed:02d}.png"] = encoded(image, "PNG", pnginfo=gamma, compress_level=seed % 10)
    return open_catalog(write_folder(tmp_path_factory.mktemp("mixed"), files))


@pytest.mark.parametrize("decoder", DECODERS)
def test_pixels_are_pillows_in_the_stated_order_and_flips(
    mixed: Catalog, tmp_path: Path, decoder: str
) -> None:
    samples = np.arange(3 * 16)
    images = take(open_stream(mixed, global_batch=16, decoder=decoder), 3)
    indices = sample_indices(samples, len(mixed), seed=7, purpose=1)
    flips = mirror_flags(samples, seed=7, purpose=1)
    assert sorted(indices) == list(range(len(mixed)))
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    for image, index, flip in zip(images.numpy(), indices, flips, strict=True):
        expected = pillow_pixels(mixed.read(int(index)), tmp_path / "image")
        assert np.array_equal(image, expected[..., ::-1] if flip else expected)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("size", [1, 28, 30, 33])
def test_flips_at_any_width(tmp_path: Path, size: int, decoder: str) -> None:
    """Rows of 3, 84, 90 and 99 bytes are reversed in words of 1, 4, 2 and 1 bytes."""
    files = image_files(8, size) | image_files(8, size, "PNG")
    catalog = open_catalog(write_folder(tmp_path / "set", files))
    with open_stream(catalog, resolution=size, global_batch=16, decoder=decoder) as stream:
        images = next(stream).numpy()
        flips = mirror_flags(np.arange(16), seed=7, purpose=1)
        assert 0 < flips.sum() < 16
        for image, index, flip in zip(images, stream.indices, flips, strict=True):
            expected = pillow_pixels(catalog.read(int(index)), tmp_path / "image")
            assert np.array_equal(image, expected[..., ::-1] if flip else expected)


@needs_dali
@pytest.mark.parametrize("prefetch", [1, 2, 4])
def test_dali_and_threads_give_the_same_stream(mixed: Catalog, prefetch: int) -> None:
    arguments = {"global_batch": 6, "rank": 1, "world_size": 2, "first_sample": 11}
    with (
        open_stream(mixed, decoder="threads", **arguments) as threads,
        open_stream(mixed, decoder="dali", prefetch=prefetch, **arguments) as dali,
    ):
        assert (threads.decoder_name, dali.decoder_name) == ("threads", "dali-cpu")
        batches = [(next(threads), next(dali)) for _ in range(20)]
        assert threads.position == dali.position
    # Compared after the end: a batch stays valid, however many follow it.
    for expected, found in batches:
        assert found.stride() == expected.stride()
        assert torch.equal(expected, found)


@needs_dali
def test_auto_takes_dali_and_falls_back_loudly(
    mixed: Catalog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with open_stream(mixed, decoder="auto") as stream:
        assert stream.decoder_name == "dali-cpu"
        expected = next(stream)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with caplog.at_level(logging.WARNING, "realness.data"):
        for _ in range(2):
            with open_stream(mixed, decoder="auto") as stream:
                assert stream.decoder_name == "threads"
                assert torch.equal(next(stream), expected)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "nvidia.dali" in caplog.records[0].getMessage()
    with pytest.raises(ValueError, match=r"decoder='dali' cannot run.*use decoder='threads'"):
        open_stream(mixed, decoder="dali")


@needs_dali
def test_dali_that_fails_batch_after_batch_ends_the_run(
    mixed: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU decoders cover for single failures; a broken driver must not go unnoticed."""
    expected = take(open_stream(mixed), 9)
    with open_stream(mixed, decoder="dali") as stream:
        images = [next(stream)]
        with monkeypatch.context() as broken:

            def fail(*_: object, **__: object) -> None:
                raise RuntimeError("device lost")

            broken.setattr("nvidia.dali.Pipeline.share_outputs", fail)
            images += [next(stream) for _ in range(4)]
        images.append(next(stream))  # counts from the start again after a good one
        monkeypatch.setattr("nvidia.dali.Pipeline.share_outputs", fail)
        images += [next(stream) for _ in range(3)]
        assert torch.equal(torch.cat(images), expected)
        next(stream)
        with pytest.raises(RuntimeError, match=r"5 batches in a row.*device lost.*threads"):
            next(stream)


def test_auto_decodes_jpeg_by_threads_without_a_gpu(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DALI costs more there; this is a choice, not a fallback, so there is no warning."""
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    catalog = open_catalog(write_folder(tmp_path, image_files(20) | {"0/000.jpg": b"<html>"}))
    with open_stream(catalog, decoder="auto", max_bad_images=1) as stream:
        assert stream.decoder_name == "threads"
    # The bad image may not have been logged yet, depending on the threads' progress.
    noise = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert not [line for line in noise if not line.startswith("bad image")]


def test_every_source_gives_the_same_stream(tmp_path: Path) -> None:
    files = {name.replace("/", "_"): data for name, data in image_files(12).items()}
    ordered = dict(sorted(files.items()))
    catalogs = [
        open_catalog(write_folder(tmp_path / "folder", ordered)),
        open_catalog(write_zip(tmp_path / "set.zip", ordered)),
        open_catalog(write_tar(tmp_path / "set.tar", ordered)),
    ]
    batches = [take(open_stream(catalog), 3) for catalog in catalogs]
    assert torch.equal(batches[0], batches[1])
    assert torch.equal(batches[0], batches[2])


@pytest.mark.parametrize("world_size", [2, 3, 4, 8])
def test_ranks_share_the_same_global_batches(mixed: Catalog, world_size: int) -> None:
    arguments = {"global_batch": 24, "first_sample": 17}
    whole = take(open_stream(mixed, **arguments), 3)
    shares = [
        take(open_stream(mixed, rank=rank, world_size=world_size, **arguments), 3)
        for rank in range(world_size)
    ]
    local = 24 // world_size
    joined = torch.cat([s.reshape(3, local, 3, SIZE, SIZE) for s in shares], dim=1)
    assert torch.equal(joined.reshape(whole.shape), whole)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_batch_that_is_held_never_changes(mixed: Catalog, decoder: str) -> None:
    """Memory is reused only after a batch, its slices and its NumPy views are all released."""
    with open_stream(mixed, decoder=decoder) as stream:
        held: list[tuple[torch.Tensor | np.ndarray, torch.Tensor]] = []
        for step in range(40):
            batch = next(stream)
            values = batch.permute(0, 2, 3, 1).view(-1)
            kept = [batch, batch[2:5], batch.numpy(), values[::3], None][step % 5]
            if kept is not None:
                held.append((kept, torch.as_tensor(kept).clone()))
            del batch, values, kept
        for kept, copy in held:
            assert torch.equal(torch.as_tensor(kept), copy)


def test_memory_of_dropped_batches_is_used_again(mixed: Catalog) -> None:
    with open_stream(mixed) as stream:
        addresses = {next(stream).data_ptr() for _ in range(50)}
    assert len(addresses) <= 5


def test_resuming_at_any_sample_continues_exactly(mixed: Catalog) -> None:
    with open_stream(mixed) as stream:
        first = [next(stream) for _ in range(4)]
        position = stream.position
        rest = torch.cat([next(stream) for _ in range(4)])
    assert position == 32
    assert len(first) == 4
    assert torch.equal(take(open_stream(mixed, first_sample=position), 4), rest)
    # Also with another batch size, at a count that is not a multiple of it.
    assert torch.equal(take(open_stream(mixed, first_sample=36, global_batch=4), 7), rest[4:])


def test_resuming_far_into_a_run_walks_through_nothing(
    mixed: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stepping through 10^15 samples one by one would take years."""
    read, num_reads = Catalog.read, [0]

    def counted(self: Catalog, index: int) -> bytes:
        num_reads[0] += 1
        return read(self, index)

    monkeypatch.setattr(Catalog, "read", counted)
    take(open_stream(mixed, first_sample=10**15), 1)
    assert 0 < num_reads[0] < 200


def test_each_epoch_shows_every_image_once_over_all_ranks(mixed: Catalog) -> None:
    size = len(mixed)
    seen: list[int] = []
    for rank in range(3):
        with open_stream(mixed, rank=rank, world_size=3, global_batch=12) as stream:
            for _ in range(2 * size // 12):
                next(stream)
                seen += stream.indices.tolist()
    assert np.array_equal(np.bincount(seen), np.full(size, 2))


def test_purposes_and_seeds_are_separate_streams(mixed: Catalog) -> None:
    digests = {
        hashlib.sha256(take(open_stream(mixed, **change), 1).numpy().tobytes()).hexdigest()
        for change in ({}, {"purpose": 2}, {"seed": 8}, {"mirror": False})
    }
    assert len(digests) == 4


def test_labels_follow_their_images(tmp_path: Path) -> None:
    files = image_files(9)
    labels: list[list[object]] = [[name, i % 4] for i, name in enumerate(files)]
    catalog = open_catalog(write_zip(tmp_path / "d.zip", files, labels=labels))
    with open_stream(catalog, global_batch=6) as stream:
        for _ in range(3):
            next(stream)
            one_hot = stream.labels
            assert one_hot is not None
            assert one_hot.shape == (6, 4)
            expected = [catalog.label(int(i)) for i in stream.indices]
            assert one_hot.argmax(1).tolist() == expected
            assert torch.equal(one_hot.sum(1), torch.ones(6))


def num_system_threads() -> int:
    """Threads of this process as the kernel counts them, native ones included."""
    return len(os.listdir("/proc/self/task"))


@pytest.mark.parametrize("decoder", DECODERS)
def test_closing_leaves_no_thread_and_is_idempotent(mixed: Catalog, decoder: str) -> None:
    take(open_stream(mixed, decoder=decoder), 1)  # libraries start threads once
    before, native_before = set(threading.enumerate()), num_system_threads()
    stream = open_stream(mixed, decode_threads=4, decoder=decoder)
    next(stream)
    assert set(threading.enumerate()) != before
    stream.close()
    stream.close()
    assert set(threading.enumerate()) == before
    deadline = time.perf_counter() + 60  # the kernel lists a joined thread a moment longer
    while num_system_threads() > native_before and time.perf_counter() < deadline:
        time.sleep(0.01)
    assert num_system_threads() <= native_before
    with pytest.raises(ValueError, match="closed"):
        next(stream)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_batch": 30, "world_size": 8}, "global_batch=30 is not divisible.*use 32"),
        ({"rank": 2, "world_size": 2}, "rank=2"),
        ({"first_sample": -1}, "first_sample=-1"),
        ({"decode_threads": 0}, "decode_threads=0"),
        ({"decoder": "magic"}, "decoder='magic'"),
    ],
)
def test_bad_arguments(mixed: Catalog, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_stream(mixed, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
def test_memory_stays_flat_over_2000_batches(mixed: Catalog, decoder: str) -> None:
    process = psutil.Process()
    with open_stream(mixed, decoder=decoder, global_batch=16) as stream:
        sizes = []
        for step in range(2000):
            next(stream)
            if step % 100 == 99:
                sizes.append(process.memory_info().rss)
    # The first batches still fill pools; after that a leak of one image per batch (3 KiB) shows.
    growth = np.polyfit(np.arange(15), sizes[5:], 1)[0] / 100
    assert growth < 1024, f"{growth:.0f} bytes per batch: {sizes}"
