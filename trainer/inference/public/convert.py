"""A run folder made from the networks of a public model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from realness.trainer import checkpoint
from realness.trainer.checkpoint import Position
from realness.trainer.checkpoint.fragments import replicated
from realness.trainer.config import ConfigError, TrainConfig
from realness.trainer.inference.kept import Kept, write_kept
from realness.trainer.inference.public.model import (
    WHAT_WORKS,
    PublicModel,
    Tensors,
    discriminator_sizes,
    generator_sizes,
    shortened,
)
from realness.trainer.inference.public.pickles import ModelFileError
from realness.trainer.inference.public.r3gan import r3gan_configuration, r3gan_resolution
from realness.trainer.networks.stylegan2_configs import (
    StyleGAN2DiscriminatorConfig,
    StyleGAN2GeneratorConfig,
)
from realness.trainer.storage.checkpoint_folder import checkpoint_root
from realness.trainer.storage.run_folder import write_config
from realness.trainer.updates.build import build_networks

NO_UPDATES = {"G": 0, "D": 0}
"""The optimisers' counts of updates in a new checkpoint."""
MOST_WIDTH = 1 << 14
"""Channels, or dimensions of z and w."""
OWN_STATE = {"path_length_mean"}
"""Tensors of this program's networks that no public model has; they keep their initial values."""


def configuration(
    model: PublicModel, base: Callable[[int], TrainConfig], r3gan: Callable[[int], TrainConfig]
) -> TrainConfig:
    """The configuration of a run with the model's networks.

    base, r3gan: the other settings, for a resolution, of StyleGAN2 and of R3GAN. Raises
    ModelFileError for sizes that this program's networks cannot have.
    """
    try:
        if model.family == "r3gan":
            _check_width([value.shape[0] for value in model.average.values() if value.shape])
            return r3gan_configuration(model, r3gan(_valid(r3gan_resolution(model))))
        return _stylegan2_configuration(model, base)
    except ConfigError as error:
        raise ModelFileError(f"its sizes are not valid: {error}") from error


def _valid(resolution: int) -> int:
    """A resolution that this program's networks can have, or ModelFileError."""
    if not 32 <= resolution <= 1024:
        raise ModelFileError(f"its images have {resolution} pixels; 32 to 1024 can be read")
    return resolution


def _check_width(widths: Sequence[int]) -> None:
    if max(widths) > MOST_WIDTH:
        raise ModelFileError(f"it has layers wider than {MOST_WIDTH:,}; no public model has")


def _stylegan2_configuration(model: PublicModel, base: Callable[[int], TrainConfig]) -> TrainConfig:
    g, d = generator_sizes(model.average), None
    if model.d is not None:
        d = discriminator_sizes(model.d)
        if d.resolution != g.resolution:
            raise ModelFileError(f"its G makes {g.resolution} pixels, its D takes {d.resolution}")
    layers = [name for name in model.average if name.startswith("mapping.layers.")]
    first = model.average.get("mapping.layers.0.weight")
    if first is None or len(first.shape) != 2:
        raise ModelFileError(f"its G has no mapping network. {WHAT_WORKS}")
    d = d or g
    _check_width([*first.shape, g.most, d.most])
    config = base(_valid(g.resolution))
    return replace(
        config,
        data=replace(config.data, resolution=g.resolution),
        g=StyleGAN2GeneratorConfig(
            z_dim=first.shape[1],
            w_dim=first.shape[0],
            mapping_layers=len(layers) // 2,
            g_channel_base=g.base,
            g_max_channels=g.most,
            g_clamp=model.clamps[0],
        ),
        d=StyleGAN2DiscriminatorConfig(
            d_channel_base=d.base,
            d_max_channels=d.most,
            minibatch_group=model.group,
            d_clamp=model.clamps[1],
        ),
    )


def read_networks(model: PublicModel, config: TrainConfig) -> dict[str, dict[str, Tensor]]:
    """The states of "G", "EMA" and "D", by the names of checkpoints, with the model's weights.

    A missing G is the average; a missing D is random.

    Raises ModelFileError, naming them, for tensors that are missing, unknown or of another shape.
    """
    parts = {"EMA": model.average, "G": model.g or model.average, "D": model.d or {}}
    try:
        with torch.device("meta"):
            generator, discriminator, _ = build_networks(config)
    except ValueError as error:
        raise ModelFileError(f"its sizes are not valid: {error}") from error
    _check("G", generator, parts["EMA"])
    _check("G", generator, parts["G"])
    if model.d is not None:
        _check("D", discriminator, parts["D"])
    generator, discriminator, _ = build_networks(config)
    empty = {"EMA": generator, "G": generator, "D": discriminator}
    return {
        name: {
            key: parts[name][key].read() if key in parts[name] else value.clone()
            for key, value in empty[name].state_dict().items()
        }
        for name in parts
    }


def _check(network: str, module: nn.Module, tensors: Tensors) -> None:
    """Raise ModelFileError unless the tensors are those of the network."""
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    missing = [name for name in expected if name not in tensors and name not in OWN_STATE]
    problems = [f"lacks {shortened(missing)}"] if missing else []
    if unknown := [name for name in tensors if name not in expected]:
        problems.append(f"has {shortened(unknown)}, which this program's network has not")
    problems += [
        f"has {name} of shape {tuple(value.shape)}, not {expected[name]}"
        for name, value in tensors.items()
        if name in expected and tuple(value.shape) != expected[name]
    ]
    if problems:
        raise ModelFileError(f"its {network} {shortened(problems)}. {WHAT_WORKS}")


def fixed_noise(model: PublicModel) -> Tensor | None:
    """The fixed noise of all convolutions, [noise_dim]; None if the model has none."""
    if not model.noise:
        return None
    return torch.cat([value.read().flatten() for value in model.noise])


def write_run(
    folder: Path,
    config: TrainConfig,
    states: Mapping[str, Mapping[str, Tensor]],
    position: Position,
    kept: Kept | None,
) -> None:
    """Write a run folder with one checkpoint into the empty folder `folder`.

    states: of "G", "EMA" and "D". The optimisers' moments are 0.

    Raises CheckpointError or OSError if the disk is full.
    """
    fragments = []
    for name, state in states.items():
        fragments += replicated(f"{name}.model", dict(state))
    with torch.device("meta"):
        generator, discriminator, _ = build_networks(config)
    for name, module in (("G", generator), ("D", discriminator)):
        for moment in config.optimizer.algorithm.moments:
            empty = {key: torch.zeros(value.shape) for key, value in module.named_parameters()}
            fragments += replicated(f"{name}.{moment}", empty)
    checkpoint.save(checkpoint_root(folder), fragments, position, keep=1)
    if kept is not None:
        write_kept(folder, kept)
    # Power-function averages cannot begin in the middle of a run.
    write_config(folder, replace(config, average=replace(config.average, ema="exponential")))
