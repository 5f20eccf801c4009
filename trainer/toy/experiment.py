"""A GAN in the plane: S members with separate seeds, trained with the step code for images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from realness.trainer.config import TrainConfig
from realness.trainer.engines.plain_engine import PlainEngine
from realness.trainer.objectives.base import build_objective
from realness.trainer.randomness import Purpose, Stream
from realness.trainer.toy import networks as mlp
from realness.trainer.toy.data import ToyData
from realness.trainer.toy.names import Networks
from realness.trainer.updates.accumulation import Stats
from realness.trainer.updates.gan import Gan
from realness.trainer.updates.iteration import Updates, run_iteration
from realness.trainer.updates.step import update_d, update_g

_SAMPLES_AT_ONCE = 1000


def _networks(networks: Networks, num_outputs: int, seeds: Sequence[int]) -> tuple[nn.Module, ...]:
    if networks == "realness":
        return mlp.ToyGenerator(seeds), mlp.ToyDiscriminator(num_outputs, seeds)
    return mlp.FarGenerator(seeds), mlp.FarDiscriminator(num_outputs, seeds)


@dataclass
class Experiment:
    """Networks being trained on points; `iterations` counts finished iterations."""

    gan: Gan
    points: Tensor
    iterations: int = 0

    def iterate(self) -> Stats:
        """k_D updates of D, then k_G updates of G, as in the loop for images.

        Returns the statistics of the last update of each.
        """
        stats: Stats = {}
        seen = self.iterations * self.gan.config.batch_size
        for report in run_iteration(self.gan, Updates(update_d, update_g), self._real, seen):
            stats |= report
        self.iterations += 1
        return stats

    def draw_points(self, stream: Stream, first_sample: int, count: int) -> Tensor:
        """Training points drawn with replacement, [count * S, 2], interleaved."""
        draws = self.gan.draws(stream, first_sample, count)
        share = draws.uniform(Purpose.POINT, 1).squeeze(1)
        return self.points[(share * len(self.points)).long()]

    def _real(self, stream: Stream, first_sample: int) -> Tensor:
        config = self.gan.config
        count = config.num_real if stream == Stream.D_REAL else config.batch_size
        return self.draw_points(stream, first_sample, count)

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Points of each member's generator in evaluation mode, [S, count, 2].

        The latents are the same in every call.
        """
        module, members = self.gan.g.module, self.gan.num_members
        draws = self.gan.draws(Stream.SHOWN, 0, count)
        latents = draws.normal(Purpose.LATENT, self.gan.config.g.z_dim)
        module.eval()
        rows = torch.cat([module(part) for part in latents.split(_SAMPLES_AT_ONCE * members)])
        module.train()
        return rows.view(count, members, 2).transpose(0, 1)


def build_experiment(
    config: TrainConfig, data: ToyData, seeds: Sequence[int], networks: Networks = "realness"
) -> Experiment:
    """The experiment that trains `config` on `data`, with one member per seed.

    Up to rounding, member m is identical to the experiment with the single seed seeds[m].
    """
    objective = build_objective(config.objective, len(seeds))
    generator, discriminator = _networks(networks, objective.num_outputs, seeds)

    def engine(module: nn.Module, lr: float) -> PlainEngine:
        # Losses are means over all members' rows; times S, each member gets its own mean.
        return PlainEngine(module, lr=lr, optimizer=config.optimizer, loss_scale=float(len(seeds)))

    gan = Gan(
        config,
        torch.device("cpu"),
        objective,
        engine(generator, config.optimizer.lr_g),
        engine(discriminator, config.optimizer.lr_d),
        seeds=tuple(seeds),
    )
    return Experiment(gan, data.training_points())
