"""Make a run folder of a public StyleGAN2 or R3GAN: `python launch/convert.py FILE RUN`.

Reads the .pkl files of NVIDIA's StyleGAN2 (StyleGAN2-ADA in PyTorch, StyleGAN3's repository,
TensorFlow), rosinality's .pt files, R3GAN's .pkl files, and folders of launch/export.py. NO CODE IN
THE FILE IS EXECUTED. From RUN, images can be generated and measured, networks exported, and
training continued: with `train --init-from RUN`, or in RUN itself with `train --config
RUN/config.json --run-dir RUN --data IMAGES`. Exit codes: 0 done, 1 RUN cannot be written (disk
full), 2 invalid input.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from realness.launch.command_line import read_command_line
from realness.launch.exit_status import run_and_report, run_as_script

if TYPE_CHECKING:
    from realness.trainer.config import TrainConfig
    from realness.trainer.inference.public import PublicModel
    from realness.trainer.storage.origin import Origin

NVIDIA_LICENCE = "NVIDIA Source Code License (non-commercial), unless its publisher says otherwise"
NON_COMMERCIAL = r"non[- ]?commercial|\bNC\b"
"""In the text of a licence, also of those of Creative Commons, such as CC-BY-NC-4.0."""


@dataclass(frozen=True)
class Command:
    """The arguments of the command."""

    file: Annotated[Path, tyro.conf.Positional]
    """The model: a .pkl or .pt file, or a folder of launch/export.py."""
    run: Annotated[Path, tyro.conf.Positional]
    """Folder for the run; created if it does not exist, must be empty otherwise."""
    source: str = ""
    """Where the file comes from, such as its address; recorded in the run and in model cards. By
    default the name of the file."""
    licence: str = ""
    """Licence of the weights, recorded likewise. By default that of the program that wrote the
    file: what NVIDIA's code wrote is taken to be non-commercial. If you give a licence, say so in
    it: one with "non-commercial" or "NC" in it, such as CC-BY-NC-4.0, is announced whenever the
    weights are used."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    command = read_command_line(Command, arguments, description=__doc__)
    return run_and_report(lambda: _convert(command), command.run)


def _convert(command: Command) -> str:
    """Write everything or nothing; returns the message for the user."""
    from realness.trainer.config import ConfigError
    from realness.trainer.storage.checkpoint_folder import checkpoint_root, list_checkpoints
    from realness.trainer.storage.run_folder import claim_empty_folder
    from realness.trainer.storage.weights import GENERATOR_FILE

    if not command.file.exists():
        raise ConfigError(f"{command.file} does not exist; give a .pkl or .pt file, or an export")
    if list_checkpoints(checkpoint_root(command.file)):
        raise ConfigError(
            f"{command.file} is a run already; all commands take it, and train --init-from "
            f"{command.file} starts another run from it"
        )
    is_export = (command.file / GENERATOR_FILE).is_file()
    claim_empty_folder(command.run)
    with tempfile.TemporaryDirectory(
        prefix=f".{command.run.name}-", dir=command.run.parent
    ) as made:
        staged = Path(made) / command.run.name
        staged.mkdir()
        text = _from_export(command, staged) if is_export else _from_file(command, staged)
        staged.rename(command.run)
    return f"{command.run}: {text}"


def _from_file(command: Command, staged: Path) -> str:
    """Convert a file; returns what it is."""
    from realness.trainer.checkpoint import Position
    from realness.trainer.inference.kept import Kept
    from realness.trainer.inference.public import (
        NO_UPDATES,
        ModelFileError,
        configuration,
        fixed_noise,
        read_networks,
        read_public,
        write_run,
    )

    model = read_public(command.file)
    origin = _origin(command, model)
    try:
        config = configuration(model, _settings, _r3gan_settings)
        _check_space(command, config, staged)
        states = read_networks(model, config)
        centre = None if model.centre is None else model.centre.read().flatten()
        noise = fixed_noise(model)
    except ModelFileError as error:
        raise ModelFileError(f"{command.file}: {error}") from error
    write_run(staged, config, states, Position(0, NO_UPDATES, ""), Kept(origin, centre, noise))
    if origin.notice:
        print(origin.notice, file=sys.stderr)
    if model.g is None:
        print("the file has no G but its average, so G is the average too", file=sys.stderr)
    if model.d is None:
        print("the file has no D, so D is random: its scores mean nothing yet", file=sys.stderr)
    size = config.data.resolution
    return f"{model.kind}, {size}x{size}; licence: {origin.licence}"


