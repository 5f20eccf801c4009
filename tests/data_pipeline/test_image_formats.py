"""Images are known by their first bytes, and messages about them name the format and the remedy."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator

import pytest

from realness.data_pipeline import BadImage, formats
from realness.data_pipeline.formats import SNIFF_BYTES, image_format
from realness.data_pipeline.headers import read_header
from realness.data_pipeline.prepare.convert import Conversion, convert
from tests.helpers.data_images import encoded, picture
from tests.helpers.odd_folders import HEIC


@pytest.fixture
def _without_heif(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    formats.openers.cache_clear()
    yield
    formats.openers.cache_clear()


@pytest.mark.parametrize(
    ("pillow_format", "name"),
    [
        ("JPEG", "a JPEG"),
        ("PNG", "a PNG"),
        ("WEBP", "a WebP"),
        ("BMP", "a BMP"),
        ("DIB", "a BMP"),
        ("GIF", "a GIF"),
        ("TIFF", "a TIFF"),
        ("PPM", "a PPM"),
        ("AVIF", "an AVIF"),
        ("JPEG2000", "a JPEG 2000 image"),
    ],
)
def test_images_are_known_by_content(pillow_format: str, name: str) -> None:
    assert image_format(encoded(picture(0), pillow_format)[:SNIFF_BYTES]) == name


def test_other_contents_are_no_images() -> None:
    film = struct.pack(">I", 20) + b"ftypqt  \x00\x00\x00\x00qt  "
    for head in (b"", b"BM", b"BMW and others", b"P3 is a format", b"\xff\xd8", film, bytes(64),
                 struct.pack("<16i", *range(40, 56)), b"RIFF\x00\x00\x00\x00WAVEfmt "):  # fmt: skip
        assert not image_format(head), head


@pytest.mark.parametrize(
    ("digit", "name"),
    [("1", "PBM"), ("2", "PGM"), ("3", "PPM"), ("4", "PBM"), ("5", "PGM"), ("6", "PPM")],
)
def test_the_kinds_of_netpbm(digit: str, name: str) -> None:
    assert image_format(f"P{digit}\n# a comment".encode()) == f"a {name}"


def reasons(data: bytes) -> tuple[str, str]:
    """Why training and prepare refuse a file; empty if prepare converts it."""
    with pytest.raises(BadImage) as untrained:
        read_header(data)
    try:
        convert(data, Conversion(32))
    except BadImage as error:
        return str(untrained.value), str(error)
    return str(untrained.value), ""


@pytest.mark.parametrize("pillow_format", ["AVIF", "WEBP", "BMP", "GIF", "TIFF", "JPEG2000"])
def test_training_names_the_format_and_prepare(pillow_format: str) -> None:
    data = encoded(picture(0, 32), pillow_format)
    name = image_format(data)
    remedy = "training reads JPEG and PNG, prepare.py converts it"
    assert reasons(data) == (f"is {name}; {remedy}", "")


@pytest.mark.usefixtures("_without_heif")
def test_training_and_prepare_name_the_extra_for_heic() -> None:
    untrained, unconverted = reasons(HEIC)
    needs = 'needs pillow-heif: pip install -e ".[heic]"'
    assert untrained.endswith(f"prepare.py converts it ({needs})")
    assert unconverted == f"is a HEIC, which {needs}"


def test_an_avif_that_pillow_cannot_decode_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = encoded(picture(0, 32), "AVIF")
    monkeypatch.setattr("PIL.features.check", lambda feature: feature != "avif")
    monkeypatch.setattr("realness.data_pipeline.prepare.convert.openers", lambda: ("JPEG", "PNG"))
    untrained, unconverted = reasons(data)
    needs = "needs a Pillow that decodes AVIF: pip install --upgrade pillow"
    assert untrained.endswith(f"prepare.py converts it ({needs})")
    assert unconverted == f"is an AVIF, which {needs}"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty (0 bytes)"),
        (b"\n <!DOCTYPE html><title>Not found", "is text or HTML, not an image"),
        (b"RIFF\0\0\0\0WAVEfmt ", "is not an image of a known format (starts with b'RIFF"),
    ],
)
def test_other_files_are_refused_alike(data: bytes, reason: str) -> None:
    untrained, unconverted = reasons(data)
    assert untrained == unconverted
    assert untrained.startswith(reason)
