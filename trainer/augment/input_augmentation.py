"""What D sees: images, augmented with the probability of the moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from realness.trainer.augment.augmentation import Augmentation
from realness.trainer.augment.strength import Strength
from realness.trainer.randomness import Draws

View = Callable[[Tensor, Draws], Tensor]
"""Images [B, 3, R, R] and the draws of their samples, to what D sees of them."""


def unchanged(images: Tensor, draws: Draws) -> Tensor:
    """The `View` without augmentation."""
    return images


@dataclass(frozen=True)
class InputAugmentation:
    """An augmentation, and its probability during a run.

    A plugin's augmentation is an object with these methods.
    """

    augmentation: Augmentation
    strength: Strength

    def at(self, images_seen: int | Tensor) -> View:
        """The view for an update of D or G that starts after `images_seen` images of the run."""
        p = self.strength.p(images_seen)
        return lambda images, draws: self.augmentation(images, draws, p)

    def observe(self, score: Tensor) -> None:
        """Adapt to D's scores [B] of this rank's real images in its update; collective."""
        self.strength.observe(score)

    def measures(self, images_seen: int | Tensor) -> dict[str, Tensor]:
        """Scalars to log: the probability, and what it is adapted to."""
        return {"augment_p": self.strength.p(images_seen).clone(), **self.strength.measures()}

    def tensors(self) -> dict[str, Tensor]:
        """The state by name, equal on all ranks, to store and to load in place."""
        return self.strength.tensors()
