"""Find latents of given images: `python launch/invert.py RUN IMAGES OUT`.

Searches for the styles w and the noise with which the run's generator makes each image, by gradient
descent on a perceptual distance and one of pixels (StyleGAN2, appendix D). Writes OUT/latents.npz,
which `generate --latents` takes, the images found, comparison.png with each image beside what was
found, and images.csv with the distances. With --tune, the generator's weights are trained to make
the images, and written as the run OUT/tuned. The same seed gives the same latents on a CPU. Exit
codes: 0 done, 1 OUT cannot be written (disk full), 2 invalid input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from realness.launch.command_line import read_command_line
from realness.launch.exit_status import run_and_report, run_as_script
from realness.launch.invert_results import write_results, write_tuned
from realness.launch.load_networks import load_networks

if TYPE_CHECKING:
    from torch import Tensor

    from realness.data_pipeline.prepare.convert import Conversion
    from realness.launch.target_images import Targets
    from realness.trainer.inference.inversion import Distance, InversionSettings, Inverted
    from realness.trainer.inference.latents import GeneratorOfLatents
    from realness.trainer.inference.trained import TrainedGenerator


@dataclass(frozen=True)
class Command:
    """The arguments of the command."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run (its --run-dir)."""
    images: Annotated[Path, tyro.conf.Positional]
    """One image file, or any source of images that prepare takes."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder for the results; created if it does not exist, must be empty otherwise."""
    num: int = 16
    """Number of images, the first ones of IMAGES."""
    space: Literal["auto", "w", "w+", "z"] = "auto"
    """What to search for: w, one style for all layers, which stays editable; w+, one style per
    layer, which comes nearer to the image; z, the input of generators without styles. auto is w if
    the generator has styles, and z otherwise."""
    steps: int = 1000
    """Steps of gradient descent."""
    lr: float = 0.1
    """Adam's largest learning rate; it rises during the first 5 % of the steps, and falls during
    the last 25 %."""
    tune: int = 0
    """Steps of pivotal tuning after the search: training of the generator's weights at the latents
    found, which then makes the images almost exactly. OUT/tuned is a run with these weights, and
    the other results are made with them. 350 are customary; 0 for none."""
    optimise_noise: bool = True
    """Search for the noise of the convolutions too. --no-optimise-noise leaves it as drawn."""
    distance: Literal["efflite0", "pixels"] = "efflite0"
    """efflite0 compares activations of EfficientNet-lite0 (extra `offline-features`) and pixels;
    pixels compares only these."""
    pixel_weight: float = 1.0
    """Weight of the mean squared difference of pixels, in [-1, 1], beside efflite0's distance."""
    class_name: str = ""
    """Class of the images, by number or name, for a conditional run."""
    crop: Literal["centre", "none"] = "centre"
    """centre crops the largest centred square, none leaves out images that are not square."""
    crop_size: int | None = None
    """Crop a centred square of this many pixels a side instead."""
    resize: Literal["lanczos", "box"] = "lanczos"
    """Resampling filter for shrinking."""
    upscale: bool = False
    """Enlarge images smaller than the run's resolution instead of leaving them out."""
    seed: int = 0
    """Seed of all draws."""
    checkpoint: str = "latest"
    """latest, best, or the number of images seen by one of the run's checkpoints."""
    weights: Literal["ema", "raw"] = "ema"
    """Weights of G: ema, their moving average, or raw, as the last update left them."""
    ema_width: str = ""
    """A moving average of another width, such as 0.12, of a run with --ema power or both."""
    plugin: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Plugin that the run was trained with; may be given several times. THE FILE IS EXECUTED."""
    batch_size: int = 4
    """Images that are searched for at the same time."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto uses CUDA if a device is available."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    command = read_command_line(Command, arguments, description=__doc__)
    return run_and_report(lambda: _invert(command), command.out)


def _invert(command: Command) -> str:
    """Write everything; returns the message for the user. Raises ValueError for invalid input."""
    import torch

    from realness.launch.target_images import read_targets
    from realness.trainer.config.plugins import load_plugins
    from realness.trainer.distributed.device import pick_device
    from realness.trainer.inference.inversion import check_space
    from realness.trainer.inference.latents import with_latents
    from realness.trainer.inference.tuning import measured
    from realness.trainer.storage.run_folder import claim_empty_folder

    _check(command)
    load_plugins(command.plugin)
    device = pick_device(command.device)
    generator, discriminator = load_networks(command, device)
    generator = _of_class(command, generator)
    settings = _settings(command, generator)
    check_space(generator, settings.space)
    distance_to = _distances(command, generator)
    conversion = _conversion(command, generator)
    targets = read_targets(command.images, conversion, command.num)
    claim_empty_folder(command.out)
    batches = _batches(command, generator, distance_to, targets)
    found = _search(command, generator, settings, batches)
    given = with_latents(generator, found.latents)
    if command.tune:
        given = _tune(command, given, batches)
        write_tuned(command.out, given, discriminator)
    distances = {"distance_at_start": found.before, "distance": found.after}
    if command.tune:
        distances["tuned_distance"] = torch.cat([measured(given, *batch) for batch in batches])
    write_results(command.out, given, targets, distances, command.batch_size)
    *_, last = distances.values()
    return (
        f"{command.out}: latents of {len(targets.names):,} images; the mean distance fell from "
        f"{found.before.mean().item():.4g} to {last.mean().item():.4g}"
    )


