"""Sources: opens any image collection, in any supported format, as one Catalog."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from realness.data_pipeline.catalog import Catalog
from realness.data_pipeline.errors import DataError
from realness.data_pipeline.formats import IMAGE_SUFFIXES
from realness.data_pipeline.machine import patiently
from realness.data_pipeline.sources.cifar import open_cifar, training_files
from realness.data_pipeline.sources.class_labels import choose_labels
from realness.data_pipeline.sources.folder import FolderFiles, list_files, open_folder
from realness.data_pipeline.sources.idx import (
    image_files,
    labels_file,
    may_be_idx,
    open_idx,
    training_images,
)
from realness.data_pipeline.sources.listing import is_skipped, kind_of
from realness.data_pipeline.sources.lmdb import data_file, open_lmdb
from realness.data_pipeline.sources.options import SourceKind, SourceOptions
from realness.data_pipeline.sources.prepared import is_prepared, open_prepared
from realness.data_pipeline.sources.tar import open_tars
from realness.data_pipeline.sources.tfrecord import SUFFIXES, largest_level, open_tfrecord
from realness.data_pipeline.sources.zip import open_zip

__all__ = ["SourceKind", "SourceOptions", "open_catalog"]


def open_catalog(source: str | Path, options: SourceOptions | None = None) -> Catalog:
    """Opens a source of images without reading the images.

    source: a folder (searched recursively), a zip (also StyleGAN's dataset.zip), a tar shard or a
    folder of *.tar shards (also WebDataset's), an FFHQ TFRecord file or a folder of its levels
    (the largest is used), a folder of CIFAR's batches (the training batches are used) or one batch
    file, a folder of MNIST's IDX files (the training images are used) or one of them, plain or
    compressed with gzip, an LMDB of image files, or the output of `launch/prepare.py`. The same
    contents always give the same order: sorted by name in folders and zips, as stored elsewhere.

    Raises DataError if the source does not exist, holds no image, has a damaged index, is a folder
    of several kinds of sources or a tar of several pictures per sample without a choice in
    `options`, or does not fit the choice, or has images without a class in labels that `options`
    choose; and MachineError if it cannot be read for another reason.
    """
    options = options or SourceOptions()
    if not str(source):  # an unset variable in a script: Path("") would be the current folder
        raise DataError("the data source is empty; give a folder of images, a zip or tar shards")
    path = Path(os.path.expanduser(source))
    if not path.exists():
        nearest = next((p for p in path.absolute().parents if p.exists()), Path("/"))
        raise DataError(
            f"data source {str(source)!r} does not exist (the nearest path that does is "
            f"{str(nearest)!r}); give a folder of images, a zip or tar shards"
        )
    try:
        catalog = patiently(lambda: _open(path, options), str(path))
    except PermissionError as error:
        raise DataError(
            f"data source {str(source)!r} cannot be read: no permission for {error.filename!r}"
        ) from error
    if len(catalog) == 0:
        raise DataError(_explain_empty(catalog))
    catalog.flags = options.flags
    patiently(lambda: choose_labels(catalog, options.labels), options.labels)
    if options.wds_image and catalog.kind != "tar":
        catalog.notes.append(
            f"--wds-image={options.wds_image} has no effect: it is for tar shards, and {path} is "
            f"opened as {catalog.kind}"
        )
    return catalog


def _open(path: Path, options: SourceOptions) -> Catalog:
    return _open_folder(path, options) if path.is_dir() else _open_file(path, options)


def _open_file(path: Path, options: SourceOptions) -> Catalog:
    kind = _kind_of_file(path) if options.kind == "auto" else options.kind
    if kind == "zip":
        return open_zip(path)
    if kind == "tar":
        return open_tars(path, [path], options.wds_image)
    if kind == "tfrecord":
        return open_tfrecord(path)
    if kind == "lmdb":
        return open_lmdb(path)
    if kind == "cifar":
        return open_cifar(path, [path])
    if kind == "idx":
        return open_idx(path, path)
    raise DataError(f"--source-kind={kind}, but {path} is a file; give a folder, or another kind")


def _kind_of_file(path: Path) -> SourceKind:
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return "zip"
    if suffix == ".tar":
        return "tar"
    if suffix in SUFFIXES:
        return "tfrecord"
    if suffix in (".mdb", ".lmdb"):
        return "lmdb"
    if suffix == ".bin":
        return "cifar"
    if may_be_idx(path):
        return "idx"
    if not suffix:
        return "cifar"
    if path.suffixes[-2:-1] == [".tar"] or suffix == ".tgz":
        raise DataError(
            f"{path} is a compressed tar, which does not allow random access; "
            "unpack it, or store the tar uncompressed (images gain nothing from it)"
        )
    raise DataError(
        f"{path} is not a known data source; give a folder of images, a .zip, .tar "
        "shards, a .tfrecords file, CIFAR's batches, IDX files or an LMDB"
    )


def _open_folder(path: Path, options: SourceOptions) -> Catalog:
    if options.kind in ("auto", "prepared") and is_prepared(path):
        return _open_prepared(path)
    files = list_files(path, options.follow_links)
    present = _sources_in(path)
    kind = _only_kind(path, files, present) if options.kind == "auto" else options.kind
    if kind == "folder":
        return open_folder(path, files)
    if kind not in present:
        raise DataError(f"--source-kind={kind}, but {path} is a folder without such files")
    if kind == "tar":
        catalog, used = open_tars(path, present[kind], options.wds_image), present[kind]
    elif kind == "tfrecord":
        level = largest_level(present[kind])
        catalog, used = open_tfrecord(level), [level]
    elif kind == "lmdb":
        catalog, used = open_lmdb(present[kind][0]), present[kind]
    elif kind == "idx":
        images = training_images(path, present[kind])
        beside = labels_file(images)
        catalog, used = open_idx(path, images), [images, *([beside] if beside else [])]
    else:
        catalog, used = open_cifar(path, present[kind]), present[kind]
    _count_beside(catalog, files, used)
    return catalog


def _open_prepared(path: Path) -> Catalog:
    catalog = open_prepared(path)
    beside = sum(entry.suffix.lower() in IMAGE_SUFFIXES for entry in path.iterdir())
    if beside:
        catalog.notes.append(
            f"{path} is a prepared set; {beside:,} image files that lie beside it are left out"
        )
    return catalog


def _sources_in(folder: Path) -> dict[SourceKind, list[Path]]:
    """The files in a folder, but not in its subfolders, that are sources of images themselves."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and not is_skipped(p.name, False))
    database = data_file(folder)
    found: dict[SourceKind, list[Path]] = {
        "tar": [path for path in files if path.suffix.lower() == ".tar"],
        "tfrecord": [path for path in files if path.suffix in SUFFIXES],
        "lmdb": [database] if database else [],
        "cifar": training_files(folder),
        "idx": image_files(files),
    }
    return {kind: paths for kind, paths in found.items() if paths}


def _only_kind(path: Path, files: FolderFiles, present: dict[SourceKind, list[Path]]) -> SourceKind:
    """The one kind of source in a folder. Raises DataError if there are several."""
    numbers: dict[SourceKind, int] = {kind: len(paths) for kind, paths in present.items()}
    if files.images:
        numbers["folder"] = len(files.images)
    if len(numbers) > 1:
        named = {"folder": "image", "tar": ".tar file", "lmdb": "LMDB", "cifar": "CIFAR batch"}
        named["idx"] = "IDX file"
        held = [
            f"{number:,} {named.get(kind, 'TFRecord file')}{'' if number == 1 else 's'}"
            for kind, number in numbers.items()
        ]
        choices = " or ".join(f"--source-kind {kind}" for kind in numbers)
        raise DataError(
            f"{path} holds {' and '.join(held)}, of which only one kind can be read; choose it "
            f"with {choices}, or move the others elsewhere"
        )
    return next(iter(numbers)) if numbers else "folder"


def _count_beside(catalog: Catalog, files: FolderFiles, used: Sequence[Path]) -> None:
    """Adds the files of a folder that lie beside those that hold the images to the listing."""
    others = Counter(files.listing.others)
    others.subtract(kind_of(path.name) for path in used)
    others["images beside"] = len(files.images) + len(files.listing.refused)
    catalog.others = +(Counter(catalog.others) + others)
    catalog.hidden = Counter(catalog.hidden) + files.listing.hidden


def _explain_empty(catalog: Catalog) -> str:
    archives = {".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar"} & catalog.others.keys()
    remedy = "; give one of its archives or the folder of its tars" if archives else ""
    return f"no images in {catalog.listing()}{remedy}"
