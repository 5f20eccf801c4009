"""Batches in a GPU's memory: DALI's `mixed` decoder and the threads' copies.

One command tests this path on a machine with a device:
REALNESS_REQUIRE_GPU=1 python -m pytest tests/data_pipeline/decoding/test_gpu_decoding.py
"""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from realness.data_pipeline import Catalog, DataError, ImageStream, open_catalog
from realness.data_pipeline.decoding.dali import why_not_available
from realness.data_pipeline.order import mirror_flags
from tests.helpers.data_images import encoded, picture, short_of_pixels, write_folder
from tests.helpers.streams import stream_of

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda")
SIZE = 256
NUM_IMAGES = 24
# Of 255 levels, between nvJPEG and libjpeg; data_pipeline/decoding/dali.py states it.
MAX_DIFFERENCE, MEAN_DIFFERENCE = 4, 0.5
READ_SECONDS = 0.005
needs_dali = pytest.mark.skipif(why_not_available() is not None, reason="DALI is not installed")
DECODERS = ["threads", pytest.param("dali", marks=needs_dali)]


def open_stream(
    catalog: Catalog, decoder: str, device: torch.device = DEVICE, **changes: object
) -> ImageStream:
    arguments: dict[str, object] = {
        "resolution": SIZE, "global_batch": 8, "seed": 7, "purpose": 1, "mirror": True,
        "decode_threads": 4, "max_bad_images": 0,
    }  # fmt: skip
    return stream_of(catalog, decoder=decoder, device=device, **(arguments | changes))  # type: ignore[arg-type]


def textured(seed: int) -> Image.Image:
    """A smooth picture with grain, as photographs have."""
    grain = np.random.default_rng(seed).normal(0, 8, (SIZE, SIZE, 3))
    return Image.fromarray(np.clip(np.asarray(picture(seed, SIZE)) + grain, 0, 255).astype("uint8"))


def files() -> dict[str, bytes]:
    """JPEG (4:2:0, 4:4:4, progressive) and PNG in turn."""
    made = {}
    for seed in range(0, NUM_IMAGES, 4):
        images = [textured(seed + number) for number in range(4)]
        made[f"{seed:02d}.jpg"] = encoded(images[0], quality=90)
        made[f"{seed + 1:02d}.png"] = encoded(images[1], "PNG")
        made[f"{seed + 2:02d}.jpg"] = encoded(images[2], quality=95, subsampling=0)
        made[f"{seed + 3:02d}.jpg"] = encoded(images[3], quality=85, progressive=True)
    return made


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return open_catalog(write_folder(tmp_path_factory.mktemp("gpu"), files()))


def take(stream: ImageStream, count: int) -> tuple[torch.Tensor, list[int]]:
    """`count` batches in main memory, and their images' numbers."""
    images, indices = [], []
    with stream:
        for _ in range(count):
            images.append(next(stream).cpu())
            indices += stream.indices.tolist()
    return torch.cat(images), indices


@pytest.mark.parametrize("decoder", DECODERS)
def test_order_flips_and_pixels_are_the_cpus(mixed: Catalog, decoder: str) -> None:
    expected, expected_indices = take(open_stream(mixed, "threads", torch.device("cpu")), 9)
    with open_stream(mixed, decoder) as stream:
        assert stream.decoder_name == {"threads": "threads", "dali": "dali-mixed"}[decoder]
        batch = next(stream)
        assert batch.device.type == DEVICE.type
        assert batch.dtype == torch.uint8
        assert batch.is_contiguous(memory_format=torch.channels_last)
    found, indices = take(open_stream(mixed, decoder), 9)
    assert indices == expected_indices
    assert 0 < mirror_flags(np.arange(len(indices)), seed=7, purpose=1).sum() < len(indices)
    for index, image, reference in zip(indices, found, expected, strict=True):
        if decoder == "threads" or mixed.name(index).endswith(".png"):
            assert torch.equal(image, reference), mixed.name(index)
        else:
            difference = (image.int() - reference.int()).abs()
            assert difference.max() <= MAX_DIFFERENCE, mixed.name(index)
            assert difference.float().mean() < MEAN_DIFFERENCE, mixed.name(index)


@pytest.mark.parametrize("decoder", DECODERS)
def test_an_image_is_the_same_in_every_batch(mixed: Catalog, decoder: str) -> None:
    """nvJPEG has several decoders that round differently. The choice must not depend on the rest
    of the batch, or runs on more ranks would see different images."""
    whole, _ = take(open_stream(mixed, decoder, global_batch=24), 2)
    assert torch.equal(take(open_stream(mixed, decoder, global_batch=6), 8)[0], whole)
    halves = [
        take(open_stream(mixed, decoder, global_batch=24, rank=rank, world_size=2), 2)[0]
        for rank in range(2)
    ]
    joined = torch.cat([half.reshape(2, 12, 3, SIZE, SIZE) for half in halves], dim=1)
    assert torch.equal(joined.reshape(whole.shape), whole)
    assert torch.equal(take(open_stream(mixed, decoder, first_sample=24), 3)[0], whole[24:])


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_batch_belongs_to_its_holder(mixed: Catalog, decoder: str) -> None:
    """Decoders keep running while batches are held, dropped, and read late or on another stream."""
    expected = take(open_stream(mixed, decoder), 30)[0].reshape(30, 8, 3, SIZE, SIZE)
    held, sums = {}, []
    with open_stream(mixed, decoder) as stream:
        for step in range(30):
            # A batch requested on a separate stream is ready for that stream.
            with torch.cuda.stream(torch.cuda.Stream() if step % 7 == 6 else None):
                batch = next(stream)
                torch.cuda._sleep(1_000_000)
                sums.append(batch.sum(dtype=torch.int64))  # the device runs this much later
            if step % 3 == 0:
                held[step] = batch
            del batch
        torch.cuda.synchronize()
        assert [int(value) for value in sums] == [int(one.sum()) for one in expected]
    for step, batch in held.items():
        assert torch.equal(batch.cpu(), expected[step])


