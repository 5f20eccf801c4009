"""The files that `invert` writes."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from realness.launch.target_images import Targets
    from realness.trainer.inference.latents import GeneratorOfLatents
    from realness.trainer.inference.trained import TrainedDiscriminator

LATENTS_FILE, COMPARISON_FILE, INDEX_FILE = "latents.npz", "comparison.png", "images.csv"
TUNED_FOLDER = "tuned"


def write_tuned(out: Path, given: GeneratorOfLatents, discriminator: TrainedDiscriminator) -> None:
    """Write the run OUT/tuned of the tuned weights, with the D of the run that they come from."""
    from realness.trainer.checkpoint import Position
    from realness.trainer.inference.public import NO_UPDATES, write_run

    folder = out / TUNED_FOLDER
    folder.mkdir()
    state, kept = given.module.state_dict(), given.kept
    states = {"EMA": state, "G": state, "D": discriminator.module.state_dict()}
    if kept is not None and not given.renders_styles:  # the mapping network has changed
        kept = replace(kept, centre=None)
    position = Position(given.images_seen, NO_UPDATES, given.data_digest)
    write_run(folder, given.config, states, position, kept)


def write_results(
    out: Path,
    given: GeneratorOfLatents,
    targets: Targets,
    distances: Mapping[str, Tensor],
    batch_size: int,
) -> None:
    """Write latents, images and pictures; distances: [N], by column of images.csv."""
    import torch
    from PIL import Image

    from realness.trainer.inference.latents import write_latents
    from realness.trainer.inference.pixels import to_unit
    from realness.trainer.reporting.grid import make_grid

    write_latents(out / LATENTS_FILE, given.given)
    parts = torch.arange(len(targets.names)).split(batch_size)
    images = torch.cat([given.sample(index, 0).cpu() for index in parts])
    for number, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(out / f"{number:06d}.png")
    wanted = torch.from_numpy(targets.pixels)
    pairs = torch.stack([wanted, images], 1).flatten(0, 1)
    make_grid(to_unit(pairs), row_names=targets.names).save(out / COMPARISON_FILE)
    errors = (to_unit(images) - to_unit(wanted)).square().mean((1, 2, 3))
    columns = {**distances, "pixel_mse": errors}
    with (out / INDEX_FILE).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "image", *columns])
        for number, name in enumerate(targets.names):
            numbers = [f"{values[number].item():.6g}" for values in columns.values()]
            writer.writerow([f"{number:06d}.png", name, *numbers])
