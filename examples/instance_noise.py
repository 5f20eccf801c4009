"""A plugin with one augmentation: instance noise, which fades out.

    deepspeed launch/train_ffhq.py --preset demo --plugin examples/instance_noise.py \\
        --augment instance-noise --instance-noise-std 0.1 --data FACES --run-dir runs/noise

Normal noise is added to every image that D sees, real or generated, so that the two distributions
overlap while G is still far from the data: Sønderby et al., "Amortised MAP Inference for Image
Super-resolution" (ICLR 2017), section 3.2. Its standard deviation falls linearly to 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from realness.kernels import format_of
from realness.trainer.augment.input_augmentation import View
from realness.trainer.config import AugmentationConfig, not_negative, positive, register
from realness.trainer.config.schedule import Schedule
from realness.trainer.randomness import Draws, Purpose


def add_noise(images: Tensor, draws: Draws, std: Tensor) -> Tensor:
    """images [B, 3, R, R] with normal noise of deviation `std`, a scalar, in every value."""
    noise = draws.normal(Purpose.PIXEL_NOISE_VALUE, images[0].numel()).view(images.shape)
    return (images + std * noise.contiguous(memory_format=format_of(images))).to(images.dtype)


@dataclass(frozen=True)
class InstanceNoise:
    """Noise of deviation `std` at first, and 0 after `num_images` images of the run."""

    std: float
    num_images: float
    device: torch.device

    def deviation(self, images_seen: int | Tensor) -> Tensor:
        """The standard deviation, a scalar float32 on the device."""
        return Schedule(self.std, 0.0, self.num_images, "linear").on(self.device, images_seen)

    def at(self, images_seen: int | Tensor) -> View:
        std = self.deviation(images_seen)
        return lambda images, draws: add_noise(images, draws, std)

    def observe(self, score: Tensor) -> None:
        """The noise does not depend on D."""

    def measures(self, images_seen: int | Tensor) -> dict[str, Tensor]:
        return {"instance_noise": self.deviation(images_seen)}

    def tensors(self) -> dict[str, Tensor]:
        return {}


@register("instance-noise")
@dataclass(frozen=True)
class InstanceNoiseConfig(AugmentationConfig):
    """Noise that fades out."""

    std: float = 0.1
    """Standard deviation of the noise at first; images lie in [-1, 1]."""
    kimg: float = 0.0
    """Thousands of images after which there is no noise; 0 for --schedule-kimg."""

    def __post_init__(self) -> None:
        positive(self, "std")
        not_negative(self, "kimg")

    @property
    def can_leak(self) -> bool:
        """No: when it ends there is no noise to learn."""
        return False

    def build(
        self, *, batch_size: int, num_images: int, undecided: float | None, device: Any
    ) -> InstanceNoise:
        return InstanceNoise(self.std, 1000 * self.kimg or num_images, torch.device(device))
