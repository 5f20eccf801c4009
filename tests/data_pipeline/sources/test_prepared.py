"""Prepared sets: the layouts of raw pixels, and what happens when one is damaged."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from realness.data_pipeline import DataError, open_catalog
from realness.data_pipeline.prepare.convert import Conversion
from realness.data_pipeline.prepare.prepare import prepare
from realness.data_pipeline.prepare.shard_writer import ShardWriter, locked_workplace, publish
from tests.helpers.data_images import image_files, picture, write_folder
from tests.helpers.streams import stream_of


def write_raw_chw(out: Path, images: list[tuple[str, np.ndarray]]) -> Path:
    """A set as prepare wrote it when raw images were stored as planes."""
    resolution = len(images[0][1])
    manifest = {"format": "raw", "resolution": resolution, "layout": "CHW uint8"}
    with locked_workplace(out, manifest) as work:
        writer = ShardWriter(work, suffix="raw", shard_bytes=1 << 20, journals=[])
        for name, pixels in images:
            writer.add(pixels.transpose(2, 0, 1).tobytes(), name, -1)
        writer.close()
        publish(work, out, writer.journals, manifest, [])
    return out


def test_raw_flips_and_wrong_resolution(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", image_files(6, image_format="PNG"))
    prepare(tmp_path / "in", tmp_path / "png", Conversion(32, format="png"))
    prepare(tmp_path / "in", tmp_path / "raw", Conversion(32, format="raw"))
    catalogs = [open_catalog(tmp_path / name) for name in ("png", "raw")]
    names = [catalogs[0].name(index) for index in range(6)]
    pixels = [np.asarray(picture(int(name[5:10]))) for name in names]
    write_raw_chw(tmp_path / "planes", list(zip(names, pixels, strict=True)))
    catalogs.append(open_catalog(tmp_path / "planes"))
    assert catalogs[1].read(0) == pixels[0].tobytes()
    assert catalogs[2].read(0) != catalogs[1].read(0)
    prepare(tmp_path / "planes", tmp_path / "again", Conversion(32, format="raw"))
    catalogs.append(open_catalog(tmp_path / "again"))
    streams = [
        stream_of(
            catalog, resolution=32, global_batch=6, seed=1, purpose=1, mirror=True,
            decoder="threads",
        )
        for catalog in catalogs
    ]  # fmt: skip
    for _ in range(4):
        expected, *others = [next(stream) for stream in streams]
        for found in others:
            assert torch.equal(found, expected)
            assert found.stride() == expected.stride()
    for stream in streams:
        stream.close()
    with pytest.raises(DataError, match="--resolution 64"):
        stream_of(
            open_catalog(tmp_path / "raw"), resolution=64, global_batch=2, seed=1, purpose=1,
            mirror=True,
        )  # fmt: skip


def test_older_raw_layout_is_left_alone_and_an_unknown_one_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", image_files(2, image_format="PNG"))
    prepare(tmp_path / "in", tmp_path / "raw", Conversion(32, format="raw"))
    manifest = tmp_path / "raw" / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace("HWC uint8", "CHW uint8"))
    assert prepare(tmp_path / "in", tmp_path / "raw", Conversion(32, format="raw")).was_complete
    manifest.write_text(text.replace("HWC uint8", "WHC uint8"))
    with pytest.raises(DataError, match="unknown layout 'WHC uint8'"):
        open_catalog(tmp_path / "raw")


class TestDamagedPreparedSets:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        write_folder(tmp_path / "in", image_files(40, image_format="PNG"))
        prepare(tmp_path / "in", tmp_path / "out", Conversion(32))
        return tmp_path / "out"

    @staticmethod
    def run(folder: Path, cap: int) -> tuple[int, torch.Tensor]:
        with stream_of(
            open_catalog(folder), resolution=32, global_batch=8, seed=1, purpose=1, mirror=True,
            max_bad_images=cap,
        ) as stream:  # fmt: skip
            images = torch.cat([next(stream) for _ in range(10)])
            num_bad = stream.num_bad_images
        for rank in range(2):
            with stream_of(
                open_catalog(folder), resolution=32, global_batch=8, rank=rank, world_size=2,
                seed=1, purpose=1, mirror=True, max_bad_images=cap, decoder="threads",
            ) as stream:  # fmt: skip
                share = torch.stack([next(stream) for _ in range(10)])
            whole = images.reshape(10, 2, 4, 3, 32, 32)
            assert torch.equal(share, whole[:, rank])
        return num_bad, images

    def test_shard_cut_short(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        offsets = np.load(folder / "index.npy")["offset"]
        os.truncate(folder / "shard-00000.tar", int(offsets[36]))
        num_bad, _ = self.run(folder, cap=4)
        assert num_bad == 4
        # Three catalogs were opened, one per stream; each logs an image once.
        named = Counter(r.getMessage() for r in caplog.records if "cut short" in r.getMessage())
        assert len(named) == 4
        assert max(named.values()) == 3
        with pytest.raises(DataError, match="more than max_bad_images=3"):
            self.run(folder, cap=3)

    def test_bit_flip(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        record = np.load(folder / "index.npy")[5]
        path = folder / "shard-00000.tar"
        data = bytearray(path.read_bytes())
        data[int(record["offset"]) + int(record["length"]) // 2] ^= 4
        path.write_bytes(data)
        assert self.run(folder, cap=1)[0] == 1
        assert "CRC-32" in caplog.text

    def test_index_that_does_not_fit_its_shards(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        index = np.load(folder / "index.npy")
        index["offset"][3] += 512
        np.save(folder / "index.npy", index)
        num_bad, images = self.run(folder, cap=1)
        assert num_bad == 1
        assert "CRC-32" in caplog.text
        assert torch.equal(self.run(folder, cap=1)[1], images)
        with pytest.raises(DataError, match="more than max_bad_images=0"):
            self.run(folder, cap=0)

    def test_shards_of_another_set(self, folder: Path, tmp_path: Path) -> None:
        write_folder(
            tmp_path / "other", dict(list(image_files(60, image_format="PNG").items())[20:])
        )
        prepare(tmp_path / "other", tmp_path / "other_out", Conversion(32))
        (tmp_path / "other_out" / "shard-00000.tar").replace(folder / "shard-00000.tar")
        with pytest.raises(DataError, match="no good image found"):
            self.run(folder, cap=100)

    def test_index_that_does_not_fit_its_manifest(self, folder: Path) -> None:
        index = np.load(folder / "index.npy")
        index["crc32"][3] += 1
        np.save(folder / "index.npy", index)
        with pytest.raises(DataError, match="does not match its manifest"):
            open_catalog(folder)

    def test_index_damaged(self, folder: Path) -> None:
        os.truncate(folder / "index.npy", 100)
        with pytest.raises(DataError, match=r"the index of .* is damaged"):
            open_catalog(folder)

    def test_manifest_damaged(self, folder: Path) -> None:
        (folder / "manifest.json").write_text("{")
        with pytest.raises(DataError, match="is damaged"):
            open_catalog(folder)

    def test_missing_shard_names_every_image(self, folder: Path) -> None:
        (folder / "shard-00000.tar").unlink()
        with pytest.raises(DataError, match=r"shard-00000\.tar cannot be read: No such file"):
            self.run(folder, cap=2)
