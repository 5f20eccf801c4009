"""TFRecord, CIFAR and LMDB, against files written by other libraries' code."""

from __future__ import annotations

import io
import lzma
import os
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import google_crc32c
import numpy as np
import pytest
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c as tensorboard_masked
from tensorboard.summary.writer.record_writer import RecordWriter

from realness.data_pipeline import (
    BadImage,
    Catalog,
    DataError,
    check_images,
    open_catalog,
)
from realness.data_pipeline.prepare.convert import Conversion
from realness.data_pipeline.prepare.prepare import prepare
from realness.data_pipeline.sources.tfrecord import masked_crc32c
from tests.helpers import DATA
from tests.helpers.streams import stream_of


def pixels(count: int, size: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def stream_pixels(catalog: Catalog, count: int, size: int) -> dict[int, np.ndarray]:
    """One epoch through the training stream, unflipped, by index."""
    with stream_of(
        catalog, resolution=size, global_batch=count, seed=1, purpose=1, mirror=False
    ) as stream:
        batch = next(stream)
        return dict(zip(stream.indices.tolist(), batch.numpy(), strict=True))


def test_checksums_of_records_are_tensorflows() -> None:
    """On the test vectors of RFC 3720, appendix B.4, and on inputs of any length."""
    # CRC-32C 0x8A9136AA and 0x62A8AB43, masked by hand.
    assert masked_crc32c(bytes(32)) == 0x0FD7FFFA
    assert masked_crc32c(b"\xff" * 32) == 0xF909B029
    for size in (0, 1, 3, 4, 100, 4097, 50_001):
        data = os.urandom(size)
        assert masked_crc32c(data) == tensorboard_masked(data)


def test_checksums_are_computed_in_c() -> None:
    """Without its C extension the package falls back to Python, which is far slower."""
    assert google_crc32c.implementation == "c"


class TestTFRecord:
    @staticmethod
    def example_class() -> Any:
        """tf.train.Example, built from its published description."""
        file = descriptor_pb2.FileDescriptorProto(
            name="example.proto", package="t", syntax="proto3"
        )
        field = descriptor_pb2.FieldDescriptorProto

        def message(name: str, *fields: tuple[str, int, Any, Any, str]) -> Any:
            added = file.message_type.add(name=name)
            for field_name, number, kind, label, type_name in fields:
                new = added.field.add()
                new.name, new.number, new.type, new.label = field_name, number, kind, label
                if type_name:
                    new.type_name = type_name
            return added

        one, many, of = field.LABEL_OPTIONAL, field.LABEL_REPEATED, field.TYPE_MESSAGE
        message("BytesList", ("value", 1, field.TYPE_BYTES, many, ""))
        message("Int64List", ("value", 1, field.TYPE_INT64, many, ""))
        message(
            "Feature",
            ("bytes_list", 1, of, one, ".t.BytesList"),
            ("int64_list", 3, of, one, ".t.Int64List"),
        )
        features = message("Features", ("feature", 1, of, many, ".t.Features.FeatureEntry"))
        entry = features.nested_type.add(name="FeatureEntry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=one)
        entry.field.add(name="value", number=2, type=of, label=one, type_name=".t.Feature")
        message("Example", ("features", 1, of, one, ".t.Features"))
        pool = descriptor_pool.DescriptorPool()
        pool.Add(file)
        return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))

    @classmethod
    def write(cls, path: Path, images: np.ndarray, **changes: Any) -> Path:
        example_class = cls.example_class()
        with path.open("wb") as file:
            writer = RecordWriter(file)
            for image in images:
                example = example_class()
                feature = example.features.feature
                feature["shape"].int64_list.value.extend(changes.get("shape", image.shape))
                feature[changes.get("key", "data")].bytes_list.value.append(image.tobytes())
                writer.write(example.SerializeToString(deterministic=True))
            writer.flush()
        return path

    def test_largest_level_is_read_in_place(self, tmp_path: Path) -> None:
        for level in (2, 3, 5):
            self.write(tmp_path / f"ffhq-r{level:02d}.tfrecords", pixels(7, 2**level, level))
        np.save(tmp_path / "labels.npy", np.eye(4)[[0, 3, 1, 1, 2, 0, 3]])
        (tmp_path / "labels.npy").rename(tmp_path / "ffhq-rxx.labels")
        catalog = open_catalog(tmp_path)
        expected = pixels(7, 32, 5)
        assert [catalog.read(i) for i in range(7)] == [image.tobytes() for image in expected]
        assert [catalog.label(i) for i in range(7)] == [0, 3, 1, 1, 2, 0, 3]
        for index, found in stream_pixels(catalog, 7, 32).items():
            assert np.array_equal(found, expected[index])
        assert len(open_catalog(tmp_path / "ffhq-r03.tfrecords")) == 7

    def test_is_prepared_losslessly(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "set.tfrecords", pixels(5, 16))
        prepare(path, tmp_path / "out", Conversion(16))
        found = stream_pixels(open_catalog(tmp_path / "out"), 5, 16)
        for index, image in enumerate(pixels(5, 16)):
            assert np.array_equal(found[index], image)

    def test_bit_flip_is_a_bad_image(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "set.tfrecords", pixels(3, 16))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        catalog = open_catalog(path)
        catalog.read(0)
        with pytest.raises(BadImage, match="CRC-32C"):
            catalog.read(1)

    def test_cut_short_loses_its_last_image(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "set.tfrecords", pixels(3, 16))
        os.truncate(path, path.stat().st_size - 50)
        catalog = open_catalog(path)
        with pytest.raises(BadImage, match="cut short"):
            catalog.read(2)

    def test_others_are_refused(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "a.tfrecords", pixels(2, 8), key="image/encoded")
        with pytest.raises(DataError, match=r"\['image/encoded', 'shape'\], not FFHQ's"):
            open_catalog(path)
        path = self.write(tmp_path / "a.tfrecords", pixels(2, 8), shape=[3, 9, 8])
        with pytest.raises(DataError, match="not one uint8 image"):
            open_catalog(path)
        path.write_bytes(b"no records at all, just words")
        with pytest.raises(DataError, match="is not a TFRecord file"):
            open_catalog(path)
        path.write_bytes(b"")
        with pytest.raises(DataError, match="is empty"):
            open_catalog(path)


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes bytes as Python 2's strings, as the published CIFAR files have them."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_bytes(self, obj: bytes) -> None:
        self.write(b"T" + struct.pack("<i", len(obj)) + obj)  # type: ignore[attr-defined]
        self.memoize(obj)  # type: ignore[attr-defined]

    dispatch[bytes] = save_bytes


