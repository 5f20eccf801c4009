"""IDX files, the format of MNIST and Fashion-MNIST: as published, damaged and hostile."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import numpy as np
import pytest

from realness.data_pipeline import DataError, SourceOptions, open_catalog
from realness.data_pipeline.check import check_images
from realness.data_pipeline.prepare.convert import Conversion
from realness.data_pipeline.prepare.prepare import prepare
from tests.data_pipeline.sources.test_formats import stream_pixels
from tests.helpers.odd_folders import png

TRAIN, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(values: np.ndarray, kind: int = 8) -> bytes:
    sizes = struct.pack(f">{values.ndim}i", *values.shape)
    return bytes([0, 0, kind, values.ndim]) + sizes + values.tobytes()


def header(*sizes: int) -> bytes:
    return bytes([0, 0, 8, len(sizes)]) + struct.pack(f">{len(sizes)}i", *sizes)


def digits(count: int, height: int = 28, width: int = 28) -> np.ndarray:
    shape = (count, height, width)
    return np.random.default_rng(count).integers(0, 256, shape, np.uint8)


def write(folder: Path, files: dict[str, bytes], *, compress: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        if compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def published(folder: Path, *, compress: bool) -> tuple[Path, np.ndarray, np.ndarray]:
    """A folder with the four files of MNIST, and its training images and labels."""
    images, labels = digits(6), np.array([3, 9, 0, 1, 9, 4], np.uint8)
    test = {
        "t10k-images-idx3-ubyte": idx(digits(2)),
        "t10k-labels-idx1-ubyte": idx(np.zeros(2, np.uint8)),
    }
    files = {TRAIN: idx(images), LABELS: idx(labels), **test}
    return write(folder, files, compress=compress), images, labels


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
def test_the_training_images_of_a_folder(tmp_path: Path, compress: bool) -> None:
    folder, images, labels = published(tmp_path / "mnist", compress=compress)
    catalog = open_catalog(folder)
    assert (catalog.kind, catalog.num_classes, catalog.notes) == ("idx", 10, [])
    assert [catalog.read(i) for i in range(6)] == [image.tobytes() for image in images]
    assert catalog.read_head(5, 10) == images[5].tobytes()[:10]
    assert [catalog.label(i) for i in range(6)] == labels.tolist()
    assert catalog.name(5) == f"{TRAIN}{'.gz' if compress else ''}/00005"
    # The test set's two files are the others.
    assert sum(catalog.others.values()) == 2
    # The same file by itself, whatever its name.
    alone = tmp_path / "digits"
    alone.write_bytes((folder / f"{TRAIN}{'.gz' if compress else ''}").read_bytes())
    assert open_catalog(alone).read(3) == images[3].tobytes()
    assert open_catalog(alone).label(3) is None


def test_other_names_and_copies(tmp_path: Path) -> None:
    """A dot in place of a dash, as some copies have it; of two copies the plain one is taken."""
    name = "train-images.idx3-ubyte"
    files = {name: idx(digits(3)), "train-labels.idx1-ubyte": idx(np.arange(3, dtype=np.uint8))}
    folder = write(tmp_path / "a", files)
    write(folder, {name: idx(digits(3))}, compress=True)
    catalog = open_catalog(folder)
    assert (catalog.name(0), catalog.label(2)) == (f"{name}/00000", 2)


def test_grey_becomes_rgb(tmp_path: Path) -> None:
    """By training at the same size, and by preparation at another."""
    images = digits(5, 32, 32)
    folder = write(tmp_path / "a", {TRAIN: idx(images)})
    for index, found in stream_pixels(open_catalog(folder), 5, 32).items():
        assert np.array_equal(found, np.repeat(images[index][None], 3, axis=0))
    with pytest.raises(DataError, match=r"have resolution 32, training needs resolution=64"):
        check_images(open_catalog(folder), 64)
    prepare(folder, tmp_path / "out", Conversion(32, format="raw"))
    prepared = open_catalog(tmp_path / "out")
    assert prepared.read(4) == np.repeat(images[4][..., None], 3, axis=2).tobytes()


def test_images_that_are_not_square(tmp_path: Path) -> None:
    catalog = open_catalog(write(tmp_path / "a", {TRAIN: idx(digits(2, 32, 40))}))
    assert catalog.raw is not None
    assert catalog.raw.pixels(catalog.read(0)).shape == (32, 40, 3)
    with pytest.raises(DataError, match=r"have resolution 40x32, training needs resolution=32"):
        check_images(catalog, 32)
    with pytest.raises(DataError, match=r"raw images of shape \(1, 32, 40\), training needs"):
        stream_pixels(catalog, 2, 32)


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        (idx(np.zeros(5, np.uint8)), "it has 5 labels for 6 images"),
        (idx(np.zeros(6, ">i4"), 12), "holds 32-bit integers; only unsigned bytes are read"),
        (idx(np.zeros(6, np.uint8))[:-1], "declares 6 = 6 bytes, but holds 5"),
        (idx(digits(6)), "has 3 dimensions; labels have 1"),
    ],
)
def test_labels_that_do_not_fit_are_ignored(tmp_path: Path, labels: bytes, note: str) -> None:
    folder = write(tmp_path / "a", {TRAIN: idx(digits(6)), LABELS: labels})
    catalog = open_catalog(folder / TRAIN)
    assert catalog.labels is None
    (said,) = catalog.notes
    assert note in said


HOSTILE = {
    "negative": (header(-1, 28, 28), r"declares the sizes -1 x 28 x 28: up to 10,000,000 images"),
    "negative sides": (header(1, -28, -28) + bytes(784), r"declares the sizes 1 x -28 x -28"),
    "no pixels": (header(5, 0, 28), r"sizes 5 x 0 x 28: .* sides from 1 to 8,192 pixels"),
    "huge sides": (header(1, 2**30, 2**30), "sizes 1 x 1,073,741,824 x 1,073,741,824"),
    "many": (header(2**31 - 1, 1, 1), "sizes 2,147,483,647 x 1 x 1"),
    "short": (header(10**6, 28, 28) + bytes(99), "1,000,000 x 28 x 28 = 784,000,000 bytes"),
    "long": (idx(digits(2)) + b"x", "declares 2 x 28 x 28 = 1,568 bytes, but holds"),
    "floats": (idx(digits(1), 13), "holds 32-bit floating-point numbers; only unsigned bytes"),
    "labels": (idx(np.zeros(4, np.uint8)), "has 1 dimensions, as files of labels have; images"),
    "colour": (idx(np.zeros((1, 8, 8, 3), np.uint8)), "has 4 dimensions, perhaps of colour"),
    "header": (header(1, 28, 28)[:9], "is cut short inside its header"),
    "nothing": (b"", "is not an IDX file"),
    "text": (b"no images at all", "is not an IDX file: it begins with the bytes 6e 6f 20 69"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
def test_hostile_headers_are_refused(tmp_path: Path, case: str, compress: bool) -> None:
    content, message = HOSTILE[case]
    if case == "short" and compress:
        message = "unpacks to 784,000,000 bytes, more than the 536,870,912"
    folder = write(tmp_path / "a", {TRAIN: content}, compress=compress)
    with pytest.raises(DataError, match=message):
        open_catalog(next(folder.iterdir()))


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """Only as many bytes as the header declares are unpacked, and one more."""
    path = tmp_path / f"{TRAIN}.gz"
    path.write_bytes(gzip.compress(header(1, 28, 28) + bytes(64 * 1024**2)))
    with pytest.raises(DataError, match="declares 1 x 28 x 28 = 784 bytes, but holds more"):
        open_catalog(path)


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
def test_truncations_and_noise_never_pass_for_images(tmp_path: Path, compress: bool) -> None:
    """Every truncation is refused. Noise in the header or in gzip's stream is refused, unless the
    sizes have the same product, or gzip does not check the byte (its flags, time and system)."""
    images = digits(3, 8, 8)
    content = idx(images)
    content = gzip.compress(content, mtime=0) if compress else content
    path = tmp_path / "images-idx3-ubyte"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DataError):
            open_catalog(path)
    rng = np.random.default_rng(0)
    opened = 0
    for _ in range(300):
        noisy = bytearray(content)
        place = int(rng.integers(0, len(noisy) if compress else 16))
        noisy[place] ^= int(rng.integers(1, 256))
        path.write_bytes(noisy)
        try:
            catalog = open_catalog(path, SourceOptions("idx"))
        except DataError:
            continue
        opened += 1
        assert catalog.raw is not None
        assert math.prod((len(catalog), *catalog.raw.shape[1:])) == images.size
        assert b"".join(catalog.read(i) for i in range(len(catalog))) == images.tobytes()
    assert opened < 30


def test_several_sets_need_a_choice(tmp_path: Path) -> None:
    names = [f"emnist-{split}-train-images-idx3-ubyte" for split in ("digits", "letters")]
    folder = write(tmp_path / "a", {name: idx(digits(2)) for name in names})
    with pytest.raises(DataError, match=r"holds 2 IDX files of images .*; give one of the files"):
        open_catalog(folder)
    assert len(open_catalog(folder / names[0])) == 2
    (folder / "a.png").write_bytes(png(0))
    with pytest.raises(DataError, match=r"2 IDX files and 1 image|1 image and 2 IDX files"):
        open_catalog(folder)


def test_other_files_with_such_names_are_left_alone(tmp_path: Path) -> None:
    files = {"a_idx3.png": png(0), "idx.json": b"{}", "faiss.idx": b"IxF2" + bytes(50)}
    catalog = open_catalog(write(tmp_path / "a", files))
    assert (catalog.kind, len(catalog), sum(catalog.others.values())) == ("folder", 1, 2)
