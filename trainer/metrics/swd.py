"""The sliced Wasserstein distance between two sets of images.

Karras et al., "Progressive Growing of GANs for Improved Quality, Stability, and Variation", ICLR
2018, section 5. Each image is decomposed into a Laplacian pyramid (Burt and Adelson, 1983) whose
levels halve from the full resolution down to 16 pixels. 128 patches of 7x7 pixels in 3 channels are
cut out of every level of every image, and those of a level are normalised to mean 0 and standard
deviation 1 in each channel, separately for each set of images. The distance of a level is the
Wasserstein distance of their projections onto a random direction, averaged over 512 directions (4
times 128 in the paper's code): in one dimension, the mean absolute difference of the sorted
projections. Reported times 1,000. The paper uses 16,384 images of each set, i.e. 2^21 patches per
level.

Levels near 16 pixels reflect large structure, the finest levels detail such as edges and noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from realness.trainer.distributed.collectives import gather
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.metrics.ranks import gather_rows
from realness.trainer.randomness import Draws, Purpose, Stream

DEFAULT_NUM_IMAGES = 16384
PATCHES_PER_IMAGE = 128
PATCH_SIZE = 7
PATCH_NUMEL = 3 * PATCH_SIZE**2
MIN_RESOLUTION = 16
NUM_DIRECTIONS = 512
# Directions processed at a time, which bounds the memory of the sort.
DIRECTIONS_AT_ONCE = 16


@dataclass(frozen=True)
class SlicedWasserstein:
    """The distance at each level, by its resolution in pixels, finest first; times 1,000."""

    levels: dict[int, float]

    @property
    def mean(self) -> float:
        """The average over levels, the number that papers report."""
        return sum(self.levels.values()) / len(self.levels)


def pyramid_resolutions(resolution: int) -> list[int]:
    """Resolutions of the levels, finest first: 64 -> [64, 32, 16].

    Raises:
        ValueError: unless `resolution` is a power of two of at least 16.
    """
    if resolution < MIN_RESOLUTION or resolution & (resolution - 1):
        raise ValueError(
            f"resolution={resolution} has no pyramid down to {MIN_RESOLUTION} pixels; "
            "it must be a power of two of at least 16"
        )
    return [resolution >> level for level in range(int(math.log2(resolution // 16)) + 1)]


def laplacian_pyramid(images: Tensor) -> list[Tensor]:
    """The levels of images [B, C, R, R], finest first; the last is the image at 16 pixels itself.

    Blurring uses the 5-tap binomial filter (1, 4, 6, 4, 1) / 16 in both directions, with the image
    mirrored at its edge pixels. A level is the image minus its enlarged next coarser version.
    """
    levels = [images]
    for _ in pyramid_resolutions(images.shape[-1])[1:]:
        finer = levels[-1]
        coarser = _blur(finer)[..., ::2, ::2]
        levels[-1] = finer - _enlarge(coarser)
        levels.append(coarser)
    return levels


def _enlarge(x: Tensor) -> Tensor:
    """Double the resolution: insert zeros, blur, and scale to preserve the brightness."""
    sparse = x.new_zeros(*x.shape[:-2], 2 * x.shape[-2], 2 * x.shape[-1])
    sparse[..., ::2, ::2] = x
    return 4 * _blur(sparse)


def _blur(x: Tensor) -> Tensor:
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=x.dtype, device=x.device) / 16
    channels = x.shape[1]
    x = F.pad(x, (2, 2, 2, 2), mode="reflect")
    x = F.conv2d(x, taps.view(1, 1, 1, 5).expand(channels, 1, 1, 5), groups=channels)
    return F.conv2d(x, taps.view(1, 1, 5, 1).expand(channels, 1, 5, 1), groups=channels)


def patch_corners(draws: Draws, resolution: int) -> list[Tensor]:
    """Top left corners (row, column) of the patches, int64 [B, 128, 2] for each level.

    Uniform over all valid positions, with replacement, independently for each level.
    """
    sizes = pyramid_resolutions(resolution)
    uniform = draws.uniform(Purpose.PATCH, len(sizes) * PATCHES_PER_IMAGE * 2)
    places = uniform.view(-1, len(sizes), PATCHES_PER_IMAGE, 2).unbind(1)
    return [
        (place * (size - PATCH_SIZE + 1)).long().clamp_(max=size - PATCH_SIZE)
        for place, size in zip(places, sizes, strict=True)
    ]


def cut_patches(level: Tensor, corners: Tensor) -> Tensor:
    """Patches [B * P, 7 * 7, C] of a level [B, C, S, S] at corners [B, P, 2]."""
    steps = torch.arange(PATCH_SIZE, device=level.device)
    rows = (corners[..., 0, None] + steps)[..., :, None]
    columns = (corners[..., 1, None] + steps)[..., None, :]
    image = torch.arange(len(level), device=level.device)[:, None, None, None]
    return level.permute(0, 2, 3, 1)[image, rows, columns].flatten(2, 3).flatten(0, 1)


class PatchSet:
    """The patches of a set of images; each rank adds its share batch by batch.

    Uses 75 kB of main memory per level and image: 1.2 GB per level for the paper's 16,384 images.
    """

    def __init__(self, resolution: int, seed: int, stream: Stream) -> None:
        """`seed` and `stream` determine where patches are cut; two sets should differ in `stream`.

        Raises ValueError for a resolution without a pyramid.
        """
        self.resolutions = pyramid_resolutions(resolution)
        self._seed, self._stream = seed, stream
        self._parts: list[list[Tensor]] = [[] for _ in self.resolutions]

    def add(self, images: Tensor, index: Tensor) -> None:
        """Cut the patches of images, uint8 [B, 3, R, R], with indices int64 [B] in the set.

        Raises ValueError for images of a different shape or type.
        """
        size = self.resolutions[0]
        if images.shape[1:] != (3, size, size) or images.dtype != torch.uint8:
            raise ValueError(
                f"images are {images.dtype} {tuple(images.shape)}, expected torch.uint8 "
                f"[B, 3, {size}, {size}]"
            )
        if not len(images):
            return
        draws = Draws(self._seed, self._stream, index.to(images.device))
        levels = laplacian_pyramid(images.float())
        for parts, level, corners in zip(
            self._parts, levels, patch_corners(draws, size), strict=True
        ):
            parts.append(cut_patches(level, corners).cpu())

    def level(self, number: int) -> Tensor:
        """This rank's patches of a level, normalised: float32 [n, 147]; collective.

        A channel that is constant over the whole set (a generator that produces a single colour)
        is 0 everywhere.
        """
        # Replace the parts by one tensor, or the level would be in memory twice from here on.
        if len(self._parts[number]) > 1:
            self._parts[number] = [torch.cat(self._parts[number])]
        parts = self._parts[number]
        patches = parts[0] if parts else torch.empty(0, PATCH_SIZE**2, 3)
        mean, std = _channel_moments(patches)
        scale = torch.where(std > 0, 1 / std, 0.0)
        return ((patches - mean.float()) * scale.float()).flatten(1)

    def num_patches(self) -> int:
        """Number of patches per level over all ranks; collective."""
        return sum(gather(sum(len(part) for part in self._parts[0])))


def _channel_moments(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation float64 [3] over all pixels of all ranks; collective.

    patches: float32 [n, 49, 3]. In two passes, as the sum of squares would cancel.
    """
    numel = sum(gather(patches.shape[0] * patches.shape[1]))
    total = torch.stack(gather(patches.sum((0, 1), dtype=torch.float64))).sum(0)
    mean = total / numel
    squares = torch.zeros(3, dtype=torch.float64)
    for part in patches.split(1 << 16):
        squares += (part.double() - mean).square().sum((0, 1))
    return mean, (torch.stack(gather(squares)).sum(0) / numel).sqrt()


