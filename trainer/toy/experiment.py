"""A GAN in the plane: S members with separate seeds, trained with the step code for images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from realness.data_pipeline import sample_indices
from realness.trainer.config import TrainConfig
from realness.trainer.engines.plain_engine import PlainEngine
from realness.trainer.objectives.anchor_source import IterationHistograms
from realness.trainer.objectives.base import Objective, build_objective
from realness.trainer.objectives.realness import RealnessObjective
from realness.trainer.randomness import Purpose, Stream
from realness.trainer.toy import SETTINGS, Setting
from realness.trainer.toy import networks as mlp
from realness.trainer.toy.data import ToyData
from realness.trainer.toy.names import Networks
from realness.trainer.updates.accumulation import Stats
from realness.trainer.updates.gan import Gan
from realness.trainer.updates.iteration import Updates, run_iteration
from realness.trainer.updates.step import update_d, update_g

_SAMPLES_AT_ONCE = 1000


def _networks(networks: Networks, num_outputs: int, seeds: Sequence[int]) -> tuple[nn.Module, ...]:
    if networks == "far":
        return mlp.FarGenerator(seeds), mlp.FarDiscriminator(num_outputs, seeds)
    setting = SETTINGS[networks]
    generator = mlp.ToyGenerator(seeds, z_dim=setting.z_dim, bn_std=setting.bn_std)
    return generator, mlp.ToyDiscriminator(num_outputs, seeds)


def _objective(config: TrainConfig, members: int, setting: Setting) -> Objective:
    objective = build_objective(config.objective, members)
    if setting.anchors != "histogram" or not isinstance(objective, RealnessObjective):
        return objective
    batch, optimizer = config.batch_size, config.optimizer
    num_outcomes = len(objective.anchors.typical.real)
    anchors = IterationHistograms(
        num_outcomes, samples_d=batch * optimizer.k_d, samples_g=batch * optimizer.k_g
    )
    return replace(objective, anchors=anchors)


@dataclass
class Experiment:
    """Networks being trained on points; `iterations` counts finished iterations.

    epochs: points come in shuffled epochs of one stream, instead of being drawn with replacement.
    """

    gan: Gan
    points: Tensor
    iterations: int = 0
    epochs: bool = False

    def iterate(self) -> Stats:
        """k_D updates of D, then k_G updates of G, as in the loop for images.

        Returns the statistics of the last update of each.
        """
        stats: Stats = {}
        seen = self.iterations * self.gan.config.batch_size
        for report in run_iteration(self.gan, Updates(update_d, update_g), self.real_batch, seen):
            stats |= report
        self.iterations += 1
        return stats

    def draw_points(self, stream: Stream, first_sample: int, count: int) -> Tensor:
        """Training points drawn with replacement, [count * S, 2], interleaved."""
        draws = self.gan.draws(stream, first_sample, count)
        share = draws.uniform(Purpose.POINT, 1).squeeze(1)
        return self.points[(share * len(self.points)).long()]

    def next_points(self, first_sample: int, count: int) -> Tensor:
        """Training points in shuffled epochs, an order per member, [count * S, 2], interleaved."""
        numbers = np.arange(first_sample, first_sample + count)
        size = len(self.points)
        rows = [
            sample_indices(numbers, size, seed=seed, purpose=int(Purpose.POINT))
            for seed in self.gan.seeds
        ]
        return self.points[torch.from_numpy(np.stack(rows, axis=1).ravel())]

    def real_batch(self, stream: Stream, first_sample: int) -> Tensor:
        """The training points of the update of D or G whose first sample in its stream is given."""
        config, optimizer = self.gan.config, self.gan.config.optimizer
        count = config.num_real if stream == Stream.D_REAL else config.batch_size
        if not self.epochs:
            return self.draw_points(stream, first_sample, count)
        # In one iteration the batches of D come first, then those of G.
        before, own = (
            (0, optimizer.k_d) if stream == Stream.D_REAL else (optimizer.k_d, optimizer.k_g)
        )
        iteration, rest = divmod(first_sample, own * config.batch_size)
        batches = iteration * (optimizer.k_d + optimizer.k_g) + before
        return self.next_points(batches * config.batch_size + rest, count)

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

    Up to rounding, member m is identical to the experiment with the single seed seeds[m]; but
    histogram anchors are those of the first seed for all members.
    """
    setting = SETTINGS[networks]
    objective = _objective(config, len(seeds), setting)
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
    return Experiment(gan, data.training_points(), epochs=setting.epochs)
