"""The order of a stream: stateless, O(1) memory, a pure function of (seed, purpose, k).

Sample k of a stream, counted over all ranks, is image ``permutation(seed, purpose, epoch)(k % n)``
with ``epoch = k // n``. The permutation is a keyed Feistel network (Luby and Rackoff, "How to
construct pseudorandom permutations", 1988) over the next power of two, brought down to [0, n) by
cycle walking (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002), so 100 million
images need no more memory than ten. Round keys, flips and substitutes come from one keyed mixer,
the finaliser of SplitMix64 (Steele, Lea and Flood, 2014) chained over the words.

A set in P parts takes its samples from the parts in turn: sample k is of part k % P, whose images
are part, part + P, part + 2P, ... Each part has its own permutations. The rows of a global batch
are sorted by part, so that a rank reads few parts, whatever the batch size.

Every function here is vectorised over numpy int64 arrays of any shape.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
UInt64Array = npt.NDArray[np.uint64]
T = TypeVar("T", int, Int64Array)

_NUM_ROUNDS = 12
# On 16 points or fewer, a Feistel network's permutations are visibly not uniform, whatever the
# number of rounds. Tiny sets therefore walk in a domain of 64.
_MIN_BITS = 6
_MASK_64 = (1 << 64) - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class _Use(enum.IntEnum):
    """Separates the draws for different uses under one (seed, purpose)."""

    ORDER = 1
    MIRROR = 2
    SUBSTITUTE = 3


def _mix(x: UInt64Array) -> UInt64Array:
    """SplitMix64's finaliser: a bijection of uint64 in which every input bit reaches every bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def keyed_bits(*words: int | Int64Array | UInt64Array) -> UInt64Array:
    """64 uniform bits for a tuple of words; words are ints or arrays that broadcast.

    Negative and oversized ints are taken modulo 2^64. Returns uint64 of the broadcast shape
    (at least one element).
    """
    state = np.full(1, _GOLDEN, np.uint64)
    with np.errstate(over="ignore"):
        for word in words:
            if isinstance(word, np.ndarray):
                value = word.astype(np.uint64)
            else:
                value = np.full(1, int(word) & _MASK_64, np.uint64)
            state = _mix((state ^ value) + _GOLDEN)
    return state


def permute(keys: UInt64Array, positions: Int64Array, size: int) -> Int64Array:
    """A bijection of [0, size) for each key, applied elementwise.

    keys: uint64, positions: int64 in [0, size), of shapes that broadcast. Returns int64 in
    [0, size). Expected work: fewer than two Feistel passes per element from 33 images up.
    """
    if size < 1:
        raise ValueError(f"size={size} must be at least 1 to permute [0, size)")
    shape = np.broadcast_shapes(keys.shape, positions.shape)
    flat_keys: UInt64Array = np.broadcast_to(keys, shape).ravel()
    values: UInt64Array = np.broadcast_to(positions, shape).ravel().astype(np.uint64)
    num_bits = max(_MIN_BITS, (size - 1).bit_length())
    round_keys = keyed_bits(flat_keys, np.arange(_NUM_ROUNDS)[:, None])
    walking: npt.NDArray[np.intp] = np.arange(values.size)
    with np.errstate(over="ignore"):
        while walking.size:
            values[walking] = _feistel(values[walking], round_keys[:, walking], num_bits)
            # Cycle walking: points outside [0, size) are permuted again until they fall inside.
            walking = walking[values[walking] >= np.uint64(size)]
    return values.astype(np.int64).reshape(shape)


