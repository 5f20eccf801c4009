"""The keyed permutation, the flips and the substitutes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from realness.data_pipeline.order import (
    batch_rows,
    keyed_bits,
    mirror_flags,
    permute,
    sample_indices,
    substitute_index,
)

SEEDS = st.integers(-(2**70), 2**70)


def splitmix64(state: int) -> int:
    """SplitMix64's finaliser in Python integers, as published."""
    mask = (1 << 64) - 1
    z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_keyed_bits_are_the_published_finaliser_chained() -> None:
    mask, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15
    state = golden
    for word in (7, 3, -1):
        state = splitmix64(((state ^ (word & mask)) + golden) & mask)
    assert int(keyed_bits(7, 3, -1)[0]) == state


def test_splitmix64_reference_reproduces_the_published_sequence() -> None:
    # First outputs of SplitMix64 for the seed 1234567 (Rosetta Code's test values).
    golden, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1
    outputs = [splitmix64((1234567 + i * golden) & mask) for i in (1, 2)]
    assert outputs == [6457827717110365317, 3203168211198807973]


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 3000), seed=SEEDS, purpose=st.integers(0, 50), epoch=st.integers(0, 9))
def test_every_epoch_is_a_permutation(size: int, seed: int, purpose: int, epoch: int) -> None:
    samples = epoch * size + np.arange(size)
    indices = sample_indices(samples, size, seed=seed, purpose=purpose)
    assert np.array_equal(np.sort(indices), np.arange(size))


@pytest.mark.parametrize("size", [4**8 - 1, 4**8, 4**8 + 1, 200_003])
def test_large_epochs_are_permutations(size: int) -> None:
    indices = sample_indices(np.arange(size), size, seed=1, purpose=1)
    assert np.array_equal(np.bincount(indices, minlength=size), np.ones(size))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_all_orders_are_equally_likely(size: int) -> None:
    num_keys = 12_000
    keys = keyed_bits(11, np.arange(num_keys))[:, None]
    orders = permute(keys, np.arange(size)[None, :], size)
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == np.prod(np.arange(1, size + 1))
    assert size == 1 or stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("size", [17, 64, 100])
def test_positions_and_neighbours_are_uniform(size: int) -> None:
    keys = keyed_bits(5, np.arange(200 * size))
    first = permute(keys, np.zeros(1, np.int64), size)
    second = permute(keys, np.ones(1, np.int64), size)
    assert stats.chisquare(np.bincount(first, minlength=size)).pvalue > 1e-4
    # The gap between the images of neighbouring positions takes each non-zero value equally often.
    gaps = np.bincount((second - first) % size, minlength=size)
    assert gaps[0] == 0
    assert stats.chisquare(gaps[1:]).pvalue > 1e-4


def test_an_epoch_is_uncorrelated_with_position_and_with_the_next_epoch() -> None:
    size = 50_000
    first, second = sample_indices(np.arange(2 * size), size, seed=3, purpose=2).reshape(2, size)
    bound = 4 / np.sqrt(size)
    assert abs(np.corrcoef(first, np.arange(size))[0, 1]) < bound
    assert abs(np.corrcoef(first, second)[0, 1]) < bound
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < bound
    # A random permutation has Poisson(1) fixed points.
    assert (first == second).sum() < 10


def test_seeds_and_purposes_give_different_orders() -> None:
    samples = np.arange(100)
    orders = {
        tuple(sample_indices(samples, 100, seed=seed, purpose=purpose))
        for seed in range(5)
        for purpose in range(5)
    }
    assert len(orders) == 25


def test_order_of_a_sample_does_not_depend_on_its_batch() -> None:
    whole = sample_indices(np.arange(300), 70, seed=9, purpose=4)
    one_by_one = [int(sample_indices(np.array([k]), 70, seed=9, purpose=4)[0]) for k in range(300)]
    assert whole.tolist() == one_by_one


