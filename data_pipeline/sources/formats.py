"""Which files are images: by their suffix, or by their first bytes if the suffix tells nothing.

The result depends on names and bytes only, not on what this machine's Pillow can decode, so that
all ranks list the same images. Signatures: the PNG specification, ITU-T T.81 (JPEG) and T.800
annex I (JPEG 2000), TIFF 6.0, ISO/IEC 14496-12 (`ftyp` boxes, of HEIC and AVIF), Google's WebP
container, netpbm's manuals, the QOI specification, and Microsoft's BITMAPINFOHEADER.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from functools import cache

IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif",
    ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpx",
    ".jpf", ".j2c", ".jpc", ".qoi",
})  # fmt: skip

_CAMERA_SUFFIXES = (
    ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".dng", ".orf",
    ".rw2", ".rwl", ".raf", ".pef", ".srw", ".3fr", ".fff", ".iiq", ".mos", ".mef", ".erf",
    ".kdc", ".dcr", ".mrw",
)  # fmt: skip
UNREAD_SUFFIXES = {
    **dict.fromkeys(_CAMERA_SUFFIXES, "a camera's raw file"),
    **dict.fromkeys((".psd", ".psb"), "a Photoshop document"),
    **dict.fromkeys((".svg", ".svgz"), "a vector drawing"),
    **dict.fromkeys((".ico", ".cur", ".icns"), "an icon"),
    **dict.fromkeys((".exr", ".hdr", ".pfm"), "an image of floating-point numbers"),
    ".jxl": "a JPEG XL",
    ".tga": "a TGA",
    ".dds": "a DDS texture",
}
"""Images that are refused, each with what it is. (Pillow would open the preview of a DNG.)"""

OTHER_SUFFIXES = frozenset({
    ".txt", ".caption", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml",
    ".ini", ".cfg", ".md", ".rst", ".log", ".html", ".htm", ".css", ".js", ".url", ".py",
    ".ipynb", ".sh", ".c", ".cpp", ".h", ".m", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ppt",
    ".pptx", ".npy", ".npz", ".mat", ".h5", ".hdf5", ".pkl", ".pickle", ".pt", ".pth", ".ckpt",
    ".safetensors", ".onnx", ".bin", ".parquet", ".arrow", ".feather", ".db", ".sqlite", ".mdb",
    ".lmdb", ".tfrecord", ".tfrecords", ".tar", ".tgz", ".zip", ".gz", ".bz2", ".xz", ".zst",
    ".7z", ".rar", ".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".wav", ".mp3",
    ".flac", ".ogg", ".m4a", ".obj", ".ply", ".cls", ".id", ".index", ".lock", ".tmp",
    ".part", ".aae", ".xmp", ".md5", ".sha1", ".sha256",
})  # fmt: skip
"""Files that are not images; they are not opened to find out."""

_OPENED = (
    "JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000", "QOI", "HEIF",
)  # fmt: skip
SNIFF_BYTES = 64
_SIGNATURES = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*",
    b"II+\x00", b"MM\x00+", b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51", b"qoif",
)  # fmt: skip
_NETPBM = re.compile(rb"P[1-6]\s+[#\d]")
_DIB_HEADER_BYTES = (40, 52, 56, 64, 108, 124)
_HEIF_BRANDS = frozenset(b"heic heix heim heis hevc hevx mif1 msf1".split())
_AVIF_BRANDS = frozenset({b"avif", b"avis"})

HEIC_MISSING = "is a HEIC, which needs pillow-heif: pip install realness[heic]"
_AVIF_MISSING = "is an AVIF, which this Pillow cannot decode: pip install --upgrade pillow"


def is_image(head: bytes) -> bool:
    """Whether a file is an image of a format that Pillow opens, from its first SNIFF_BYTES."""
    return (
        head.startswith(_SIGNATURES)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and _is_dib(head[14:]))
        or _is_dib(head)
        or _NETPBM.match(head) is not None
        or bool(_brands(head) & (_HEIF_BRANDS | _AVIF_BRANDS))
    )


def _is_dib(head: bytes) -> bool:
    """Whether a bitmap's information header starts here: size, one plane, a known depth."""
    size, planes = int.from_bytes(head[:4], "little"), int.from_bytes(head[12:14], "little")
    if size == 12:  # the older header has 16-bit sides
        planes, depth = (int.from_bytes(head[i : i + 2], "little") for i in (8, 10))
    else:
        depth = int.from_bytes(head[14:16], "little")
    return size in (12, *_DIB_HEADER_BYTES) and planes == 1 and depth in (1, 4, 8, 16, 24, 32)


def _brands(head: bytes) -> frozenset[bytes]:
    """The brands of an ISO base media file: the major one and those it is compatible with."""
    if head[4:8] != b"ftyp":
        return frozenset()
    end = min(int.from_bytes(head[:4], "big"), len(head), SNIFF_BYTES)
    return frozenset([head[8:12], *(head[start : start + 4] for start in range(16, end, 4))])


@cache
def openers() -> tuple[str, ...]:
    """Pillow's names of the formats that are converted; HEIF if pillow-heif is installed.

    "JPEG" also opens MPO. Formats whose parsers start other programs (EPS) are left out.
    """
    from PIL import Image

    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    Image.init()
    return tuple(name for name in _OPENED if name in Image.OPEN)


def missing_decoder(head: bytes) -> str | None:
    """Why an image that Pillow does not identify cannot be decoded here, with the remedy.

    None if there is no such reason: it is damaged, or no image.
    """
    brands = _brands(head)
    if brands & _AVIF_BRANDS:
        from PIL import features

        return None if features.check("avif") else _AVIF_MISSING
    if brands & _HEIF_BRANDS and "HEIF" not in openers():
        return HEIC_MISSING
    return None
