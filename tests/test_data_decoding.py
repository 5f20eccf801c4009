"""Decoded pixels, the stream's order over ranks and resumption, accounting and shutdown."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from data_images import encoded, image_files, picture, write_folder, write_tar, write_zip
from PIL import Image

from realness.data_pipeline import Catalog, ImageStream, open_catalog
from realness.data_pipeline.order import mirror_flags, sample_indices

SIZE = 32


def open_stream(catalog: Catalog, **changes: object) -> ImageStream:
    arguments: dict[str, object] = {
        "resolution": SIZE, "global_batch": 8, "rank": 0, "world_size": 1, "seed": 7,
        "purpose": 1, "mirror": True, "first_sample": 0, "decoder": "threads",
        "device": torch.device("cpu"), "num_threads": 2, "max_bad_images": 0,
    }  # fmt: skip
    return ImageStream(catalog, **(arguments | changes))  # type: ignore[arg-type]


def take(stream: ImageStream, count: int) -> torch.Tensor:
    with stream:
        return torch.cat([next(stream) for _ in range(count)])


def pillow_pixels(data: bytes, path: Path) -> np.ndarray:
    path.write_bytes(data)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """JPEG (4:2:0, 4:4:4, progressive) and PNG (plain, interlaced, with a gamma chunk)."""
    files = {}
    for seed in range(24):
        image = picture(seed, SIZE)
        files[f"{seed:02d}.jpg"] = [
            lambda im: encoded(im, quality=90),
            lambda im: encoded(im, quality=95, subsampling=0),
            lambda im: encoded(im, quality=80, progressive=True),
        ][seed % 3](image)
        files[f"{seed:02d}.png"] = encoded(image, "PNG", dpi=(72, 72), compress_level=seed % 10)
    return open_catalog(write_folder(tmp_path_factory.mktemp("mixed"), files))


def test_pixels_are_pillows_in_the_stated_order_and_flips(mixed: Catalog, tmp_path: Path) -> None:
    samples = np.arange(3 * 16)
    images = take(open_stream(mixed, global_batch=16), 3)
    indices = sample_indices(samples, len(mixed), seed=7, purpose=1)
    flips = mirror_flags(samples, seed=7, purpose=1)
    assert sorted(indices) == list(range(len(mixed)))
    assert images.dtype == torch.uint8
    assert images.is_contiguous()
    for image, index, flip in zip(images.numpy(), indices, flips, strict=True):
        expected = pillow_pixels(mixed.read(int(index)), tmp_path / "image")
        assert np.array_equal(image, expected[..., ::-1] if flip else expected)


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


def test_resuming_at_any_sample_continues_exactly(mixed: Catalog) -> None:
    with open_stream(mixed) as stream:
        first = [next(stream) for _ in range(4)]
        position = stream.position
        rest = torch.cat([next(stream) for _ in range(4)])
    assert position == 32
    assert len(first) == 4
    assert torch.equal(take(open_stream(mixed, first_sample=position), 4), rest)
    # Also under another batch size, at a count that no batch of it would end on.
    assert torch.equal(take(open_stream(mixed, first_sample=36, global_batch=4), 7), rest[4:])


def test_resuming_far_into_a_run_is_quick(mixed: Catalog) -> None:
    started = time.perf_counter()
    take(open_stream(mixed, first_sample=10**15), 1)
    assert time.perf_counter() - started < 1


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


def test_wait_seconds_is_the_time_the_consumer_waited(
    mixed: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Catalog.read

    def slow_read(self: Catalog, index: int) -> bytes:
        time.sleep(0.01)
        return read(self, index)

    monkeypatch.setattr(Catalog, "read", slow_read)
    with open_stream(mixed, num_threads=1, prefetch=1) as stream:
        started = time.perf_counter()
        for _ in range(4):
            next(stream)
        elapsed = time.perf_counter() - started
        starved = stream.wait_seconds
        # One thread at 10 ms an image: a consumer that does nothing waits nearly all the time.
        assert 0.8 * elapsed < starved <= elapsed
        time.sleep(0.5)
        next(stream)
        assert stream.wait_seconds - starved < 0.05


def test_closing_leaves_no_thread_and_is_idempotent(mixed: Catalog) -> None:
    before = set(threading.enumerate())
    stream = open_stream(mixed, num_threads=4)
    next(stream)
    assert set(threading.enumerate()) != before
    stream.close()
    stream.close()
    assert set(threading.enumerate()) == before
    with pytest.raises(ValueError, match="closed"):
        next(stream)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_batch": 30, "world_size": 8}, "global_batch=30 is not divisible.*use 32"),
        ({"rank": 2, "world_size": 2}, "rank=2"),
        ({"first_sample": -1}, "first_sample=-1"),
        ({"num_threads": 0}, "num_threads=0"),
        ({"decoder": "magic"}, "decoder='magic'"),
    ],
)
def test_bad_arguments(mixed: Catalog, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_stream(mixed, **changes)
