"""Base class of the augmentations' configurations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from realness.trainer.config.components import Component


@dataclass(frozen=True)
class AugmentationConfig(Component):
    """Augmentation of every image that D sees, real or generated.

    Capabilities:
        adaptive: the probability follows the sign of D's score of real images, so that the
            objective must have a score at which D is undecided.
        can_leak: with a high probability, G learns to generate the changes.
    """

    kind: ClassVar[str] = "augment"
    adaptive: ClassVar[bool] = False

    @property
    def can_leak(self) -> bool:
        return True

    def build(
        self, *, batch_size: int, num_images: int, undecided: float | None, device: Any
    ) -> Any:
        """An `InputAugmentation`, or None for no augmentation.

        batch_size: images per update of D over all ranks. num_images: images in which scheduled
        values reach their end: --schedule-kimg, or the whole run. undecided: the score at which D
        is undecided, if the objective has one. device: where D runs.
        """
        raise NotImplementedError(f"{type(self).__qualname__} does not define build()")
