"""Updates of a run that never learns: on a device for --auto-batch, on fake devices to count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from realness.trainer.config import TrainConfig
from realness.trainer.engines.plain_engine import EngineWithoutOptimizer
from realness.trainer.engines.prepare import prepare_network
from realness.trainer.randomness import Stream
from realness.trainer.updates.build import build_augmentation, build_classes, build_networks
from realness.trainer.updates.ema import Ema
from realness.trainer.updates.gan import Gan
from realness.trainer.updates.iteration import Updates, run_iteration
from realness.trainer.updates.step import update_d, update_g


class TrialRun:
    """One rank's share of a run, as a run of one rank whose networks never learn.

    An iteration is one update of each network, with every penalty due. The networks are those of
    the run at its start, prepared in the same way, and their gradients stay allocated throughout.
    Nothing is collective: with several ranks, use it inside `as_single_rank()`.
    """

    def __init__(
        self,
        config: TrainConfig,
        num_ranks: int,
        device: torch.device,
        *,
        compiled: bool = False,
        averaging: bool = False,
    ) -> None:
        """Build the networks. averaging: whether G's updates also update its moving average."""
        self.config = config = worst_case(config, num_ranks)
        generator, discriminator, objective = build_networks(config)
        # Only its memory counts, which does not depend on the half-life.
        self._ema = Ema(generator.to(device), halflife_images=1.0) if averaging else None

        def engine(module: nn.Module) -> EngineWithoutOptimizer:
            network = prepare_network(module, config.engine, device, compiled=compiled)
            for weight in module.parameters():
                weight.grad = torch.zeros_like(weight)
            return EngineWithoutOptimizer(module, network)

        g, d = engine(generator), engine(discriminator)
        augment, classes = build_augmentation(config, device), build_classes(config, device)
        self.gan = Gan(config, device, objective, g, d, augment=augment, classes=classes)

    def updates(self) -> Iterator[str]:
        """Run an iteration as the loop does, on black images; yields "D" or "G" per update."""
        gan, batch = self.gan, self.config.batch_size
        for stats in run_iteration(gan, Updates(update_d, update_g), self._black, 0, self._first):
            if "loss_g" in stats and self._ema is not None:
                self._ema.update(gan.g.module, batch, batch)
            yield "G" if "loss_g" in stats else "D"

    def _black(self, stream: Stream, first_sample: int) -> Tensor:
        count = self.config.num_real if stream == Stream.D_REAL else self.config.batch_size
        size = self.config.data.resolution
        black = torch.zeros(count, 3, size, size, dtype=torch.uint8, device=self.gan.device)
        return self.gan.normalise(black, stream, first_sample)

    def _first(self, stream: Stream) -> Tensor | None:
        """Labels of the first class, in a conditional run."""
        if self.gan.classes is None:
            return None
        return self.gan.classes.of_one(0, self.config.batch_size)


def worst_case(config: TrainConfig, num_ranks: int) -> TrainConfig:
    """A run of one rank on its share of every batch, with all penalties always due."""
    far, penalty = config.far, config.penalty
    return replace(
        config,
        batch_size=config.batch_size // num_ranks,
        optimizer=replace(config.optimizer, k_d=1, k_g=1),
        far=replace(
            far,
            far_fakes=far.far_fakes // num_ranks,
            far_candidates=far.far_candidates // num_ranks,
        ),
        penalty=replace(penalty, penalty_images=0, path_length_images=0),
        objective=config.objective.without_pretraining(),
    )
