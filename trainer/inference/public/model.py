"""What is read from a public model: its networks under the names of this program's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from realness.trainer.inference.public.pickles import ModelFileError
from realness.trainer.inference.public.tensors import Lazy

Tensors = dict[str, Lazy]
Rule = tuple[str, Callable[[re.Match[str]], str]]
"""A pattern of a whole name, and the name that it becomes; an empty one is left out."""

SHOWN_NAMES = 6
WHAT_WORKS = (
    "Readable are StyleGAN2 in NVIDIA's .pkl files (PyTorch or TensorFlow) and in rosinality's .pt "
    "files, R3GAN's .pkl files, and folders of `realness export`"
)
FILTER = (1.0, 3.0, 3.0, 1.0)
"""The taps of the resampling filter of this program's StyleGAN2."""


@dataclass(frozen=True)
class PublicModel:
    """The networks of a file.

    kind: what the file is. average: the moving average of G; g and d may be missing. centre: the
    centre of W [w_dim]. noise: the fixed noise of each convolution, [side, side] or with leading
    ones, from 4x4 up. clamps: limit of the outputs of G's and of D's convolutions, 0 for none.
    group: images per group of the minibatch deviation, 1 for none. nvidia: whether NVIDIA's code
    wrote the file. family: whose networks they are; tensors have the names of this program's.
    """

    kind: str
    average: Tensors
    g: Tensors | None
    d: Tensors | None
    nvidia: bool
    centre: Lazy | None = None
    noise: Sequence[Lazy] = field(default_factory=list)
    clamps: tuple[float, float] = (0.0, 0.0)
    group: int = 4
    family: Literal["stylegan2", "r3gan"] = "stylegan2"


@dataclass(frozen=True)
class Sizes:
    """Sizes of a network. channels: at sides 4, 8, ... up to the resolution."""

    channels: tuple[int, ...]

    @property
    def resolution(self) -> int:
        """Side of the images in pixels."""
        return 4 << (len(self.channels) - 1)

    @property
    def most(self) -> int:
        """The maximum of channels."""
        return max(self.channels)

    @property
    def base(self) -> int:
        """Channels times side, below the maximum.

        Raises ModelFileError for channels that no base gives.
        """
        sides = [4 << k for k in range(len(self.channels))]
        pairs = list(zip(self.channels, sides, strict=True))
        bases = [count * side for count, side in pairs if count < self.most]
        base = bases[0] if bases else self.most * self.resolution
        if any(count != min(self.most, base // side) for count, side in pairs):
            raise ModelFileError(
                f"its channels {list(self.channels)} are not min(maximum, base / side) at the "
                f"sides {sides}; only such networks can be read"
            )
        return base


def generator_sizes(tensors: Mapping[str, Lazy]) -> Sizes:
    """The sizes of G."""
    return _sizes(tensors, r"blocks\.(\d+)\.to_image\.conv\.weight", "G", 1)


def discriminator_sizes(tensors: Mapping[str, Lazy]) -> Sizes:
    """The sizes of D, whose blocks count from the image."""
    blocks = _sizes(tensors, r"blocks\.(\d+)\.conv_1\.weight", "D", 0).channels
    first = tensors.get("from_image.weight")
    if first is None:
        raise ModelFileError("its D has no layer from the image")
    return Sizes((first.shape[0], *blocks)[::-1])


def _sizes(tensors: Mapping[str, Lazy], pattern: str, network: str, axis: int) -> Sizes:
    found = {
        int(match[1]): value.shape[axis]
        for name, value in tensors.items()
        if (match := re.fullmatch(pattern, name)) and len(value.shape) == 4
    }
    if not found or set(found) != set(range(len(found))) or len(found) > 16:
        raise ModelFileError(
            f"its {network} lacks layers of some sides {sorted(found)}: it is another architecture "
            f"than StyleGAN2's configuration F. {WHAT_WORKS}"
        )
    return Sizes(tuple(found[number] for number in range(len(found))))


def renamed(tensors: Mapping[str, Lazy], rules: Sequence[Rule], network: str) -> Tensors:
    """The tensors under other names. Raises ModelFileError for names that no rule has."""
    found: Tensors = {}
    unknown = []
    for name, value in tensors.items():
        for pattern, rename in rules:
            if match := re.fullmatch(pattern, name):
                if new := rename(match):
                    found[new] = value
                break
        else:
            unknown.append(name)
    if unknown:
        raise ModelFileError(
            f"its {network} has tensors that this program's network does not have: "
            f"{shortened(unknown)}. {WHAT_WORKS}"
        )
    return found


def shortened(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def doublings(side: str | int) -> int:
    """How often 4 pixels are doubled to make `side`. Raises ModelFileError for other sides."""
    count = (int(side) // 4).bit_length() - 1
    if count < 0 or 4 << count != int(side):
        raise ModelFileError(f"it has layers at a side of {side} pixels, which is no power of two")
    return count


def as_vector(value: Lazy) -> Lazy:
    """A scalar as [1]; other tensors as they are."""
    return value.changed(lambda x: x.reshape(1)) if value.shape == () else value


def refuse_filter(taps: object) -> None:
    """Refuse a resampling filter that is not this program's. taps: a list of numbers, or None."""
    if taps is not None and (not isinstance(taps, list | tuple) or tuple(taps) != FILTER):
        raise ModelFileError(
            f"it resamples with the filter {taps}; only {list(FILTER)} can be read"
        )
