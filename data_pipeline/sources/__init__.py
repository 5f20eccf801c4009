"""Sources: opens any image collection, in any supported format, as one Catalog."""

from __future__ import annotations

import os
from pathlib import Path

from realness.data_pipeline.catalog import Catalog
from realness.data_pipeline.errors import DataError
from realness.data_pipeline.sources.cifar import open_cifar, training_files
from realness.data_pipeline.sources.folder import open_folder
from realness.data_pipeline.sources.lmdb import data_file, open_lmdb
from realness.data_pipeline.sources.prepared import is_prepared, open_prepared
from realness.data_pipeline.sources.tar import open_tars
from realness.data_pipeline.sources.tfrecord import SUFFIXES, largest_level, open_tfrecord
from realness.data_pipeline.sources.zip import open_zip

__all__ = ["open_catalog"]


def open_catalog(source: str | Path) -> Catalog:
    """Opens a source of images without reading the images.

    source: a folder (searched recursively), a zip (also StyleGAN's dataset.zip), a tar shard or a
    folder of *.tar shards (also WebDataset's), an FFHQ TFRecord file or a folder of its levels
    (the largest is used), a folder of CIFAR's batches (the training batches are used) or one batch
    file, an LMDB of image files, or the output of `launch/prepare.py`. The same contents always
    give the same order: sorted by name in folders and zips, as stored elsewhere.

    Raises DataError if the source does not exist, holds no image, or has a damaged index.
    """
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
        catalog = _open(path)
    except PermissionError as error:
        raise DataError(
            f"data source {str(source)!r} cannot be read: no permission for {error.filename!r}"
        ) from error
    if len(catalog) == 0:
        raise DataError(_explain_empty(catalog))
    return catalog


def _open(path: Path) -> Catalog:
    if path.is_dir():
        if is_prepared(path):
            return open_prepared(path)
        return _open_folder(path)
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return open_zip(path)
    if suffix == ".tar":
        return open_tars(path, [path])
    if suffix in SUFFIXES:
        return open_tfrecord(path)
    if suffix in (".mdb", ".lmdb"):
        return open_lmdb(path)
    if suffix in (".bin", ""):
        return open_cifar(path, [path])
    if path.suffixes[-2:-1] == [".tar"] or suffix == ".tgz":
        raise DataError(
            f"{path} is a compressed tar, which does not allow random access; "
            "unpack it, or store the tar uncompressed (images gain nothing from it)"
        )
    raise DataError(
        f"{path} is not a known data source; give a folder of images, a .zip, .tar "
        "shards, a .tfrecords file, CIFAR's batches or an LMDB"
    )


def _open_folder(path: Path) -> Catalog:
    if shards := sorted(p for p in path.iterdir() if p.suffix == ".tar"):
        return open_tars(path, shards)
    if records := largest_level(path):
        return open_tfrecord(records)
    if database := data_file(path):
        return open_lmdb(database)
    if batches := training_files(path):
        return open_cifar(path, batches)
    return open_folder(path)


def _explain_empty(catalog: Catalog) -> str:
    if catalog.refused:
        name, reason = catalog.refused[0]
        return (
            f"no images in {catalog.source}: {len(catalog.refused)} entries were rejected; "
            f"the first is {name!r}: {reason}"
        )
    return (
        f"no images in {catalog.source}: it holds no file named .jpg, .jpeg or .png "
        "(nor .webp, .bmp, .gif, .tif, .ppm, .pgm for launch/prepare.py)"
    )
