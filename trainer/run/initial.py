"""The start of a run from the weights of another run, or of an export."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from realness.trainer import checkpoint
from realness.trainer.checkpoint import CheckpointError
from realness.trainer.checkpoint.fragments import Fragment
from realness.trainer.config import ConfigError, TrainConfig
from realness.trainer.distributed.collectives import gather, on_all_ranks
from realness.trainer.distributed.ranks import rank
from realness.trainer.metrics import choose
from realness.trainer.storage.origin import read_origin, write_origin
from realness.trainer.storage.run_folder import read_config
from realness.trainer.storage.weights import (
    DISCRIMINATOR_FILE,
    GENERATOR_FILE,
    WeightsError,
    read_weights,
)
from realness.trainer.updates.build import build_networks
from realness.trainer.updates.sharded_gan import ShardedGan

log = logging.getLogger("realness.trainer")

NETWORKS = ("G", "EMA", "D")
"""The networks of a checkpoint; EMA is the moving average of G."""

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Source:
    """Where weights come from: the folder of a run with one of its checkpoints, or an export."""

    folder: Path
    checkpoint: Path | None
    config: TrainConfig


@dataclass(frozen=True)
class _Fit:
    """Which tensors of a network are taken: `taken` by their new names, with their old ones.

    new: those that keep their initial values; unused: those of the source that are not taken.
    """

    taken: dict[str, str]
    new: list[str]
    unused: list[str]


def start_from(config: TrainConfig, gan: ShardedGan, folder: Path) -> None:
    """Fill the networks of a new run in `folder` from `--init-from`, and log what fits; collective.

    Every rank reads only the stretches that it holds. The optimisers stay as they are. The origin
    of the weights, with their licence, is copied into the run.

    Raises ConfigError, on every rank, for a source that is missing or damaged, or has nothing that
    fits.
    """
    asked = config.transfer.init_from
    chosen = on_all_ranks(lambda: _choose(asked) if rank() == 0 else None, failure=ConfigError)
    path, where = gather(chosen)[0]
    source = on_all_ranks(lambda: _Source(path, where, read_config(path)), failure=ConfigError)
    fits = _fits(config, source.config)
    if not any(fit.taken for fit in fits.values()):
        raise ConfigError(
            f"--init-from={asked} holds --generator={source.config.g.name} --discriminator="
            f"{source.config.d.name} at {source.config.data.resolution} pixels, of which nothing "
            "fits this run; use the same networks"
        )
    targets = _targets(gan, fits)
    try:
        if where is None:
            on_all_ranks(lambda: _fill(path, targets), failure=ConfigError)
        else:
            checkpoint.load(where, targets)
    except CheckpointError as error:
        raise ConfigError(f"--init-from={asked}: {error}") from error
    gan.finish_loading({engine.name: 0 for engine in (gan.g, gan.d)})
    log.info("starting from the weights of %s, with new optimisers", where or path)
    for network, fit in fits.items():
        _log_fit(network, fit)
    origin = on_all_ranks(lambda: read_origin(path), failure=ConfigError)
    if origin is not None and rank() == 0:
        write_origin(folder, origin)


def _choose(asked: str) -> tuple[Path, Path | None]:
    """The folder that `--init-from` names, and one of its checkpoints if it is a run."""
    path, which = Path(asked), "latest"
    if not path.exists() and ":" in asked:
        before, _, which = asked.rpartition(":")
        path = Path(before)
    if (path / GENERATOR_FILE).is_file():
        return path, None
    if not path.is_dir():
        raise ConfigError(
            f"--init-from={asked} is not a folder; give a run, or an export. A public model "
            "becomes a run by `realness convert FILE RUN`"
        )
    if which == "all":
        raise ConfigError(f"--init-from={asked}: name one checkpoint, latest or best")
    return path, choose(path, which)[-1]


def _shapes(config: TrainConfig) -> dict[str, Shapes]:
    """The shapes of all tensors of a run's networks."""
    with torch.device("meta"):
        generator, discriminator, _ = build_networks(config)
    modules = {"G": generator, "EMA": generator, "D": discriminator}
    return {
        name: {key: tuple(value.shape) for key, value in module.state_dict().items()}
        for name, module in modules.items()
    }


def _fits(config: TrainConfig, source: TrainConfig) -> dict[str, _Fit]:
    """What fits, by network."""
    doublings = config.data.resolution.bit_length() - source.data.resolution.bit_length()
    wanted, offered = _shapes(config), _shapes(source)
    components = {"G": source.g, "EMA": source.g, "D": source.d}
    return {
        name: _fit(
            wanted[name],
            offered[name],
            lambda key, part=components[name]: part.counterpart(key, doublings),
        )
        for name in NETWORKS
    }


def _fit(wanted: Shapes, offered: Shapes, counterpart: Callable[[str], str]) -> _Fit:
    taken, unused = {}, []
    for key, shape in offered.items():
        new = counterpart(key)
        if wanted.get(new) == shape:
            taken[new] = key
        else:
            unused.append(key)
    return _Fit(taken, [key for key in wanted if key not in taken], unused)


def _targets(gan: ShardedGan, fits: dict[str, _Fit]) -> list[Fragment]:
    """This rank's stretches of the tensors that are taken, under their names in the source."""
    targets = []
    for fragment in gan.target_state():
        group, _, key = fragment.name.partition("/")
        network, _, part = group.partition(".")
        # Power-function averages forget what they began with.
        old = fits[network].taken.get(key) if part == "model" and network in fits else None
        if old is not None:
            targets.append(replace(fragment, name=f"{group}/{old}"))
    return targets


def _fill(folder: Path, targets: list[Fragment]) -> None:
    """Fill `targets` from an export; its one generator is G and the average.

    Raises WeightsError for files that are damaged, or do not match the folder's config.json.
    """
    files = {"G": GENERATOR_FILE, "EMA": GENERATOR_FILE, "D": DISCRIMINATOR_FILE}
    tensors = {name: read_weights(folder / name)[0] for name in set(files.values())}
    for target in targets:
        group, _, key = target.name.partition("/")
        name = files[group.partition(".")[0]]
        value = tensors[name].get(key)
        if value is None or value.numel() != target.numel:
            raise WeightsError(f"{folder / name} does not match its folder's config.json: {key}")
        end = target.offset + target.data.numel()
        target.data.copy_(value.flatten()[target.offset : end])


def _log_fit(network: str, fit: _Fit) -> None:
    total = len(fit.taken) + len(fit.new)
    log.info("%s: %d of %d tensors are taken", network, len(fit.taken), total)
    if fit.new:
        log.info("%s: new, with initial values: %s", network, ", ".join(fit.new))
    if fit.unused:
        log.info("%s: not taken: %s", network, ", ".join(fit.unused))
