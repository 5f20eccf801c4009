"""What networks that grow have in common (Karras et al., ICLR 2018, section 2 and figure 2).

Images keep their full size: G enlarges what it makes at its side, and D shrinks what it sees to its
side. So penalties on D's gradient with respect to an image are (side / resolution)^2 times those of
small images, as the usual choice of gamma is (0.0002 R^2 / batch).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realness.trainer.config.growth import START_SIDE, GrowthStage
from realness.trainer.networks.common import START_SIZE
from realness.trainer.networks.layout import hold_layout


class GrowingNetwork:
    """A network on images of `resolution` that can work at smaller sides.

    `stage` is how far it has grown. The caller sets it; it is not part of the network's state,
    because it follows from the number of images seen. `smaller_sides` need layers of their own; a
    network that is built whole has none, and only the last stage.
    """

    resolution: int
    stage: GrowthStage
    smaller_sides: list[int]

    def prepare_to_grow(self, resolution: int, *, growing: bool) -> None:
        """Set the attributes; the network is at its last stage."""
        self.resolution, self.stage = resolution, GrowthStage(resolution, 1.0)
        sides = range((resolution // START_SIDE).bit_length() - 1 if growing else 0)
        self.smaller_sides = [START_SIDE << k for k in sides]

    def enlarged(self, image: Tensor) -> Tensor:
        """G's image [B, 3, side, side] at the full resolution."""
        return enlarge(image, self.resolution // self.stage.side)

    def shrunk(self, images: Tensor) -> Tensor:
        """Images [B, 3, R, R] at this side."""
        return shrink(images, self.resolution // self.stage.side)


def doublings(side: int) -> int:
    """How often 4 pixels must be doubled to make `side`."""
    return (side // START_SIZE).bit_length() - 1


def enlarge(images: Tensor, factor: int) -> Tensor:
    """Images [B, C, H, W] with every pixel `factor` times in both directions."""
    return images if factor == 1 else F.interpolate(images, scale_factor=factor, mode="nearest")


def shrink(images: Tensor, factor: int) -> Tensor:
    """The means over squares of `factor` pixels a side, [B, C, H / factor, W / factor]."""
    return images if factor == 1 else hold_layout(F.avg_pool2d(images, factor))


def faded(images: Tensor, stage: GrowthStage) -> Tensor:
    """Real images [B, 3, R, R] as they are in a transition: partly without their finest details."""
    if stage.alpha == 1:
        return images
    fine, coarse = images.shape[-1] // stage.side, 2 * images.shape[-1] // stage.side
    return torch.lerp(
        enlarge(shrink(images, coarse), coarse), enlarge(shrink(images, fine), fine), stage.alpha
    )


def set_stage(network: nn.Module, stage: GrowthStage) -> None:
    """Set how far a network has grown, if it can grow."""
    if isinstance(network, GrowingNetwork):
        network.stage = stage