def _from_export(command: Command, staged: Path) -> str:
    """Convert an export; returns what it is."""
    from realness.trainer.checkpoint import Position
    from realness.trainer.export import load
    from realness.trainer.inference.public import NO_UPDATES, write_run

    exported = load(command.file)
    generator = exported.generator
    _check_space(command, generator.config, staged)
    state = generator.module.state_dict()
    states = {"EMA": state, "G": state, "D": exported.discriminator.module.state_dict()}
    position = Position(generator.images_seen, NO_UPDATES, generator.data_digest)
    write_run(staged, generator.config, states, position, generator.kept)
    return f"an export, after {generator.images_seen:,} images of training"


def _settings(resolution: int) -> TrainConfig:
    """The settings of the preset small-R, with those published for going on from trained networks.

    Karras et al., "Training Generative Adversarial Networks with Limited Data" (NeurIPS 2020): no
    ramp-up of the average, and augmentation that adapts five times as fast.
    """
    from realness.launch.stylegan2_presets import small
    from realness.trainer.augment.configs import AdaptiveConfig

    augment = AdaptiveConfig(augment_speed_kimg=100.0)
    return replace(small(resolution), augment=augment, ema_rampup=0.0)


def _r3gan_settings(resolution: int) -> TrainConfig:
    """The preset for the nearest published resolution, with its schedules at their ends."""
    from realness.launch.r3gan_presets import cifar10_r3gan, ffhq_r3gan
    from realness.trainer.augment.configs import FixedConfig
    from realness.trainer.config import with_fields

    base = cifar10_r3gan() if resolution <= 32 else ffhq_r3gan(64 if resolution <= 64 else 256)
    penalty, rates, p = base.penalty, base.optimizer, base.augment.augment_p  # type: ignore[attr-defined]
    ended = with_fields(
        base,
        resolution=resolution,
        ema_halflife_kimg=base.ema_halflife_final_kimg,
        ema_halflife_final_kimg=None,
        r1_gamma=penalty.r1_gamma_final,
        r1_gamma_final=None,
        r2_gamma=penalty.r2_gamma_final,
        r2_gamma_final=None,
        beta2=rates.algorithm.beta2_final,  # type: ignore[attr-defined]
        beta2_final=None,
        lr_g=rates.lr_g * rates.lr_final,
        lr_d=rates.lr_d * rates.lr_final,
        lr_decay="none",
        lr_final=0.0,
        schedule_kimg=0.0,
    )
    return replace(ended, augment=FixedConfig(augment_ops="bgc0.5x", augment_p=p))


def _origin(command: Command, model: PublicModel) -> Origin:
    from realness.trainer.storage.origin import NO_LICENCE, Origin

    digest = hashlib.sha256()
    with command.file.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    licence = command.licence or (NVIDIA_LICENCE if model.nvidia else NO_LICENCE)
    return Origin(
        source=command.source or command.file.name,
        sha256=digest.hexdigest(),
        kind=model.kind,
        licence=licence,
        non_commercial=re.search(NON_COMMERCIAL, licence, re.IGNORECASE) is not None,
        missing="" if model.d is not None else "D",
    )


def _check_space(command: Command, config: TrainConfig, staged: Path) -> None:
    """Raise ConfigError if the disk cannot hold the run."""
    from realness.trainer.config import ConfigError
    from realness.trainer.planning.memory import checkpoint_bytes

    needed = checkpoint_bytes(config)
    free = shutil.disk_usage(staged).free
    if free < needed:
        raise ConfigError(
            f"the disk of {command.run} has {free / 2**30:.1f} GiB free, but the run needs "
            f"{needed / 2**30:.1f} GiB; free some space, or use another disk"
        )


if __name__ == "__main__":
    run_as_script(main)