def _check(command: Command) -> None:
    from realness.trainer.config import ConfigError

    for name in ("num", "steps", "batch_size"):
        if getattr(command, name) < 1:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag}={getattr(command, name)} must be at least 1")
    if command.tune < 0:
        raise ConfigError(f"--tune={command.tune} must not be negative")
    if not 0 < command.lr < float("inf"):
        raise ConfigError(f"--lr={command.lr} must be a number above 0")
    if not 0 <= command.pixel_weight < float("inf"):
        raise ConfigError(f"--pixel-weight={command.pixel_weight} must be a number from 0")
    if not 0 <= command.seed < 2**63:
        raise ConfigError(f"--seed={command.seed} must lie from 0 to 2**63 - 1")
    if command.checkpoint == "all":
        raise ConfigError("--checkpoint=all: name one checkpoint, latest or best")


def _of_class(command: Command, generator: TrainedGenerator) -> TrainedGenerator:
    """The generator of --class-name. Raises ConfigError unless it fits the run."""
    from realness.trainer.config import ConfigError

    if generator.classes is None and command.class_name:
        raise ConfigError(
            f"--class-name={command.class_name} needs a run that was trained with --conditional; "
            "leave it out"
        )
    if generator.classes is None:
        return generator
    if not command.class_name:
        raise ConfigError(
            "this run was trained with --conditional; give --class-name, the class of the images"
        )
    return generator.of_classes([generator.config.classes.find(command.class_name)])


def _settings(command: Command, generator: TrainedGenerator) -> InversionSettings:
    from realness.trainer.inference.inversion import InversionSettings, default_space

    space = default_space(generator) if command.space == "auto" else command.space
    return InversionSettings(space, command.steps, command.lr, command.optimise_noise, command.seed)


def _conversion(command: Command, generator: TrainedGenerator) -> Conversion:
    from realness.data_pipeline.prepare.convert import Conversion

    return Conversion(
        generator.config.data.resolution,
        crop=command.crop,
        crop_size=command.crop_size,
        resize=command.resize,
        upscale=command.upscale,
        format="raw",
    )


def _distances(command: Command, generator: TrainedGenerator) -> Callable[[Tensor], Distance]:
    """Makes the distance to targets [B, 3, R, R] in [-1, 1].

    Abdal et al., "Image2StyleGAN" (ICCV 2019), eq. 1: a perceptual distance plus the mean squared
    difference of pixels.
    """

    def squared(targets: Tensor) -> Distance:
        return lambda images: (images.float() - targets).square().mean((1, 2, 3))

    if command.distance == "pixels":
        return squared
    from realness.trainer.metrics.features import FeatureNetworkError, open_lite
    from realness.trainer.metrics.perceptual import PerceptualDistance

    try:
        network = open_lite(generator.device)
    except FeatureNetworkError as error:
        raise FeatureNetworkError(f"{error}; or compare pixels, with --distance pixels") from error

    def both(targets: Tensor) -> Distance:
        perceptual, pixels = PerceptualDistance(network, targets), squared(targets)
        return lambda images: perceptual(images) + command.pixel_weight * pixels(images)

    return both


def _batches(
    command: Command,
    generator: TrainedGenerator,
    distance_to: Callable[[Tensor], Distance],
    targets: Targets,
) -> list[tuple[Tensor, Distance]]:
    """Numbers of images [B], with the distance to them."""
    import torch

    from realness.trainer.inference.pixels import to_unit

    pixels = torch.from_numpy(targets.pixels)
    index = torch.arange(len(pixels)).split(command.batch_size)
    return [(part, distance_to(to_unit(pixels[part].to(generator.device)))) for part in index]


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar; yields the function that advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn(what), BarColumn(), TextColumn("{task.percentage:.0f} %")
    with Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def _search(
    command: Command,
    generator: TrainedGenerator,
    settings: InversionSettings,
    batches: Sequence[tuple[Tensor, Distance]],
) -> Inverted:
    from realness.trainer.inference.inversion import invert, joined

    with _progress("searching", len(batches) * command.steps) as advance:
        return joined(
            [invert(generator, distance, index, settings, advance) for index, distance in batches]
        )


def _tune(
    command: Command, given: GeneratorOfLatents, batches: Sequence[tuple[Tensor, Distance]]
) -> GeneratorOfLatents:
    from realness.trainer.inference.tuning import tuned

    with _progress("tuning", len(batches) * command.tune) as advance:
        return tuned(given, batches, command.tune, advance)


if __name__ == "__main__":
    run_as_script(main)
