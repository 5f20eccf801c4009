"""A `Gan` for images whose networks are in DeepSpeed engines, with its moving average and state."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from realness.trainer.checkpoint.fragments import Fragment, replicated, share_of
from realness.trainer.config import TrainConfig
from realness.trainer.config.average import snapshot_name
from realness.trainer.config.schedule import Schedule
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.engines.compiled import wants_compiled
from realness.trainer.engines.deepspeed_config import deepspeed_config
from realness.trainer.engines.deepspeed_engine import Engine
from realness.trainer.engines.optimizers import lazily_corrected
from realness.trainer.engines.prepare import prepare_network
from realness.trainer.networks.batch_norm import has_batch_statistics
from realness.trainer.networks.growing import faded, set_stage
from realness.trainer.updates.build import build_augmentation, build_classes, build_networks
from realness.trainer.updates.ema import Average, Ema, PowerEma
from realness.trainer.updates.freeze import freeze
from realness.trainer.updates.gan import Gan

log = logging.getLogger("realness.trainer")


@dataclass(frozen=True)
class ShardedGan(Gan):
    """The networks in their engines, and the moving averages of G.

    ema: the average that samples and metrics use. power: the power-function averages by width; with
    --ema power the first of them is `ema` too.
    """

    g: Engine
    d: Engine
    ema: Average = field(kw_only=True)
    power: Mapping[float, PowerEma] = field(kw_only=True, default_factory=dict)

    @property
    def averages(self) -> dict[str, Average]:
        """All averages by their names in a checkpoint."""
        names = self.config.average.names
        power = {names[width]: average for width, average in self.power.items()}
        return {"EMA": self.ema, **power}

    def owned_state(self) -> list[Fragment]:
        """The fragments that this rank writes into a checkpoint."""
        fragments = self.g.owned_state() + self.d.owned_state()
        for name, average in self.averages.items():
            fragments += average.owned_state(name)
        return fragments + [
            share_of(whole, rank(), world_size()) for whole in self._augment_state()
        ]

    def owned_snapshot(self) -> list[Fragment]:
        """The fragments that this rank writes into a snapshot of the power-function averages."""
        return [
            fragment
            for width, average in self.power.items()
            for fragment in average.owned_state(snapshot_name(width))
        ]

    def target_state(self) -> list[Fragment]:
        """The fragments that this rank reads from a checkpoint."""
        fragments = self.g.target_state() + self.d.target_state()
        for name, average in self.averages.items():
            fragments += average.state(name)
        return fragments + self._augment_state()

    def _augment_state(self) -> list[Fragment]:
        # A run that starts to augment when it is resumed has stored nothing.
        tensors = self.augment.tensors() if self.augment else {}
        return [replace(whole, optional=True) for whole in replicated("augment", tensors)]

    def grow(self, images: int) -> None:
        """Set how far both networks have grown after `images` images.

        At the first update of a new side both optimisers are reset. Otherwise Adam's first steps
        would be too large in layers that had no gradient yet, because it corrects their moments for
        all updates so far.
        """
        growth, size = self.config.growth, self.config.data.resolution
        stage = growth.at(images, size)
        starts_side = images and growth.at(images - self.config.batch_size, size).side < stage.side
        for network in (self.g, self.d):
            set_stage(network.module, stage)
            if starts_side:
                network.restart_optimizer()

    def as_grown(self, real: Tensor, images: int) -> Tensor:
        """Real images [B, 3, R, R] as D sees them after `images` images: faded in a transition."""
        return faded(real, self.config.growth.at(images, self.config.data.resolution))

    def update_average(self, images_seen: int) -> None:
        """Move the averages towards G after an iteration; collective."""
        stage = self.config.growth.at(images_seen, self.config.data.resolution)
        with self.g.weights_gathered():
            for average in self.averages.values():
                set_stage(average.module, stage)
                average.update(self.g.module, self.config.batch_size, images_seen)

    def num_updates(self) -> dict[str, int]:
        """Optimiser updates by engine name."""
        return {engine.name: engine.num_updates() for engine in (self.g, self.d)}

    def finish_loading(self, num_updates: dict[str, int]) -> None:
        """Apply a filled `target_state`, and set the engines' counts of updates."""
        for engine in (self.g, self.d):
            engine.finish_loading(num_updates[engine.name])

    def close(self) -> None:
        """Release both engines."""
        self.g.close()
        self.d.close()


def build_gan(config: TrainConfig, device: torch.device) -> ShardedGan:
    """Build networks, engines and the moving averages; collective."""
    generator, discriminator, objective = build_networks(config)
    ema, power = _build_averages(config, generator.to(device))
    freeze(config, generator, discriminator)
    has_statistics = has_batch_statistics(generator)
    compiled = wants_compiled(config.engine, device, has_statistics=has_statistics)
    if rank() == 0 and config.num_passes(world_size()) > 1 and has_statistics:
        log.warning(
            "G has batch normalisation: its statistics are computed over %d images, not over the "
            "batch of %d, so results differ from those with --micro-batch 0",
            config.engine.micro_batch * world_size(),
            config.batch_size,
        )

    if rank() == 0 and (
        warning := config.growth.warning(config.data.resolution, config.num_images)
    ):
        log.warning("%s", warning)

    def engine(name: str, module: nn.Module, stage: int, lr: float, penalty: int) -> Engine:
        num_updates = penalty / config.batch_size
        optimizer, lr = lazily_corrected(config.optimizer, lr, num_updates)
        return Engine(
            name,
            module,
            prepare_network(module, config.engine, device, compiled=compiled),
            lr=lr,
            optimizer=optimizer,
            capturable=config.engine.cuda_graphs,
            config=deepspeed_config(config, stage, world_size()),
        )

    penalty, rates = config.penalty, config.optimizer
    for_g = penalty.path_length_images if penalty.path_length_weight else 0
    for_d = penalty.penalty_images if penalty.any else 0
    stage_g, stage_d = config.engine.stages(world_size())
    if rank() == 0 and (stage_g, stage_d) != (config.engine.zero_g, config.engine.zero_d):
        log.info("ZeRO 1 has nothing to shard on a single rank and runs as ZeRO 0")
    g = engine("G", generator, stage_g, rates.lr_g, for_g)
    d = engine("D", discriminator, stage_d, rates.lr_d, for_d)
    augment = build_augmentation(config, device)
    classes = build_classes(config, device)
    return ShardedGan(
        config, device, objective, g, d, augment=augment, classes=classes, ema=ema, power=power
    )


def _build_averages(
    config: TrainConfig, generator: nn.Module
) -> tuple[Average, dict[float, PowerEma]]:
    """The average that samples use, and the power-function averages by width."""
    power = {width: PowerEma(generator, width) for width in config.average.widths}
    if config.average.ema == "power":
        return next(iter(power.values())), power
    return Ema(generator, _halflife(config), config.ema_rampup), power


def _halflife(config: TrainConfig) -> float | Schedule:
    """Half-life of the average in images."""
    start, end = config.ema_halflife_kimg, config.ema_halflife_final_kimg
    return start * 1000 if end is None else config.scheduled(start * 1000, end * 1000)
