"""Collections of files as people have them, as {name: bytes} for folders, zips and tars."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.data_images import encoded, picture, write_folder, write_tar, write_zip

WRITERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "folder": write_folder,
    "zip": lambda path, files: write_zip(path.with_suffix(".zip"), files),
    "tar": lambda path, files: write_tar(path.with_suffix(".tar"), files),
}
APPLE_DOUBLE = b"\x00\x05\x16\x07" + bytes(60)
HEIC = struct.pack(">I", 24) + b"ftypheic\x00\x00\x00\x00mif1heic" + bytes(100)


@dataclass(frozen=True)
class OddFolder:
    """Files, and what a source that holds them must say of them.

    others and hidden: numbers of files by kind and by folder. refused: names.
    """

    files: dict[str, bytes]
    images: tuple[str, ...]
    refused: tuple[str, ...] = ()
    others: tuple[tuple[str, int], ...] = ()
    hidden: tuple[tuple[str, int], ...] = ()


def jpeg(seed: int) -> bytes:
    return encoded(picture(seed), "JPEG")


def png(seed: int) -> bytes:
    return encoded(picture(seed), "PNG")


def scraped() -> OddFolder:
    """What browsers, phones and wget leave: images of every suffix, or none."""
    images = {
        "a.jpg": jpeg(0),
        "anim.apng": png(1),
        "chrome.avif": encoded(picture(2), "AVIF"),
        "media.jpg:large": jpeg(3),
        "noext": jpeg(4),
        "old.jpe": jpeg(5),
        "paint.dib": encoded(picture(6), "BMP")[14:],
        "phone.HEIC": HEIC,
        "photo.jp2": encoded(picture(7), "JPEG2000"),
        "picture.php?id=7": encoded(picture(8), "WEBP"),
        "sub/noext2": encoded(picture(9).convert("L"), "PPM"),
        "twitter.jfif": jpeg(10),
        "wget.jpg.1": png(11),
    }
    rest = {
        "page": b"<html>not an image</html>",
        "notes.txt": b"P5 is a format of netpbm",
        "zeros": bytes(1000),
        "empty": b"",
        "train/meta.json": b"{}",
        "train/more.json": b"{}",
        "film.mp4": struct.pack(">I", 24) + b"ftypisom\x00\x00\x00\x00isommp41",
        "film": struct.pack(">I", 24) + b"ftypisom\x00\x00\x00\x00isommp41",
        "raw.NEF": encoded(picture(12), "TIFF"),
        "logo.svg": b"<svg/>",
    }
    return OddFolder(
        images | rest,
        tuple(images),
        refused=("logo.svg", "raw.NEF"),
        others=((".json", 2), (".mp4", 1), (".txt", 1), ("without a suffix", 4)),
    )


def hidden() -> OddFolder:
    """What desktops, notebooks and storage devices leave: thumbnails, deleted files, metadata."""
    images = {f"{number}.png": png(number) for number in range(3)} | {"a/b.c/3.png": png(3)}
    rest = {
        ".Trash-1000/files/deleted.png": png(10),
        ".Trash-1000/info/deleted.png.trashinfo": b"",
        ".thumbnails/normal.png": png(11),
        "a/.ipynb_checkpoints/0-checkpoint.png": png(0),
        "a/@eaDir/0.png/SYNOPHOTO_THUMB_XL.jpg": jpeg(12),
        "__MACOSX/a/._0.png": APPLE_DOUBLE,
        "__MACOSX/._a": APPLE_DOUBLE,
        ".AppleDouble/0.png": APPLE_DOUBLE,
        "lost+found/a/1.png": png(13),
        "$RECYCLE.BIN/S-1/2.png": png(14),
        ".DS_Store": b"\x00\x00\x00\x01Bud1",
        "._0.png": APPLE_DOUBLE,
        "a/.hidden.jpg": jpeg(15),
        "Thumbs.db": b"\xd0\xcf\x11\xe0",
        "desktop.ini": b"",
    }
    return OddFolder(
        images | rest,
        tuple(images),
        others=((".db", 1), (".ini", 1)),
        hidden=(
            *((".Trash-1000", 2), (".thumbnails", 1), (".ipynb_checkpoints", 1), ("@eaDir", 1)),
            *(("__MACOSX", 2), (".AppleDouble", 1), ("lost+found", 1), ("$RECYCLE.BIN", 1)),
            ("by name", 3),
        ),
    )


def names() -> OddFolder:
    """Names that shells, formats and tables of names could trip over."""
    images = {
        "new\nline.png": png(0),
        "tab\there.jpeg": jpeg(1),
        "a b'c\"d.png": png(2),
        "%d%s%n.JPG": jpeg(3),
        "-rf.png": png(4),
        ",comma;semi.png": png(5),
        "日本/100%s/🙂.PNG": png(6),
        "my photos (2024) & co/img 1.png": png(7),
        "images.tar/0.png": png(8),
        "images.zip/dataset.json.png": png(9),
    }
    others = ((".txt", 1), ("without a suffix", 1))
    return OddFolder(images | {"readme.TXT": b"", "no\nimage": b""}, tuple(images), others=others)


def single() -> OddFolder:
    return OddFolder({"only.png": png(0)}, ("only.png",))


ODD_FOLDERS: dict[str, Callable[[], OddFolder]] = {
    "scraped": scraped,
    "hidden": hidden,
    "names": names,
    "single": single,
}
