"""Turn any image collection into validated, packed shards: `python launch/prepare.py SOURCE OUT`.

Every image is decoded in full, turned upright, converted to sRGB, cropped, resized and stored;
every rejected file is listed in OUT/rejects.csv. After an interruption the same command continues
where it stopped. Exit codes: 0 done, 2 invalid input, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from realness.data_pipeline import SourceKind, SourceOptions, describe_classes, open_catalog
from realness.data_pipeline.prepare.convert import Conversion
from realness.data_pipeline.prepare.prepare import DEFAULT_SHARD_MIB, PrepareReport, prepare
from realness.launch.command_line import read_command_line
from realness.launch.exit_status import run_as_script
from realness.trainer.distributed.exit_codes import EXIT_INTERRUPTED, EXIT_USAGE


@dataclass(frozen=True)
class Command:
    """The arguments of the command."""

    source: Annotated[str, tyro.conf.Positional]
    """A folder of images, a zip (also StyleGAN's dataset.zip), tar shards (also WebDataset's),
    FFHQ's TFRecords, CIFAR's batches, MNIST's IDX files or an LMDB."""
    out: Annotated[str, tyro.conf.Positional]
    """The folder to create."""
    resolution: int
    """Side of the square output images in pixels."""
    crop: Literal["centre", "none"] = "centre"
    """centre crops the largest centred square, none rejects images that are not square."""
    crop_size: int | None = None
    """Crop a centred square of this many pixels a side instead, before resizing, and reject images
    that are smaller. For CelebA's 178x218 faces, 108, 128, 140 and 160 are customary."""
    resize: Literal["lanczos", "box"] = "lanczos"
    """Resampling filter for shrinking."""
    format: Literal["png", "jpeg", "raw"] = "png"
    """png is lossless; jpeg (4:4:4) is smaller and lossy, which can bias FID; raw is uncompressed
    and the fastest to read."""
    quality: int = 95
    """JPEG quality, 1 to 100."""
    upscale: bool = False
    """Enlarge images smaller than the resolution instead of rejecting them."""
    num_workers: int | None = None
    """Threads. Default: one per core. The result does not depend on it."""
    shard_mib: int = DEFAULT_SHARD_MIB
    """Size of a shard in MiB."""
    parts: int = 1
    """Split the images into this many parts, each with its own folder of shards, so that a node
    needs only the parts that its ranks read. The batch size must be a multiple of it."""
    source_kind: SourceKind = "auto"
    """What SOURCE is. A folder with several kinds, such as images and tar shards, needs the choice;
    auto finds out."""
    wds_image: str = ""
    """Extension of the pictures to take from WebDataset's shards, such as jpg, or several with
    commas between them. all takes every picture. Needed if samples hold several, such as masks."""
    follow_links: bool = False
    """Follow symbolic links that leave a folder of images."""
    labels: str = "auto"
    """Where classes come from: auto takes what the images come with (dataset.json, .cls files,
    CIFAR's batches, a prepared set), folders takes the folders as classes, none ignores them; or
    the path of a CSV with the columns name and class."""
    lock: bool = True
    """Lock OUT.partial, so that no second process writes into it. --no-lock is for file systems
    without file locks (NFS without lockd, Lustre without -o flock)."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    command = read_command_line(Command, arguments, description=__doc__)
    try:
        report = _prepare(command)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue from here", file=sys.stderr)
        return EXIT_INTERRUPTED
    print(_summary(report, command.parts))
    return 0


def _prepare(command: Command) -> PrepareReport:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    options = SourceOptions(
        command.source_kind,
        command.wds_image,
        command.follow_links,
        os.path.expanduser(command.labels),
    )
    catalog = open_catalog(command.source, options)
    print("\n".join(catalog.messages()))
    if catalog.num_classes:
        print(describe_classes(catalog))
    columns = (
        TextColumn("preparing"), BarColumn(), MofNCompleteColumn(), TextColumn("images"),
        TextColumn("{task.fields[rejected]} rejected"), TextColumn("remaining"), Remaining(),
    )  # fmt: skip
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("prepare", total=None, rejected=0)
        return prepare(
            catalog,
            command.out,
            Conversion(
                command.resolution,
                crop=command.crop,
                resize=command.resize,
                format=command.format,
                quality=command.quality,
                upscale=command.upscale,
                crop_size=command.crop_size,
            ),
            num_workers=command.num_workers,
            shard_mib=command.shard_mib,
            parts=command.parts,
            use_lock=command.lock,
            progress=lambda done, total, rejected: bar.update(
                task, completed=done, total=total, rejected=rejected
            ),
        )


def _summary(report: PrepareReport, num_parts: int) -> str:
    lines = [f"{report.out}: {_counted(report.num_images, 'image')}"]
    if num_parts > 1:
        lines[0] += f" in {num_parts} parts"
    if report.was_complete:
        lines[0] += " (already complete; nothing to do)"
    if report.num_resumed:
        lines.append(f"{report.num_resumed:,} of them come from an interrupted run")
    if report.num_rejected:
        rejected = _counted(report.num_rejected, "file")
        lines.append(f"{rejected} rejected: see {report.out}/rejects.csv")
    if report.num_heic:
        lines.append(report.heic_remedy)
    return "\n".join(lines)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    run_as_script(main)