class TestCifar:
    @staticmethod
    def pickled(images: np.ndarray, labels: list[int], key: bytes = b"labels") -> bytes:
        buffer = io.BytesIO()
        batch = {key: labels, b"data": images.reshape(len(images), -1), b"batch_label": b"one"}
        Python2Pickler(buffer, 2).dump(batch)
        return buffer.getvalue()

    @pytest.mark.parametrize("kind", ["binary", "pickle"])
    def test_cifar10(self, tmp_path: Path, kind: str) -> None:
        images = pixels(20, 32)
        labels = [int(i) for i in np.random.default_rng(1).integers(0, 10, 20)]
        (tmp_path / "batches.meta").write_bytes(b"")
        for number in range(5):
            part, classes = images[4 * number :][:4], labels[4 * number :][:4]
            name = tmp_path / f"data_batch_{number + 1}"
            if kind == "pickle":
                name.write_bytes(self.pickled(part, classes))
            else:
                records = [
                    bytes([c]) + image.tobytes() for image, c in zip(part, classes, strict=True)
                ]
                name.with_suffix(".bin").write_bytes(b"".join(records))
        catalog = open_catalog(tmp_path)
        assert [catalog.read(i) for i in range(20)] == [image.tobytes() for image in images]
        assert [catalog.label(i) for i in range(20)] == labels
        for index, found in stream_pixels(catalog, 20, 32).items():
            assert np.array_equal(found, images[index])

    def test_cifar100_has_fine_labels(self, tmp_path: Path) -> None:
        images = pixels(3, 32)
        (tmp_path / "meta").write_bytes(b"")
        (tmp_path / "train").write_bytes(self.pickled(images, [5, 99, 7], b"fine_labels"))
        assert [open_catalog(tmp_path).label(i) for i in range(3)] == [5, 99, 7]
        pairs = zip(images, [5, 99, 7], strict=True)
        records = [bytes([1, fine]) + image.tobytes() for image, fine in pairs]
        (tmp_path / "train.bin").write_bytes(b"".join(records))
        catalog = open_catalog(tmp_path / "train.bin")
        assert [catalog.label(i) for i in range(3)] == [5, 99, 7]
        assert catalog.read(2) == images[2].tobytes()

    def test_hostile_pickle_runs_nothing(self, tmp_path: Path) -> None:
        class Hostile:
            def __reduce__(self) -> tuple[Any, tuple[str]]:
                return os.mkdir, (str(tmp_path / "owned"),)

        path = tmp_path / "data_batch_1"
        path.write_bytes(pickle.dumps({b"data": Hostile(), b"labels": [1]}))
        with pytest.raises(DataError, match=r"asks for posix\.mkdir"):
            open_catalog(path)
        assert not (tmp_path / "owned").exists()

    @pytest.mark.parametrize(
        "pickled",
        [b"\x80\x04Nr\xff\xff\xff\x7f.", b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little")],
        ids=["memo", "bytes"],
    )
    def test_pickle_bombs_do_not_fill_the_memory(self, tmp_path: Path, pickled: bytes) -> None:
        """A memo slot or a length that makes the unpickler ask for tens of gigabytes."""
        (tmp_path / "data_batch_1").write_bytes(pickled)
        with pytest.raises(DataError, match="not a CIFAR pickle"):
            open_catalog(tmp_path / "data_batch_1")

    def test_large_files_of_other_kinds_are_not_read(self, tmp_path: Path) -> None:
        with (tmp_path / "disk").open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(DataError, match="not a CIFAR batch: it has 1,099,511,627,776 bytes"):
            open_catalog(tmp_path / "disk")

    def test_damaged_batches(self, tmp_path: Path) -> None:
        (tmp_path / "data_batch_1.bin").write_bytes(bytes(3073 * 2 - 1))
        with pytest.raises(DataError, match="not a multiple of 3073"):
            open_catalog(tmp_path / "data_batch_1.bin")
        data = self.pickled(pixels(4, 32), [1, 2, 3, 4])
        (tmp_path / "data_batch_1").write_bytes(data[:5000])
        with pytest.raises(DataError, match="not a CIFAR pickle, or is damaged"):
            open_catalog(tmp_path / "data_batch_1")


class TestLmdb:
    """golden/images.mdb.xz was written by py-lmdb 2 (LMDB 0.9.36): 300 puts, then 100 deletes and
    an overwrite in a second transaction, so that free pages and both meta pages are in use.
    """

    @staticmethod
    def blob(number: int) -> bytes:
        length = [100, 700, 1800, 5000, 9000][number % 5]
        return b"\x89PNG\r\n\x1a\n" + bytes([number % 256]) * length

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "set_lmdb"
        folder.mkdir()
        (folder / "data.mdb").write_bytes(lzma.decompress((DATA / "images.mdb.xz").read_bytes()))
        return folder

    def test_values_in_pages_and_overflow_pages(self, folder: Path) -> None:
        catalog = open_catalog(folder)
        expected = {f"256-{i:05d}": self.blob(i) for i in range(300) if i % 3}
        expected["256-00001"] = self.blob(3)
        found = {catalog.name(i): catalog.read(i) for i in range(len(catalog))}
        assert found == expected
        assert list(found) == sorted(expected)
        assert catalog.refused == [("zz-words", "its value is not an image file")]
        assert open_catalog(folder / "data.mdb").digest == catalog.digest

    def test_cut_short(self, folder: Path) -> None:
        path = folder / "data.mdb"
        os.truncate(path, path.stat().st_size // 3)
        with pytest.raises(DataError, match="damaged or cut short"):
            open_catalog(folder)

    def test_loops_and_noise_end_with_an_error(self, folder: Path) -> None:
        path = folder / "data.mdb"
        original = path.read_bytes()
        rng = np.random.default_rng(0)
        messages = []
        for _ in range(60):
            data = bytearray(original)
            for page in rng.integers(0, len(data) // 4096, 40):
                start = int(page) * 4096 + int(rng.integers(0, 60))
                data[start : start + 4] = rng.bytes(4)
            path.write_bytes(data)
            try:
                catalog = open_catalog(folder)
                for i in range(len(catalog)):
                    catalog.read(i)
            except (DataError, BadImage) as error:
                messages.append(str(error))
        assert len(messages) > 10
        assert all("data.mdb" in message for message in messages)

    def test_no_lmdb(self, folder: Path) -> None:
        (folder / "data.mdb").write_bytes(b"\x00" * 9000)
        with pytest.raises(DataError, match="is not an LMDB"):
            open_catalog(folder)
        (folder / "data.mdb").write_bytes(b"short")
        with pytest.raises(DataError, match="is not an LMDB"):
            open_catalog(folder)


def test_raw_sources_report_a_wrong_resolution(tmp_path: Path) -> None:
    path = TestTFRecord.write(tmp_path / "set.tfrecords", pixels(2, 16))
    check_images(open_catalog(path), 16)
    with pytest.raises(DataError, match=r"resolution 16, training needs resolution=32.*prepare"):
        check_images(open_catalog(path), 32)
    with pytest.raises(DataError, match="--resolution 32"):
        stream_of(
            open_catalog(path), resolution=32, global_batch=2, seed=1, purpose=1, mirror=True,
            device=torch.device("cpu"),
        )  # fmt: skip