def test_the_order_of_sets_without_parts_is_the_one_that_runs_were_started_with() -> None:
    samples = np.array([0, 1, 2, 3, 99, 100, 101, 12345, 10**9])
    few = sample_indices(samples, 100, seed=7, purpose=3)
    assert few.tolist() == [61, 20, 56, 7, 72, 82, 60, 49, 99]
    many = sample_indices(samples, 70_000, seed=2**62 + 1, purpose=1)
    assert many.tolist() == [12469, 69522, 36142, 58436, 28007, 51969, 60578, 58564, 32518]
    substitutes = [substitute_index(5, a, 1000, seed=1, purpose=1) for a in (1, 2, 3)]
    assert substitutes == [250, 965, 785]
    assert np.array_equal(batch_rows(12, 1), np.arange(12))


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 500), share=st.floats(0, 1), seed=SEEDS, epochs=st.integers(1, 4))
def test_parts_take_turns_and_go_through_their_own_images(
    size: int, share: float, seed: int, epochs: int
) -> None:
    num_parts = 1 + int(share * (size - 1))
    samples = np.arange(epochs * size)
    indices = sample_indices(samples, size, seed=seed, purpose=1, num_parts=num_parts)
    assert np.array_equal(indices % num_parts, samples % num_parts)
    assert np.array_equal(np.sort(indices[:size]), np.arange(size))
    for part in (0, num_parts // 2, num_parts - 1):
        own = np.arange(part, size, num_parts)
        shown = indices[part::num_parts]
        for epoch in np.split(shown, np.arange(len(own), len(shown), len(own))):
            assert len(np.unique(epoch)) == len(epoch)
            assert len(epoch) < len(own) or np.array_equal(np.sort(epoch), own)
        for attempt in range(1, 5):
            other = substitute_index(part, attempt, size, seed=seed, purpose=1, num_parts=num_parts)
            assert other in own
    rows = batch_rows(3 * num_parts, num_parts)
    assert np.array_equal(rows % num_parts, np.arange(3 * num_parts) // 3)
    assert np.array_equal(np.sort(rows), np.arange(3 * num_parts))


def test_order_of_100_million_images_needs_no_array() -> None:
    size = 100_000_000
    tracemalloc.start()
    samples = size * 3 + np.random.default_rng(0).choice(size, 4096, replace=False)
    tracemalloc.reset_peak()
    base = tracemalloc.get_traced_memory()[0]
    indices = sample_indices(samples, size, seed=1, purpose=1)
    peak = tracemalloc.get_traced_memory()[1] - base
    tracemalloc.stop()
    assert len(np.unique(indices)) == len(samples)
    assert 0 <= indices.min() < indices.max() < size
    assert stats.kstest(indices / size, "uniform").pvalue > 1e-4
    assert peak < 2 * 1024**2


@pytest.mark.slow
def test_100_million_images_are_visited_once_each() -> None:
    size, piece = 100_000_000, 1 << 20
    rng = np.random.default_rng(1)
    # A full pass takes minutes; the part that is tested must not repeat any image.
    seen = np.zeros(size, bool)
    starts = rng.choice(size // piece, 6, replace=False) * piece
    total = 0
    for start in starts:
        samples = np.arange(start, min(start + piece, size))
        indices = sample_indices(samples, size, seed=2, purpose=1)
        assert not seen[indices].any()
        seen[indices] = True
        total += len(samples)
    assert seen.sum() == total


def test_flips_are_fair_and_belong_to_the_sample() -> None:
    samples = np.arange(100_000)
    flips = mirror_flags(samples, seed=1, purpose=1)
    assert stats.binomtest(int(flips.sum()), len(flips)).pvalue > 1e-4
    # Runs of length two show dependence between neighbours.
    agree = int((flips[1:] == flips[:-1]).sum())
    assert stats.binomtest(agree, len(flips) - 1).pvalue > 1e-4
    assert np.array_equal(mirror_flags(samples[500:510], seed=1, purpose=1), flips[500:510])
    assert not np.array_equal(mirror_flags(samples, seed=1, purpose=2), flips)


def test_substitutes_are_uniform_and_stateless() -> None:
    chosen = [substitute_index(k, 1, 10, seed=1, purpose=1) for k in range(4000)]
    assert stats.chisquare(np.bincount(chosen, minlength=10)).pvalue > 1e-4
    assert chosen[77] == substitute_index(77, 1, 10, seed=1, purpose=1)
    assert [substitute_index(5, a, 1000, seed=1, purpose=1) for a in (1, 2, 3)] != [
        substitute_index(6, a, 1000, seed=1, purpose=1) for a in (1, 2, 3)
    ]


def test_empty_domain_is_refused() -> None:
    with pytest.raises(ValueError, match="size=0"):
        permute(keyed_bits(1), np.zeros(1, np.int64), 0)
