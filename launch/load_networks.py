"""G and D of a run, for the commands that use a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from realness.trainer.inference.trained import TrainedDiscriminator, TrainedGenerator


class Choice(Protocol):
    """The arguments of a command that choose the networks."""

    @property
    def run(self) -> Path: ...

    @property
    def checkpoint(self) -> str: ...

    @property
    def weights(self) -> str: ...

    @property
    def ema_width(self) -> str: ...


def load_networks(
    choice: Choice, device: torch.device
) -> tuple[TrainedGenerator, TrainedDiscriminator]:
    """G, with the weights that were asked for, and D, of the checkpoint that was asked for.

    Raises:
        ConfigError: for a checkpoint, weights or a width that the run does not have.
        CheckpointError: for a damaged checkpoint.
    """
    from realness.trainer.checkpoint.choosing import load_chosen
    from realness.trainer.inference.trained import load_discriminator, load_generator
    from realness.trainer.inference.widths import chosen_weights
    from realness.trainer.metrics import choose

    (weights,) = chosen_weights(choice.weights, choice.ema_width, single=True)
    return load_chosen(
        lambda: choose(choice.run, choice.checkpoint)[-1],
        lambda folder: (
            load_generator(choice.run, folder, device, weights),
            load_discriminator(choice.run, folder, device),
        ),
    )
