"""The augmentations of this program: settings, and how they are built.

Nothing here loads torch before an augmentation is built: the command line needs only the settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from realness.trainer.augment.ops import read_ops
from realness.trainer.config import AugmentationConfig, not_negative, positive, register, require

if TYPE_CHECKING:
    from realness.trainer.augment.input_augmentation import InputAugmentation
    from realness.trainer.augment.strength import Strength


@register("none", prefix="")
@dataclass(frozen=True)
class NoAugmentationConfig(AugmentationConfig):
    """D sees the images as they are."""

    def build(
        self, *, batch_size: int, num_images: int, undecided: float | None, device: Any
    ) -> None:
        return None


@dataclass(frozen=True)
class _AugmentedConfig(AugmentationConfig):
    """An augmentation made of the program's transforms."""

    augment_ops: str = "bgc"
    """Transforms: ADA's groups as letters, b (flips, quarter turns, shifts), g (geometry), c
    (colour), f (filter), n (noise), x (cutout), such as bgc; a number after a letter is its factor
    of the probability. Or DiffAugment's policies: color,translation,cutout."""

    def __post_init__(self) -> None:
        read_ops(self.augment_ops)

    @property
    def can_leak(self) -> bool:
        """DiffAugment's policies are meant to change every image."""
        groups, _ = read_ops(self.augment_ops)
        return bool(groups)

    def strength(
        self, batch_size: int, num_images: int, undecided: float | None, device: Any
    ) -> Strength:
        """The probability during a run; the arguments are those of `build`."""
        raise NotImplementedError(f"{type(self).__qualname__} does not define strength()")

    def build(
        self, *, batch_size: int, num_images: int, undecided: float | None, device: Any
    ) -> InputAugmentation:
        from realness.trainer.augment.augmentation import Augmentation
        from realness.trainer.augment.input_augmentation import InputAugmentation

        strength = self.strength(batch_size, num_images, undecided, device)
        return InputAugmentation(Augmentation.of(self.augment_ops), strength)


@register("ada", prefix="")
@dataclass(frozen=True)
class AdaptiveConfig(_AugmentedConfig):
    """Adaptive augmentation (ADA), with a probability that follows D's overfitting."""

    adaptive: ClassVar[bool] = True

    augment_target: float = 0.6
    """Mean sign of D's scores of real images that the probability is adapted to."""
    augment_speed_kimg: float = 500.0
    """Thousands of images in which the probability can rise from 0 to 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "augment_speed_kimg")
        require(
            -1 < self.augment_target < 1,
            f"--augment-target={self.augment_target} is compared with a mean of signs; use a "
            "number between -1 and 1, for example 0.6",
        )

    def strength(
        self, batch_size: int, num_images: int, undecided: float | None, device: Any
    ) -> Strength:
        from realness.trainer.augment.strength import AdaptiveStrength

        return AdaptiveStrength(
            batch_size,
            target=self.augment_target,
            speed_kimg=self.augment_speed_kimg,
            undecided=undecided or 0.0,
            device=device,
        )


@register("diffaugment", prefix="")
@dataclass(frozen=True)
class DiffAugmentConfig(_AugmentedConfig):
    """DiffAugment, whose policies change every image."""

    augment_ops: str = "color,translation,cutout"

    def strength(
        self, batch_size: int, num_images: int, undecided: float | None, device: Any
    ) -> Strength:
        from realness.trainer.augment.strength import FixedStrength

        return FixedStrength(1.0, device)


@dataclass(frozen=True)
class _ProbabilityConfig(_AugmentedConfig):
    """An augmentation whose probability is given."""

    augment_p: float = 0.3
    """Probability of each transform; with a schedule, at its end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 <= self.augment_p <= 1,
            f"--augment-p={self.augment_p} is a probability and must lie in [0, 1]",
        )


@register("fixed", prefix="")
@dataclass(frozen=True)
class FixedConfig(_ProbabilityConfig):
    """Augmentation with a constant probability."""

    def strength(
        self, batch_size: int, num_images: int, undecided: float | None, device: Any
    ) -> Strength:
        from realness.trainer.augment.strength import FixedStrength

        return FixedStrength(self.augment_p, device)


@register("scheduled", prefix="")
@dataclass(frozen=True)
class ScheduledConfig(_ProbabilityConfig):
    """Augmentation with a probability that rises from 0, as in R3GAN."""

    augment_kimg: float = 0.0
    """Thousands of images in which the probability rises; 0 for --schedule-kimg."""
    augment_shape: Literal["cosine", "linear"] = "cosine"
    """How it rises."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "augment_kimg")

    def strength(
        self, batch_size: int, num_images: int, undecided: float | None, device: Any
    ) -> Strength:
        from realness.trainer.augment.strength import ScheduledStrength

        kimg = self.augment_kimg or num_images / 1000
        return ScheduledStrength(0.0, self.augment_p, kimg, self.augment_shape, device)