def _feistel(values: UInt64Array, round_keys: UInt64Array, num_bits: int) -> UInt64Array:
    """The network over [0, 2^num_bits): values [n], round_keys [rounds, n].

    If num_bits is odd, its two parts differ in length by one bit, so they do not swap places:
    each is masked in turn with bits drawn from the other.
    """
    low_bits = np.uint64(num_bits // 2)
    low_mask = np.uint64((1 << (num_bits // 2)) - 1)
    high_mask = np.uint64((1 << (num_bits - num_bits // 2)) - 1)
    high, low = values >> low_bits, values & low_mask
    for even_key, odd_key in zip(round_keys[0::2], round_keys[1::2], strict=True):
        high = high ^ (_mix((even_key ^ low) + _GOLDEN) & high_mask)
        low = low ^ (_mix((odd_key ^ high) + _GOLDEN) & low_mask)
    return (high << low_bits) | low


def sample_indices(
    samples: Int64Array, size: int, *, seed: int, purpose: int, num_parts: int = 1
) -> Int64Array:
    """Images shown as samples k of a stream: int64 [...] in [0, size).

    samples: int64 [...], counted over all ranks from 0. An epoch of a part is a block of as many
    of its samples as it has images, and visits each image exactly once; so do the first `size`
    samples of the whole set.
    """
    numbers, parts = np.divmod(samples.astype(np.int64), num_parts)
    sizes = _part_size(parts, size, num_parts)
    epochs, positions = np.divmod(numbers, sizes)
    own_key = () if num_parts == 1 else (parts,)
    keys = keyed_bits(seed, purpose, _Use.ORDER, epochs, *own_key)
    indices = np.empty_like(numbers)
    for part_size in np.unique(sizes):  # one size, or two that differ by one image
        chosen = sizes == part_size
        indices[chosen] = permute(keys[chosen], positions[chosen], int(part_size))
    return indices * num_parts + parts


def _part_size(parts: T, size: int, num_parts: int) -> T:
    """Number of images, of `size` in all, that belong to a part."""
    return (size - 1 - parts) // num_parts + 1


def batch_rows(global_batch: int, num_parts: int) -> Int64Array:
    """The samples that a global batch shows in rows 0, 1, ...: int64 [global_batch].

    Row r is of part r * num_parts // global_batch, and the samples of a part are in order.
    Raises ValueError if the batch is not divisible by the number of parts.
    """
    if global_batch % num_parts:
        nearest = -(-global_batch // num_parts) * num_parts
        raise ValueError(
            f"global_batch={global_batch} is not divisible by the {num_parts} parts of the data; "
            f"use {nearest}"
        )
    return np.arange(global_batch).reshape(-1, num_parts).T.ravel()


@dataclass(frozen=True)
class BatchShare:
    """One rank's share of every global batch.

    Raises ValueError for a rank outside the world, or a batch not divisible by world_size.
    """

    global_batch: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.world_size < 1 or not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank={self.rank} is not one of world_size={self.world_size} ranks")
        if self.global_batch < 1 or self.global_batch % self.world_size:
            nearest = max(1, -(-self.global_batch // self.world_size)) * self.world_size
            raise ValueError(
                f"global_batch={self.global_batch} is not divisible by "
                f"world_size={self.world_size}; use {nearest}"
            )

    @property
    def local_batch(self) -> int:
        """Images of this rank in a global batch."""
        return self.global_batch // self.world_size

    def rows(self, num_parts: int) -> Int64Array:
        """This rank's samples of a global batch: int64 [local_batch]; see batch_rows."""
        first = self.rank * self.local_batch
        return batch_rows(self.global_batch, num_parts)[first : first + self.local_batch]


def parts_of_rank(rank: int, world_size: int, num_parts: int) -> range:
    """The parts that contain a rank's rows of every global batch."""
    return range(rank * num_parts // world_size, -(-(rank + 1) * num_parts // world_size))


def ranks_of_part(part: int, world_size: int, num_parts: int) -> range:
    """The ranks with rows of a part: rows map to parts by the same rule as to ranks."""
    return parts_of_rank(part, num_parts, world_size)


def mirror_flags(samples: Int64Array, *, seed: int, purpose: int) -> npt.NDArray[np.bool_]:
    """Whether samples k are flipped left-right: bool [...], each with probability 1/2."""
    return keyed_bits(seed, purpose, _Use.MIRROR, samples) >= np.uint64(1 << 63)


def substitute_index(
    sample: int, attempt: int, size: int, *, seed: int, purpose: int, num_parts: int = 1
) -> int:
    """The image tried as substitute number `attempt` (from 1) if the image of sample k is bad.

    It is of the same part. It depends only on the sample, not on what a rank has read before, so
    any number of ranks substitutes the same images.
    """
    part = sample % num_parts
    bits = int(keyed_bits(seed, purpose, _Use.SUBSTITUTE, sample, attempt)[0])
    return bits % _part_size(part, size, num_parts) * num_parts + part
