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
JPEG_SIGNATURE = b"\xff\xd8"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIGNATURES = {
    JPEG_SIGNATURE + b"\xff": "a JPEG",
    PNG_SIGNATURE: "a PNG",
    **dict.fromkeys((b"GIF87a", b"GIF89a"), "a GIF"),
    **dict.fromkeys((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"), "a TIFF"),
    b"\x00\x00\x00\x0cjP  \r\n\x87\n": "a JPEG 2000 image",
    b"\xff\x4f\xff\x51": "a JPEG 2000 image",
    b"qoif": "a QOI image",
}
_NETPBM = re.compile(rb"P[1-6]\s+[#\d]")
_DIB_HEADER_BYTES = (40, 52, 56, 64, 108, 124)
_HEIF_BRANDS = frozenset(b"heic heix heim heis hevc hevx mif1 msf1".split())
_AVIF_BRANDS = frozenset({b"avif", b"avis"})

INSTALL_HEIF = 'pip install -e ".[heic]"'
_NEEDS_HEIF = f"needs pillow-heif: {INSTALL_HEIF}"
_NEEDS_AVIF = "needs a Pillow that decodes AVIF: pip install --upgrade pillow"
HEIC_MISSING = f"is a HEIC, which {_NEEDS_HEIF}"
"""Why a HEIC is rejected where pillow-heif is missing."""


def image_format(head: bytes) -> str | None:
    """What an image is, such as "a GIF", from its first SNIFF_BYTES.

    None if it is not an image of a format that Pillow opens.
    """
    if found := next((_SIGNATURES[start] for start in _SIGNATURES if head.startswith(start)), None):
        return found
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "a WebP"
    if (head[:2] == b"BM" and _is_dib(head[14:])) or _is_dib(head):
        return "a BMP"
    if _NETPBM.match(head):
        return ("a PBM", "a PGM", "a PPM")[(head[1] - ord("1")) % 3]
    brands = _brands(head)
    if brands & _AVIF_BRANDS:
        return "an AVIF"
    return "a HEIC" if brands & _HEIF_BRANDS else None


def why_not_trained(data: bytes) -> str:
    """Why training does not read a file that is neither JPEG nor PNG, with the remedy."""
    what = image_format(data)
    if what is None:
        return _unknown(data)
    needs = _missing_decoder(what)
    extra = f" ({needs})" if needs else ""
    return f"is {what}; training reads JPEG and PNG, prepare.py converts it{extra}"


def why_not_converted(data: bytes) -> str:
    """Why Pillow does not recognise a file, with the remedy if there is one."""
    what = image_format(data)
    if what is None:
        return _unknown(data)
    if needs := _missing_decoder(what):
        return f"is {what}, which {needs}"
    return f"is {what} that Pillow does not read: damaged, or of an unsupported kind"


def _unknown(data: bytes) -> str:
    if not data:
        return "the file is empty (0 bytes)"
    if data.lstrip().startswith(b"<"):
        return "is text or HTML, not an image"
    return f"is not an image of a known format (starts with {data[:8]!r})"


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


def _missing_decoder(what: str) -> str | None:
    """What the decoder of a format needs here, or None if this installation has it."""
    if what == "an AVIF":
        from PIL import features

        return None if features.check("avif") else _NEEDS_AVIF
    return _NEEDS_HEIF if what == "a HEIC" and "HEIF" not in openers() else None
