"""The exported folder: `generator.safetensors`, `discriminator.safetensors`, `config.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from realness import kernels
from realness.trainer.config import ConfigError
from realness.trainer.config.plugins import load_plugins
from realness.trainer.config.tree import portable_config
from realness.trainer.inference.kept import read_kept, write_kept
from realness.trainer.inference.trained import (
    TrainedDiscriminator,
    TrainedGenerator,
    build_empty_discriminator,
    build_empty_generator,
    grown,
    trained_generator,
)
from realness.trainer.storage.run_folder import read_config, write_config
from realness.trainer.storage.weights import (
    DISCRIMINATOR_FILE,
    GENERATOR_FILE,
    WeightsError,
    read_weights,
    write_weights,
)

FORMAT = "1"


@dataclass(frozen=True)
class Exported:
    """Both networks of an exported folder, in evaluation mode."""

    generator: TrainedGenerator
    discriminator: TrainedDiscriminator


def write_networks(
    generator: TrainedGenerator, discriminator: TrainedDiscriminator, out: Path
) -> None:
    """Write both networks and their configuration, without the paths of the run, into `out`."""
    about = {
        "format": FORMAT,
        "images_seen": str(generator.images_seen),
        "data_digest": generator.data_digest,
        "weights": generator.weights,
    }
    for name, module in (
        (GENERATOR_FILE, generator.module),
        (DISCRIMINATOR_FILE, discriminator.module),
    ):
        write_weights(out / name, module.state_dict(), {**about, "network": Path(name).stem})
    if generator.kept is not None:
        write_kept(out, generator.kept)
    write_config(out, portable_config(generator.config))


def load(
    folder: Path | str,
    device: torch.device | str = "cpu",
    *,
    impl: kernels.Impl = "auto",
    plugins: Sequence[str] = (),
) -> Exported:
    """Load both networks of a folder that `launch/export.py` wrote.

    `impl` is the implementation of the fused operations that the networks use. `plugins` are the
    files of the plugins that they were trained with; THEY ARE EXECUTED. Needs no DeepSpeed, reads
    only safetensors and JSON, and executes nothing from the folder.

    Raises:
        ConfigError: for a folder without a valid config.json, or for a missing plugin.
        WeightsError: for weights that are missing, damaged, or of a different architecture; it is
            also a ValueError.
    """
    folder = Path(folder)
    load_plugins(plugins)
    config = read_config(folder)
    config = replace(config, engine=replace(config.engine, impl=impl))
    with kernels.implementation(impl):
        module = build_empty_generator(config, device)
        discriminator = build_empty_discriminator(config, device)
    about = _fill(module, folder / GENERATOR_FILE)
    _fill(discriminator.module, folder / DISCRIMINATOR_FILE)
    try:
        images_seen, digest = int(about["images_seen"]), about["data_digest"]
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"{folder / GENERATOR_FILE} does not state how many images it has seen ({error}); "
            "export the run again"
        ) from error
    # Exports of earlier versions hold the moving average, and do not say so.
    weights = about.get("weights", "ema")
    generator = trained_generator(config, module, images_seen, digest, weights)
    return Exported(
        replace(generator, kept=read_kept(folder, device)),
        grown(discriminator, config, images_seen),
    )


def _fill(module: nn.Module, path: Path) -> dict[str, str]:
    """Load a file's tensors into `module`; returns the file's header."""
    tensors, about = read_weights(path)
    if about.get("format") != FORMAT:
        raise WeightsError(
            f"{path} has format {about.get('format')}; this program reads {FORMAT}: export the run "
            "again with launch/export.py"
        )
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not match its folder's config.json: {error}") from error
    return about