def directions(seed: int) -> Tensor:
    """512 random unit vectors, float32 [147, 512]."""
    draws = Draws(seed, Stream.EVALUATED, torch.arange(NUM_DIRECTIONS))
    normal = draws.normal(Purpose.PROJECTION, PATCH_NUMEL)
    return F.normalize(normal, dim=1).T.contiguous()


@torch.no_grad()
def sliced_wasserstein(
    real: PatchSet, fake: PatchSet, *, seed: int, device: torch.device | str = "cpu"
) -> SlicedWasserstein:
    """The distance between two sets of patches; collective, the same on every rank.

    `seed` determines the directions; `device` is used to project and sort.

    Raises:
        ValueError: for sets of different resolution or size, or an empty one.
    """
    counts = real.num_patches(), fake.num_patches()
    if counts[0] != counts[1] or not counts[0] or real.resolutions != fake.resolutions:
        sizes = [count // PATCHES_PER_IMAGE for count in counts]
        raise ValueError(
            f"{sizes[0]} real images of {real.resolutions[0]} pixels and {sizes[1]} generated of "
            f"{fake.resolutions[0]}; both sets must have the same size and resolution"
        )
    onto = directions(seed).to(device)
    return SlicedWasserstein(
        {
            resolution: 1000 * _distance(real.level(number), fake.level(number), onto)
            for number, resolution in enumerate(real.resolutions)
        }
    )


def _distance(real: Tensor, fake: Tensor, onto: Tensor) -> float:
    """Mean over directions of the one-dimensional Wasserstein distances of all ranks' rows."""
    real, fake = real.to(onto.device), fake.to(onto.device)
    total = 0.0
    for number, some in enumerate(onto.split(DIRECTIONS_AT_ONCE, dim=1)):
        pair = [gather_rows(patches @ some) for patches in (real, fake)]
        # Each rank sorts its share of the directions.
        if number % world_size() == rank():
            left, right = (_sorted_rows(values.T.contiguous()) for values in pair)
            total += (left - right).abs().mean(1, dtype=torch.float64).sum().item()
    return sum(gather(total)) / onto.shape[1]


def _sorted_rows(values: Tensor) -> Tensor:
    """Sort each row of [m, n]; on the CPU with NumPy, which unlike torch tracks no indices."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=1))
    return values.sort(dim=1).values
