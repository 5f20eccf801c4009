"""The two players with everything they need, built from a configuration."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from realness.trainer.config import TrainConfig
from realness.trainer.distributed import rank, world_size
from realness.trainer.ema import Ema
from realness.trainer.engine import Engine, deepspeed_config
from realness.trainer.fragments import Fragment
from realness.trainer.networks import build_discriminator, build_generator
from realness.trainer.objectives import Objective, build_objective
from realness.trainer.randomness import Draws, Stream, batch_draws


@dataclass(frozen=True)
class Gan:
    """Generator, discriminator and moving average, with the objective that they play."""

    config: TrainConfig
    device: torch.device
    objective: Objective
    g: Engine
    d: Engine
    ema: Ema

    @property
    def local_batch(self) -> int:
        """Images of one rank in one update."""
        return self.config.batch_size // world_size()

    def draws(self, stream: Stream, first: int) -> Draws:
        """This rank's draws for the global batch that starts at sample `first` of `stream`."""
        return batch_draws(
            self.config.seed,
            stream,
            first,
            self.local_batch,
            rank=rank(),
            device=self.device,
            impl=self.config.engine.impl,
        )

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, R, R] -> float32 in [-1, 1], channels last."""
        images = images.to(self.device, torch.float32, memory_format=torch.channels_last)
        return images.mul_(1 / 127.5).sub_(1)

    def set_lr_factor(self, factor: float) -> None:
        """Set both learning rates to `factor` times their base values."""
        self.g.set_lr_factor(factor)
        self.d.set_lr_factor(factor)

    def owned_state(self) -> list[Fragment]:
        """What this rank writes into a checkpoint."""
        return self.g.owned_state() + self.d.owned_state() + self.ema.owned_state()

    def target_state(self) -> list[Fragment]:
        """What this rank reads from a checkpoint."""
        return self.g.target_state() + self.d.target_state() + self.ema.state()

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


def build_networks(config: TrainConfig) -> tuple[nn.Module, nn.Module, Objective]:
    """G, D and the objective, with the same initial weights on every rank and any device."""
    objective = build_objective(config.objective, impl=config.engine.impl)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        size, impl = config.data.resolution, config.engine.impl
        generator = build_generator(config.g, size, impl)
        discriminator = build_discriminator(config.d, size, objective.num_outputs, impl)
    return generator, discriminator, objective


def build_gan(config: TrainConfig, device: torch.device) -> Gan:
    """Build networks, engines and the moving average; collective."""
    generator, discriminator, objective = build_networks(config)
    ema = Ema(generator.to(device), config.ema_halflife_kimg * 1000, config.ema_rampup)
    settings = config.engine

    def engine(name: str, module: nn.Module, stage: int, lr: float) -> Engine:
        return Engine(
            name,
            module,
            device=device,
            lr=lr,
            optimizer=config.optimizer,
            bf16=settings.precision == "bf16",
            config=deepspeed_config(
                settings, config.optimizer, config.batch_size, world_size(), stage
            ),
        )

    g = engine("G", generator, settings.zero_g, config.optimizer.lr_g)
    d = engine("D", discriminator, settings.zero_d, config.optimizer.lr_d)
    return Gan(config, device, objective, g, d, ema)
