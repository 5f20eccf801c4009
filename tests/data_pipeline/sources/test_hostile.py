"""Hostile and damaged sources: nothing escapes, exhausts memory or loops forever."""

from __future__ import annotations

import contextlib
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from realness.data_pipeline import BadImage, Catalog, DataError, open_catalog
from tests.helpers.data_images import (
    encoded,
    image_files,
    picture,
    write_folder,
    write_tar,
    write_zip,
)


def names(catalog: Catalog) -> list[str]:
    return [catalog.name(index) for index in range(len(catalog))]


def tar_header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A ustar header with the given text as size field and a correct checksum."""
    header = bytearray(512)
    header[: len(name)], header[124 : 124 + len(size)], header[156:157] = name, size, kind
    header[257:265] = b"ustar\x0000"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize(
    "tar",
    [
        tar_header(b"a.jpg", b"-0000002000") + bytes(2048),
        tar_header(b"x", b"-0000001000", b"L") + bytes(2048),
        tar_header(b"x", b"%011o" % 14, b"x") + b"14 size=-1024\n".ljust(512, b"\0")
        + tar_header(b"a.jpg", b"0") + bytes(1024),
    ],
    ids=["negative", "negative_name", "negative_pax"],
)  # fmt: skip
def test_tar_sizes_that_lead_backwards_are_refused(tmp_path: Path, tar: bytes) -> None:
    """They would send a scan into an endless loop."""
    (tmp_path / "x.tar").write_bytes(tar)
    with pytest.raises(DataError, match=r"the header at byte .* has the size '?-"):
        open_catalog(tmp_path / "x.tar")


def test_damaged_and_exotic_zips_raise_data_error_and_nothing_else(tmp_path: Path) -> None:
    files = image_files(3)
    labels: list[list[object]] = [[name, 0] for name in files]
    path = write_zip(tmp_path / "x.zip", files, compression=zipfile.ZIP_DEFLATED, labels=labels)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    end = whole.index(b"PK\x01\x02")
    num_refused = 0
    for trial in range(300):
        data = bytearray(whole)
        first = 0 if trial % 3 else end  # a third of the damage goes to the directory
        for _ in range(rng.choice([1, 5, 20])):
            data[rng.integers(first, len(data))] = rng.integers(256)
        path.write_bytes(data)
        try:
            catalog = open_catalog(path)
        except DataError:
            num_refused += 1
            continue
        for index in range(len(catalog)):
            with contextlib.suppress(BadImage):
                catalog.read(index)
        catalog.close()
    assert num_refused > 50


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "C:/x.png"])
def test_path_traversal_is_refused(tmp_path: Path, name: str) -> None:
    files = {"good.png": encoded(picture(1), "PNG"), name: encoded(picture(2), "PNG")}
    for path in (write_zip(tmp_path / "a.zip", files), write_tar(tmp_path / "a.tar", files)):
        catalog = open_catalog(path)
        assert names(catalog) == ["good.png"]
        assert [refused for refused, _ in catalog.refused] == [name]


def test_links_in_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    data = encoded(picture(1))
    write_tar(path, {"good.jpg": data})
    with tarfile.open(path, "a") as archive:
        for name, kind in (("sym.jpg", tarfile.SYMTYPE), ("hard.jpg", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    catalog = open_catalog(path)
    assert names(catalog) == ["good.jpg"]
    assert {name for name, _ in catalog.refused} == {"sym.jpg", "hard.jpg"}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good.jpg", data)
        info = zipfile.ZipInfo("sym.jpg")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    catalog = open_catalog(tmp_path / "a.zip")
    assert names(catalog) == ["good.jpg"]
    assert [name for name, _ in catalog.refused] == ["sym.jpg"]


def test_symlinks_leaving_a_folder_are_refused(tmp_path: Path) -> None:
    outside = write_folder(tmp_path / "outside", {"secret.jpg": encoded(picture(1))})
    root = write_folder(tmp_path / "set", {"a/real.jpg": encoded(picture(2))})
    (root / "leak.jpg").symlink_to(outside / "secret.jpg")
    (root / "leaks").symlink_to(outside)
    (root / "loop").symlink_to(root)
    (root / "inner.jpg").symlink_to(root / "a" / "real.jpg")
    catalog = open_catalog(root)
    assert [catalog.name(i) for i in range(len(catalog))] == ["a/real.jpg", "inner.jpg"]
    assert {name for name, _ in catalog.refused} == {"leak.jpg", "leaks"}


def test_links_in_circles_and_pipes_are_left_out(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a.jpg": encoded(picture(2))})
    (root / "self.jpg").symlink_to(root / "self.jpg")
    (root / "one").symlink_to(root / "two")
    (root / "two").symlink_to(root / "one")
    os.mkfifo(root / "pipe.jpg")
    (root / "linked.jpg").symlink_to(root / "pipe.jpg")
    catalog = open_catalog(root)
    assert names(catalog) == ["a.jpg"]
    assert {name for name, _ in catalog.refused} == {"self.jpg", "one", "two"}


def test_zip_bombs_are_refused(tmp_path: Path) -> None:
    files = {"good.png": encoded(picture(1), "PNG"), "bomb.png": bytes(10_000_000)}
    catalog = open_catalog(
        write_zip(tmp_path / "bomb.zip", files, compression=zipfile.ZIP_DEFLATED)
    )
    assert names(catalog) == ["good.png"]
    assert "zip bomb" in dict(catalog.refused)["bomb.png"]


def test_zip_entry_larger_than_declared_is_not_unpacked(tmp_path: Path) -> None:
    path = write_zip(
        tmp_path / "lie.zip",
        {"a.png": os.urandom(3000) + bytes(2000)},
        compression=zipfile.ZIP_DEFLATED,
    )
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = (4000).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(BadImage, match="4,000 bytes that the zip declares"):
        open_catalog(path).read(0)


def test_overlapping_zip_entries_are_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "o.zip", {"a.png": os.urandom(5000), "b.png": os.urandom(5000)})
    data = bytearray(path.read_bytes())
    first, second = data.index(b"PK\x01\x02"), data.rindex(b"PK\x01\x02")
    for directory in (first, second):
        for field in (20, 24):
            start = directory + field
            data[start : start + 4] = (9000).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(DataError, match="overlap"):
        open_catalog(path)