@pytest.mark.parametrize("decoder", DECODERS)
def test_bad_images_are_replaced_as_on_the_cpu(
    tmp_path: Path, decoder: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = files()
    jpeg, png = good["00.jpg"], bytearray(good["01.png"])
    png[png.index(b"IDAT") + 2000] ^= 1
    bad = {
        "cut.jpg": jpeg[: len(jpeg) // 2], "crc.png": bytes(png), "text.jpg": b"<html>",
        "grey.png": encoded(textured(0).convert("L"), "PNG"),
    }  # fmt: skip
    root = write_folder(tmp_path, good | bad)
    streams = [
        open_stream(open_catalog(root), "threads", torch.device("cpu"), max_bad_images=4),
        open_stream(open_catalog(root), decoder, max_bad_images=4),
    ]
    with caplog.at_level(logging.WARNING, "realness.data"):
        (_, expected), (_, found) = (take(stream, 12) for stream in streams)
    assert found == expected
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == 2 * len(bad)
    with pytest.raises(DataError, match="more than max_bad_images=3"):
        take(open_stream(open_catalog(root), decoder, max_bad_images=3), 12)


@needs_dali
def test_a_batch_that_dali_refuses_costs_that_batch_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Pixels missing inside whole chunks: only the decoder can notice."""
    root = write_folder(tmp_path, files() | {"short.png": short_of_pixels(files()["01.png"])})
    cpu = open_stream(open_catalog(root), "threads", torch.device("cpu"), max_bad_images=1)
    _, expected = take(cpu, 12)
    found, indices = take(open_stream(open_catalog(root), "dali", max_bad_images=1), 12)
    assert indices == expected
    assert found.shape == (96, 3, SIZE, SIZE)
    assert "short.png: PNG does not decode" in caplog.text


@pytest.mark.parametrize("decoder", DECODERS)
def test_memory_is_flat_over_500_batches_and_ends_with_the_stream(
    mixed: Catalog, decoder: str
) -> None:
    process = psutil.Process()

    def used() -> tuple[float, float]:
        """MiB of the device and of this process."""
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info(DEVICE)
        return (total - free) / 2**20, process.memory_info().rss / 2**20

    with open_stream(mixed, decoder, global_batch=16) as stream:
        readings = []
        for step in range(500):
            next(stream)
            if step % 50 == 49:
                readings.append(used())
    # A batch is 3 MiB: one lost in ten would come to 120 MiB over the last 400.
    for before, after in zip(readings[1], readings[-1], strict=True):
        assert after - before < 64, readings
    reopened = []
    for _ in range(6):
        take(open_stream(mixed, decoder, global_batch=16), 3)
        gc.collect()
        torch.cuda.empty_cache()
        reopened.append(used())
    for before, after in zip(reopened[1], reopened[-1], strict=True):
        assert after - before < 64, reopened


@pytest.mark.parametrize("decoder", DECODERS)
def test_closing_leaves_no_thread(mixed: Catalog, decoder: str) -> None:
    def num_threads() -> int:
        return len(os.listdir("/proc/self/task"))

    take(open_stream(mixed, decoder), 1)  # libraries start threads once
    before = num_threads()
    for _ in range(3):
        take(open_stream(mixed, decoder), 2)
    deadline = time.perf_counter() + 60
    while num_threads() > before and time.perf_counter() < deadline:
        time.sleep(0.01)
    assert num_threads() <= before


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_process_that_never_closes_its_stream_ends_well(mixed: Catalog, decoder: str) -> None:
    code = (
        "import sys\n"
        "from realness.data_pipeline import BatchShare, ImageStream, StreamSettings, open_catalog\n"
        f"settings = StreamSettings({SIZE}, mirror=True, decoder={decoder!r})\n"
        "stream = ImageStream(open_catalog(sys.argv[1]), settings, BatchShare(8),"
        f" seed=1, purpose=1, device={str(DEVICE)!r})\n"
        "batch = next(stream); print(int(batch.sum()) > 0)\n"
    )
    command = [sys.executable, "-c", code, mixed.source]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "True\n"), ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("decoder", DECODERS)
def test_wait_is_the_time_in_which_the_device_stood_still(
    mixed: Catalog, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches take 40 ms to read. With steps of about 150 ms on the device nothing waits for data,
    although the host, which runs ahead, does wait. Without steps all time is spent waiting."""
    read = Catalog.read

    def slow_read(self: Catalog, index: int) -> bytes:
        time.sleep(READ_SECONDS)
        return read(self, index)

    monkeypatch.setattr(Catalog, "read", slow_read)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    torch.cuda._sleep(100_000_000)
    end.record()
    end.synchronize()
    cycles = int(100_000_000 * 150 / begin.elapsed_time(end))

    def share_waited(cycles: int) -> float:
        torch.cuda.synchronize()
        started, waited = time.perf_counter(), stream.wait_seconds
        for _ in range(8):
            next(stream)
            if cycles:
                torch.cuda._sleep(cycles)
        torch.cuda.synchronize()
        return (stream.wait_seconds - waited) / (time.perf_counter() - started)

    with open_stream(mixed, decoder, decode_threads=1) as stream:
        for _ in range(4):
            next(stream)
        beside_steps = share_waited(cycles)
        for _ in range(4):
            next(stream)  # uses up what was read ahead
        # A busy machine reads more slowly, which raises both.
        assert 2 * beside_steps < share_waited(0) <= 1
