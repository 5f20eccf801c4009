"""Averages of G of any width, computed after training from those that the run kept.

Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models" (CVPR 2024, arXiv
2312.02696), section 3.2: an average is nearly a sum of averages of two or three other widths at
several times; `trainer/updates/power_profiles.py` computes the factors.
"""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from realness.trainer import checkpoint
from realness.trainer.checkpoint import Position
from realness.trainer.checkpoint.combining import Term, load_sum, readable_before
from realness.trainer.checkpoint.fragments import replicated
from realness.trainer.config import ConfigError, TrainConfig
from realness.trainer.config.average import parse_widths, snapshot_name, width_name
from realness.trainer.storage.checkpoint_folder import snapshot_root
from realness.trainer.updates.ema import averaged_names
from realness.trainer.updates.power_profiles import Profile, reconstruct

EMA = "ema"
LARGEST_RESIDUAL = 0.05
"""A larger difference from the wanted profile is reported (a choice)."""

log = logging.getLogger("realness.trainer")


def chosen_weights(weights: str, widths: str, *, single: bool) -> list[str]:
    """The names of the weights that --weights and --ema-width ask for: "ema", "raw", "ema-0.12".

    widths: separated by commas; empty for the run's own average, or for G itself. single: whether
    only one is allowed. Raises ConfigError for widths that are not valid, or that do not go with
    `weights`.
    """
    if not widths:
        return [weights]
    if weights != EMA:
        raise ConfigError(
            f"--ema-width={widths} is of a moving average, but --weights={weights} asks for G "
            "itself; leave out one of the two"
        )
    found = parse_widths("--ema-width", widths)
    if single and len(found) > 1:
        raise ConfigError(
            f"--ema-width={widths}: give one width; only evaluate takes several, and not with "
            "--checkpoint best"
        )
    return [f"{EMA}-{width_name(width)}" for width in found]


def load_width(
    run: Path, folder: Path, config: TrainConfig, module: nn.Module, weights: str
) -> Position:
    """Fill `module` with the average `weights`, such as "ema-0.12", at a checkpoint; collective.

    Averaged tensors are summed in float64. The others are the checkpoint's. A width that the run
    kept is read as it is. Logs a warning if the average is not close to the one that was asked for.

    Raises:
        ConfigError: for a run without power-function averages, or without snapshots before the
            checkpoint.
        CheckpointError: as `checkpoint.load` does for the checkpoint; damaged snapshots are left
            out with a warning.
    """
    width = float(weights.removeprefix(f"{EMA}-"))
    names, state = config.average.names, module.state_dict()
    if not names:
        raise ConfigError(
            f"--ema-width={width:g} needs power-function averages, and {run} kept none: it was "
            "trained with --ema exponential. Train a run with --ema power or --ema both, or leave "
            "out --ema-width"
        )
    if width in names:
        return checkpoint.load(folder, replicated(f"{names[width]}.model", state))
    with checkpoint.noticing_removal(folder):
        position = checkpoint.load(folder, replicated(f"{names[max(names)]}.model", state))
        snapshots = readable_before(snapshot_root(run), position.images, log.warning)
        if not snapshots:
            raise ConfigError(
                f"--ema-width={width:g}: {run} has no snapshot of its averages before "
                f"{position.images:,} images (--ema-snapshot-kimg="
                f"{config.average.ema_snapshot_kimg:g}); use a width that it kept "
                f"({config.average.ema_widths}), or a later checkpoint"
            )
        stored = [(folder, name, Profile(kept, position.images)) for kept, name in names.items()]
        stored += [
            (path, snapshot_name(kept), Profile(kept, int(path.name)))
            for path in snapshots
            for kept in names
        ]
        profiles = [profile for _, _, profile in stored]
        found = reconstruct(profiles, Profile(width, position.images))
        _warn_of_residual(width, found.residual, len(snapshots), config)
        factors = zip(stored, found.coefficients.tolist(), strict=True)
        terms = [Term(path, name, factor) for (path, name, _), factor in factors]
        load_sum(terms, {name: state[name] for name in averaged_names(module)})
    for name, value in state.items():
        if name.endswith("running_var"):
            # Coefficients may be negative, and a variance near 0 may then fall below it.
            value.clamp_(min=0)
    return position


def _warn_of_residual(width: float, residual: float, count: int, config: TrainConfig) -> None:
    if residual > LARGEST_RESIDUAL:
        log.warning(
            "--ema-width=%g differs by %.0f %% from an average of this width (the L2 norm of its "
            "weights over training), as computed from %d snapshots of the widths %s; use a width "
            "nearer to these, or train with a smaller --ema-snapshot-kimg",
            width,
            100 * residual,
            count,
            config.average.ema_widths,
        )
