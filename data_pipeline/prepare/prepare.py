"""Preparation of a set for training: validates, converts and packs every image into tar shards."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from realness.data_pipeline.catalog import Catalog, printable
from realness.data_pipeline.check import check_shards
from realness.data_pipeline.errors import BadImage, DataError, MachineError
from realness.data_pipeline.formats import HEIC_MISSING, INSTALL_HEIF, openers
from realness.data_pipeline.machine import explain, patiently, room_for_files
from realness.data_pipeline.prepare.convert import Conversion, convert
from realness.data_pipeline.prepare.shard_writer import (
    ShardWriter,
    discard,
    load_journals,
    locked_workplace,
    publish,
)
from realness.data_pipeline.sources import open_catalog
from realness.data_pipeline.sources.prepared import RAW_LAYOUTS, is_prepared, read_manifest

DEFAULT_SHARD_MIB = 256
MAX_PARTS = 512  # each keeps a file open while it is written


@dataclass(frozen=True)
class PrepareReport:
    """Result of prepare: images stored, files rejected, images kept from an earlier run.

    num_heic: how many of the rejected ones are HEICs that only pillow-heif decodes.
    """

    out: Path
    num_images: int
    num_rejected: int
    num_resumed: int
    was_complete: bool
    num_heic: int = 0

    @property
    def heic_remedy(self) -> str:
        """What to do to have the HEICs converted."""
        heics = "is a HEIC" if self.num_heic == 1 else "are HEICs"
        return (
            f"{self.num_heic:,} of them {heics}: {INSTALL_HEIF}, remove {self.out} and give the "
            "same command again"
        )


def prepare(
    source: str | Path | Catalog,
    out: str | Path,
    settings: Conversion,
    *,
    num_workers: int | None = None,
    shard_mib: int = DEFAULT_SHARD_MIB,
    parts: int = 1,
    use_lock: bool = True,
    progress: Callable[[int, int, int], None] | None = None,
) -> PrepareReport:
    """Packs the images of a source into `out`: tar shards, index, manifest and rejects.csv.

    Every byte of the result depends only on the source, `settings`, shard_mib and parts, not on
    num_workers (default: the cores this process may use). If interrupted, it leaves OUT.partial,
    and the same call continues from there. The images are distributed in turn over `parts`, each
    with its own shards (see sources.prepared). use_lock=False is for file systems without file
    locks: the caller sees to it that no second process prepares `out`. `progress` is called with
    the counts (done, total, rejected). A source that is already open is closed.

    Raises ValueError for invalid arguments. Raises DataError if the source cannot be opened, has
    fewer usable images than parts or lacks some of its own parts, or if `out` holds something
    else. Raises MachineError if the source cannot be read or `out` cannot be written, for example
    if the disk is full.
    """
    if num_workers is None:
        num_workers = len(os.sched_getaffinity(0))
    if num_workers < 1 or shard_mib < 1:
        raise ValueError(f"num_workers={num_workers} and shard_mib={shard_mib} must be at least 1")
    if not 1 <= parts <= MAX_PARTS:
        raise ValueError(f"parts={parts} must be from 1 to {MAX_PARTS}")
    out = Path(os.path.expanduser(out))
    _make_room(parts)
    catalog = source if isinstance(source, Catalog) else open_catalog(source)
    try:
        if catalog.num_parts > 1:
            check_shards(catalog)
        described = _describe(catalog, settings, shard_mib, parts)
        if done := _already_there(out, described):
            return done
        with locked_workplace(out, described, use_lock=use_lock) as work:
            return _pack(catalog, work, out, settings, described, num_workers, progress)
    except OSError as error:  # reading the source raises MachineError
        raise MachineError(_cannot_write(out, error)) from error
    finally:
        catalog.close()


def _make_room(parts: int) -> None:
    """Raises MachineError unless a shard per part can be open; loads all plugins of Pillow.

    Later, Pillow would take the failure to load a plugin for an image in an unknown format.
    """
    if (room := room_for_files(parts)) < parts:
        raise MachineError(
            f"parts={parts} needs as many open files, and this process may have {room} beside "
            f"its own; use --parts {room} or fewer, or raise the limit (`ulimit -n`)"
        )
    openers()


def _cannot_write(out: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk that holds {out} is full; free some space and run the same command "
            "again to continue where it stopped"
        )
    return (
        f"{error.filename or out} cannot be written: {explain(error)}; check the place and its "
        "disk, then run the same command again to continue where it stopped"
    )


def _describe(catalog: Catalog, settings: Conversion, shard_mib: int, parts: int) -> dict[str, Any]:
    """Everything that the result depends on; part of the manifest."""
    import PIL

    return {
        **asdict(settings),
        "quality": settings.quality if settings.format == "jpeg" else None,
        "lossless": settings.lossless,
        "colour": "sRGB",
        "layout": RAW_LAYOUTS["HWC"] if settings.format == "raw" else None,
        "shard_mib": shard_mib,
        "num_parts": parts,
        "source": Path(catalog.source).name,
        "source_kind": catalog.kind,
        "source_digest": catalog.digest,
        "pillow": PIL.__version__,
    }


def _already_there(out: Path, described: dict[str, Any]) -> PrepareReport | None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not out.is_dir() or not is_prepared(out):
        raise DataError(f"{out} exists and is not a prepared set; choose another name or remove it")
    manifest = read_manifest(out)
    changed = [
        f"{key} is {manifest.get(key)!r} there, {value!r} here"
        for key, value in described.items()
        # Another Pillow or another order of raw values changes bytes but not the set.
        if key not in ("pillow", "layout") and manifest.get(key) != value
    ]
    if changed:
        raise DataError(
            f"{out} was prepared differently ({', '.join(changed)}); use another name or remove it"
        )
    return PrepareReport(out, manifest["num_images"], manifest["num_rejected"], 0, True)


def _pack(
    catalog: Catalog,
    work: Path,
    out: Path,
    settings: Conversion,
    described: dict[str, Any],
    num_workers: int,
    progress: Callable[[int, int, int], None] | None,
) -> PrepareReport:
    journals = load_journals(work)
    num_resumed = sum(len(journal.images) for journal in journals)
    num_parts = described["num_parts"]
    writer = ShardWriter(
        work,
        suffix=settings.format,
        shard_bytes=described["shard_mib"] * 1024**2,
        journals=journals,
        num_parts=num_parts,
    )
    num_rejected = len(catalog.refused) + sum(len(journal.rejects) for journal in journals)
    try:
        for index, result in _convert_all(catalog, settings, writer.num_consumed, num_workers):
            if isinstance(result, BadImage):
                num_rejected += 1
                writer.reject(catalog.name(index), str(result))
            else:
                label = catalog.label(index)
                writer.add(result, catalog.name(index), -1 if label is None else label)
            if progress is not None:
                progress(index + 1, len(catalog), num_rejected)
        writer.close()
    except BaseException:
        writer.abandon()
        raise
    num_images = sum(len(journal.images) for journal in writer.journals)
    if num_images == 0:
        name, reason = next(reject for journal in writer.journals for reject in journal.rejects)
        discard(work)
        raise DataError(
            f"none of the {len(catalog)} images in {catalog.source} can be used; the first is "
            f"{printable(name)}: {reason}"
        )
    if num_images < num_parts:
        discard(work)
        raise DataError(
            f"{catalog.source} has only {num_images} usable images for {num_parts} parts; "
            f"use --parts {num_images} or fewer"
        )
    named = {**described, "class_names": list(catalog.class_names)}
    publish(work, out, writer.journals, named, catalog.refused)
    reasons = [reason for journal in writer.journals for _, reason in journal.rejects]
    num_heic = reasons.count(HEIC_MISSING)
    return PrepareReport(out, num_images, num_rejected, num_resumed, False, num_heic)


def _convert_all(
    catalog: Catalog, settings: Conversion, first: int, num_workers: int
) -> Iterator[tuple[int, bytes | BadImage]]:
    """Converts the entries from `first` on in parallel and yields them in order, few at a time.

    Uses threads, since Pillow releases the interpreter's lock to decode, resize and encode.
    """

    def work(index: int) -> bytes | BadImage:
        try:
            data = catalog.read(index)
            return patiently(lambda: convert(data, settings, catalog.raw), catalog.name(index))
        except BadImage as error:
            return error

    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="realness-prepare")
    pending: deque[tuple[int, Future[bytes | BadImage]]] = deque()
    try:
        for index in range(first, len(catalog)):
            pending.append((index, pool.submit(work, index)))
            if len(pending) >= 4 * num_workers:
                done, future = pending.popleft()
                yield done, future.result()
        while pending:
            done, future = pending.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
