"""Augmentation of the images that D sees."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from realness.kernels import format_of, warp
from realness.trainer.augment.affine import compose_all, identity
from realness.trainer.augment.color import color
from realness.trainer.augment.corruption import cutout, noise
from realness.trainer.augment.filtering import random_filter
from realness.trainer.augment.geometry import blit, geom
from realness.trainer.augment.ops import Groups, read_ops
from realness.trainer.augment.policies import POLICIES
from realness.trainer.randomness import Draws


@dataclass(frozen=True)
class Augmentation:
    """Random changes of images, each of which happens to an image with probability p.

    groups: ADA's groups of transforms, `trainer.augment.ops.GROUPS` (Karras et al., "Training
        Generative Adversarial Networks with Limited Data", NeurIPS 2020, appendix B).
    policies: DiffAugment's policies in their order, applied after the groups.

    What happens to an image depends only on p and on its own draws. The result is differentiable
    twice with respect to the images, and linear in them but for the added constants (brightness,
    noise). It does not wait for the device.
    """

    groups: Groups = ()
    policies: tuple[str, ...] = ()

    @staticmethod
    def of(ops: str) -> Augmentation:
        """The augmentation that a text such as `bgc` or `color,translation,cutout` describes.

        Raises ValueError, with a suggestion, as `trainer.augment.ops.read_ops` does.
        """
        return Augmentation(*read_ops(ops))

    def __call__(self, images: Tensor, draws: Draws, p: Tensor) -> Tensor:
        """Augment images [B, 3, H, W] in [-1, 1], of any floating dtype and memory format.

        draws: those of the B samples. p: scalar float32 in [0, 1] on the images' device; with 0 the
        images are returned unchanged to the bit. Returns the shape, dtype and format of `images`;
        values may exceed [-1, 1].

        Raises:
            ValueError: for another shape, or another number of draws.
        """
        if images.dim() != 4 or images.shape[1] != 3 or len(images) != len(draws.index):
            raise ValueError(
                f"images have shape {tuple(images.shape)}, with {len(draws.index)} draws; "
                "expected [batch, 3, height, width] and as many draws as images"
            )
        chance = {letter: p * factor for letter, factor in self.groups}
        result = _warped(images, draws, chance)
        if "f" in chance:
            result = random_filter(result, draws, chance["f"])
        if "n" in chance:
            result = noise(result, draws, chance["n"])
        if "x" in chance:
            result = cutout(result, draws, chance["x"])
        for name in self.policies:
            result = POLICIES[name](result, draws, p)
        return result.contiguous(memory_format=format_of(images))


def _warped(images: Tensor, draws: Draws, chance: dict[str, Tensor]) -> Tensor:
    """The images after the geometric and the colour transforms, in one pass over them."""
    size = (images.shape[2], images.shape[3])
    # Inverses of transforms compose in the order of the transforms, colour maps in the opposite.
    moves = [
        *(blit(draws, chance["b"], size) if "b" in chance else ()),
        *(geom(draws, chance["g"], size) if "g" in chance else ()),
    ]
    colors = color(draws, chance["c"])[::-1] if "c" in chance else []
    if not moves and not colors:
        return images
    still = identity(2, next(iter(chance.values()))).expand(len(images), 2, 3)
    inverse = compose_all(moves) if moves else still
    return warp(images, inverse.contiguous(), compose_all(colors) if colors else None)
