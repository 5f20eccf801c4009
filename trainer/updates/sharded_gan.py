"""A `Gan` on images whose networks are DeepSpeed engines, with its moving average and its state."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from realness.trainer.checkpoint.fragments import Fragment
from realness.trainer.config import TrainConfig
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.engines.compiled import can_compile
from realness.trainer.engines.deepspeed_config import deepspeed_config
from realness.trainer.engines.deepspeed_engine import Engine
from realness.trainer.engines.optimizers import lazily_corrected
from realness.trainer.networks import (
    ImageNetwork,
    choose_layout,
    has_batch_statistics,
    recompute_blocks,
    sampling_inputs,
)
from realness.trainer.objectives import CodeObjective
from realness.trainer.randomness import Purpose, Stream, batch_draws
from realness.trainer.updates.build import build_networks
from realness.trainer.updates.ema import Ema
from realness.trainer.updates.gan import Gan

log = logging.getLogger("realness.trainer")


@dataclass(frozen=True)
class ShardedGan(Gan):
    """The players as engines, and the moving average of G."""

    g: Engine
    d: Engine
    ema: Ema = field(kw_only=True)

    @torch.no_grad()
    def samples(self, count: int) -> Tensor:
        """`count` images [count, 3, R, R] of the moving average, always for the same draws."""
        size = self.config.engine.micro_batch or self.local_batch
        parts = range(0, count, size)
        return torch.cat([self._sample(at, min(size, count - at)) for at in parts])

    def _sample(self, first: int, count: int) -> Tensor:
        draws = batch_draws(self.config.seed, Stream.SHOWN, first, count, device=self.device)
        inputs = sampling_inputs(self.ema.module, draws)
        if self.objective.code_dim:
            mean, std = self._test_factors()
            inputs["code"] = mean + std * draws.normal(Purpose.CODE, self.objective.code_dim)
        latents = draws.normal(Purpose.LATENT, self.config.g.z_dim)
        return self.ema.module(latents, **inputs).cpu()

    def _test_factors(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [code_dim] of the codes to sample with (section 4.5)."""
        if self.config.objective.posterior.test_code == "ema":
            module = cast(Any, self.ema.module)
            return module.code_mean, module.code_std
        mean, std = cast(CodeObjective, self.objective).typical_factors()
        return mean.to(self.device), std.to(self.device)

    def owned_state(self) -> list[Fragment]:
        """What this rank writes into a checkpoint."""
        return self.g.owned_state() + self.d.owned_state() + self.ema.owned_state()

    def target_state(self) -> list[Fragment]:
        """What this rank reads from a checkpoint."""
        return self.g.target_state() + self.d.target_state() + self.ema.state()

    def update_average(self, images_seen: int) -> None:
        """Move the average towards G, which has learnt from another batch; collective."""
        with self.g.gathered():
            self.ema.update(self.g.module, self.config.batch_size, images_seen)

    def num_updates(self) -> dict[str, int]:
        """Optimiser updates by engine name."""
        return {engine.name: engine.num_updates() for engine in (self.g, self.d)}

    def finish_loading(self, num_updates: dict[str, int]) -> None:
        """Take over a filled `target_state`."""
        for engine in (self.g, self.d):
            engine.finish_loading(num_updates[engine.name])

    def close(self) -> None:
        """Release both engines."""
        self.g.close()
        self.d.close()


def build_gan(config: TrainConfig, device: torch.device) -> ShardedGan:
    """Build networks, engines and the moving average; collective."""
    generator, discriminator, objective = build_networks(config)
    for network in (generator, discriminator):
        cast(ImageNetwork, network).memory_format = choose_layout(config.engine.memory_format)
    ema = Ema(generator.to(device), config.ema_halflife_kimg * 1000, config.ema_rampup)
    settings = config.engine
    compiled = settings.compile and can_compile(
        device, has_statistics=has_batch_statistics(generator)
    )
    if rank() == 0 and config.num_passes(world_size()) > 1 and has_batch_statistics(generator):
        log.warning(
            "G has batch normalisation: its statistics are those of %d images, not of the batch of "
            "%d, so this run is not the one that --micro-batch 0 gives",
            settings.micro_batch * world_size(),
            config.batch_size,
        )

    def engine(name: str, module: nn.Module, stage: int, lr: float, penalty: int) -> Engine:
        num_updates = penalty / config.batch_size
        optimizer, lr = lazily_corrected(config.optimizer, lr, num_updates)
        if settings.checkpoint_activations:
            recompute_blocks(module)
        return Engine(
            name,
            module,
            device=device,
            lr=lr,
            optimizer=optimizer,
            bf16=settings.precision == "bf16",
            capturable=settings.cuda_graphs,
            compiled=compiled,
            config=deepspeed_config(config, stage, world_size()),
        )

    penalty, rates = config.penalty, config.optimizer
    for_g = penalty.path_length_images if penalty.path_length_weight else 0
    for_d = penalty.penalty_images if penalty.any else 0
    g = engine("G", generator, settings.zero_g, rates.lr_g, for_g)
    d = engine("D", discriminator, settings.zero_d, rates.lr_d, for_d)
    return ShardedGan(config, device, objective, g, d, ema=ema)
