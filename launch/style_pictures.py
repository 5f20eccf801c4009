"""The pictures of `generate --mix` and `generate --truncation-sweep`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from realness.trainer.inference.trained import TrainedGenerator

SWEPT_IMAGES = 8
"""Images per row of truncation.png."""


@dataclass(frozen=True)
class StylePictures:
    """What to make: rows and columns of mixed images, values of psi; each may be empty."""

    mix: tuple[int, ...]
    sweep: tuple[float, ...]
    seed: int
    batch_size: int


def parse_pictures(mix: str, sweep: str, seed: int, batch_size: int) -> StylePictures:
    """Read --mix and --truncation-sweep. Raises ConfigError for values that are not valid."""
    from realness.trainer.config import ConfigError

    try:
        sides = tuple(int(part) for part in mix.split(",")) if mix else ()
    except ValueError:
        sides = (0,)
    if sides and (len(sides) != 2 or min(sides) < 1):
        raise ConfigError(f"--mix={mix} must be the numbers of rows and columns, such as 4,6")
    try:
        values = tuple(float(part) for part in sweep.split(",")) if sweep else ()
    except ValueError:
        values = (float("nan"),)
    if not all(-1 <= value <= 1 for value in values):
        raise ConfigError(
            f"--truncation-sweep={sweep} must be numbers from -1 to 1, such as 1,0.7,0.5,0,-0.5,-1"
        )
    return StylePictures(sides, values, seed, batch_size)


def check_pictures(pictures: StylePictures, generator: TrainedGenerator, num_kept: int) -> None:
    """Raise ConfigError for pictures that the generator, or so few images, cannot give."""
    from realness.trainer.config import ConfigError
    from realness.trainer.inference.adjusting import styled_module
    from realness.trainer.reporting.grid import MAX_PIXELS

    side = generator.config.data.resolution
    if pictures.mix:
        rows, columns = pictures.mix
        flag = f"--mix={rows},{columns}"
        styled_module(generator, flag, "leave it out")
        if rows + columns > num_kept:
            raise ConfigError(
                f"{flag} needs {rows + columns} images, and there are {num_kept}; ask for more "
                "with --num, or mix fewer"
            )
        if (rows + 1) * (columns + 1) * side**2 > MAX_PIXELS:
            raise ConfigError(
                f"{flag} makes pictures of more than {MAX_PIXELS:,} pixels; mix fewer images"
            )
    if pictures.sweep:
        flag = f"--truncation-sweep={','.join(f'{psi:g}' for psi in pictures.sweep)}"
        styled_module(generator, flag, "leave it out")
        if len(pictures.sweep) * side**2 > MAX_PIXELS:
            raise ConfigError(
                f"{flag} makes a picture of more than {MAX_PIXELS:,} pixels; give fewer values"
            )


def write_pictures(
    pictures: StylePictures, generator: TrainedGenerator, kept: Tensor, out: Path
) -> None:
    """Write mixing-coarse.png and so on, and truncation.png, of the samples `kept`."""
    if pictures.mix:
        _write_mixing(pictures, generator, kept, out)
    if pictures.sweep:
        _write_sweep(pictures, generator, kept, out)


def _write_mixing(
    pictures: StylePictures, generator: TrainedGenerator, kept: Tensor, out: Path
) -> None:
    from realness.trainer.inference.adjusting import styled_module
    from realness.trainer.inference.mixing import mixed_images, style_groups
    from realness.trainer.reporting.grid import make_grid

    count, total = pictures.mix[0], sum(pictures.mix)
    rows, columns = kept[:count], kept[count:total]
    names = ["", *(f"{number:06d}" for number in range(count))]
    for name, group in style_groups(styled_module(generator, "--mix", "leave it out")).items():
        images = mixed_images(generator, rows, columns, group, pictures.seed, pictures.batch_size)
        make_grid(images, row_names=names).save(out / f"mixing-{name}.png")


def _write_sweep(
    pictures: StylePictures, generator: TrainedGenerator, kept: Tensor, out: Path
) -> None:
    import torch

    from realness.trainer.inference.adjusting import truncated
    from realness.trainer.reporting.grid import MAX_PIXELS, make_grid

    most = MAX_PIXELS // (len(pictures.sweep) * generator.config.data.resolution**2)
    index = kept[: min(SWEPT_IMAGES, most)]
    centred, images = truncated(generator, 0.0), []
    for psi in pictures.sweep:
        moved = replace(centred, truncation=psi)
        for part in index.split(pictures.batch_size):
            latents = moved.latents(part, pictures.seed)
            images.append(moved.images(latents, part, pictures.seed).cpu())
    names = [f"psi {psi:g}" for psi in pictures.sweep]
    make_grid(torch.cat(images), row_names=names).save(out / "truncation.png")
