"""Make images with a trained generator: `python launch/generate.py RUN OUT --num 1000`.

Loads the moving average of G, or G itself, from a checkpoint of RUN, in a single process without
DeepSpeed, and writes OUT/000000.png and so on, a grid of the first ones, and images.csv with the
realness score of each image. The same seed gives the same images on any device, up to rounding.
Exit codes: 0 done, 1 OUT cannot be written (disk full), 2 invalid input.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from realness.launch.command_line import read_command_line
from realness.launch.exit_status import run_and_report, run_as_script
from realness.launch.generate_arguments import Command
from realness.launch.generate_checks import (
    check_arguments,
    check_groups,
    check_room,
    num_kept,
)
from realness.launch.interpolation import Interpolation, write_interpolation
from realness.launch.load_networks import load_networks
from realness.launch.style_pictures import check_pictures, parse_pictures, write_pictures

if TYPE_CHECKING:
    from torch import Tensor

    from realness.trainer.inference.trained import TrainedDiscriminator, TrainedGenerator

INDEX_FILE = "images.csv"


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    command = read_command_line(Command, arguments, description=__doc__)
    return run_and_report(lambda: _generate(command), command.out)


def _generate(command: Command) -> str:
    """Write everything; returns the message for the user. Raises ValueError for invalid input."""
    from realness.trainer.config.plugins import load_plugins
    from realness.trainer.distributed.device import pick_device
    from realness.trainer.inference.adjusting import adjusted
    from realness.trainer.inference.latents import read_latents, with_latents
    from realness.trainer.reporting.grid import MAX_PIXELS
    from realness.trainer.storage.run_folder import claim_empty_folder

    check_arguments(command)
    pictures = parse_pictures(
        command.mix, command.truncation_sweep, command.seed, command.batch_size
    )
    load_plugins(command.plugin)
    device = pick_device(command.device)
    generator, discriminator = load_networks(command, device)
    generator = adjusted(generator, command.truncation, command.noise)
    generator = _with_classes(command, generator)
    command = replace(command, num=command.num * max(1, len(generator.chosen)))
    if command.latents is not None:
        given = read_latents(command.latents, generator)
        generator, command = with_latents(generator, given), replace(command, num=len(given))
    check_groups(command, generator)
    check_room(command, generator)
    check_pictures(pictures, generator, num_kept(command.num, command.top))
    claim_empty_folder(command.out)
    scores = _scores(command, generator, discriminator)
    kept = _best(scores, command.top)
    _write_images(command, generator, kept)
    _write_index(command, generator, kept, scores)
    if command.grid:
        most = max(1, MAX_PIXELS // generator.config.data.resolution**2)
        wanted = max(command.grid, len(generator.chosen))
        _write_grid(command, generator, kept[: min(wanted, most)])
    write_pictures(pictures, generator, kept, command.out)
    if command.interpolate:
        way = Interpolation(
            command.interpolate,
            command.seed,
            command.batch_size,
            command.animation,
            command.loop,
            command.easing,
        )
        write_interpolation(way, generator, kept, command.out)
    return f"{command.out}: {len(kept):,} images, after {generator.images_seen:,} of training"


def _with_classes(command: Command, generator: TrainedGenerator) -> TrainedGenerator:
    """The generator of the --classes. Raises ConfigError for classes that the run does not have."""
    from realness.trainer.config import ConfigError

    if not command.classes:
        return generator
    known = generator.config.classes
    if generator.classes is None:
        raise ConfigError(
            f"--classes={command.classes} needs a run that was trained with --conditional; leave "
            "it out"
        )
    wanted = [text.strip() for text in command.classes.split(",")]
    return generator.of_classes([known.find(text) for text in wanted])


def _batches(command: Command, index: Tensor, what: str) -> Iterator[Tensor]:
    """`index` in batches, with a progress bar."""
    from rich.console import Console
    from rich.progress import track

    parts = index.split(command.batch_size)
    yield from track(parts, description=what, console=Console(stderr=True), transient=True)


def _scores(
    command: Command, generator: TrainedGenerator, discriminator: TrainedDiscriminator
) -> Tensor:
    """The realness score of every drawn image, [num]."""
    import torch

    parts = []
    for index in _batches(command, torch.arange(command.num), "drawing"):
        images = generator.images(generator.latents(index, command.seed), index, command.seed)
        condition = generator.condition(index, command.seed)
        parts.append(discriminator.score(images, condition).cpu())
    return torch.cat(parts)


def _best(scores: Tensor, share: float) -> Tensor:
    """Numbers of the images to keep: all in their order, or the best `share`, best first."""
    import torch

    if share == 1:
        return torch.arange(len(scores))
    return scores.argsort(descending=True, stable=True)[: num_kept(len(scores), share)]


def _write_images(command: Command, generator: TrainedGenerator, kept: Tensor) -> None:
    from PIL import Image

    number = 0
    for index in _batches(command, kept, "writing"):
        for image in generator.sample(index, command.seed).permute(0, 2, 3, 1).cpu().numpy():
            Image.fromarray(image).save(command.out / f"{number:06d}.png")
            number += 1


def _write_index(
    command: Command, generator: TrainedGenerator, kept: Tensor, scores: Tensor
) -> None:
    """Write images.csv. The index of an image is that of its draws in the sequence of the seed."""
    names = []
    if generator.classes is not None:
        known = generator.config.classes
        names = [known.name(k) for k in generator.class_numbers(kept, command.seed).tolist()]
    with (command.out / INDEX_FILE).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "seed", "index", "score", *(["class"] if names else [])])
        for number, index in enumerate(kept.tolist()):
            score = f"{scores[index].item():.6g}"
            drawn = index // max(1, len(generator.chosen))
            row = [f"{number:06d}.png", command.seed, drawn, score, *names[number : number + 1]]
            writer.writerow(row)


def _write_grid(command: Command, generator: TrainedGenerator, index: Tensor) -> None:
    import torch

    from realness.trainer.reporting.grid import make_grid

    index, names = generator.in_rows(index)
    latents = generator.latents(index, command.seed)
    parts = zip(latents.split(command.batch_size), index.split(command.batch_size), strict=True)
    images = torch.cat([generator.images(z, part, command.seed).cpu() for z, part in parts])
    make_grid(images, row_names=names).save(command.out / "grid.png")


if __name__ == "__main__":
    run_as_script(main)
