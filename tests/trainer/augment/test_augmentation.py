"""The whole augmentation: identity, rows, derivatives, extremes, and names of its parts."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from realness.trainer.augment.augmentation import Augmentation
from realness.trainer.augment.ops import read_ops
from realness.trainer.randomness import Stream, batch_draws
from tests.helpers.augmenting import (
    ALL_OPS,
    as_share_of,
    draws_of,
    number,
    random_images,
)
from tests.helpers.recorded_graph import RecordedGraph
from tests.helpers.watching import Watch

all_ops = pytest.mark.parametrize("ops", ALL_OPS)


@all_ops
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_nothing_changes_at_probability_zero(
    ops: str, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    images = random_images(5, 3, 9, 8, dtype=dtype).contiguous(memory_format=layout)
    found = Augmentation.of(ops)(images, draws_of(5), number(0.0))
    assert found.dtype == dtype
    assert found.stride() == images.stride()
    assert torch.equal(found, images)


@all_ops
def test_images_that_are_not_chosen_stay_as_they_are(ops: str) -> None:
    images = random_images(1, 3, 8, 8).expand(400, -1, -1, -1).contiguous()
    found = Augmentation.of(ops)(images, draws_of(400), number(0.02))
    same = (found == images).flatten(1).all(1)
    # At most 19 transforms, each with probability 0.02: 68 per cent or more stay.
    assert same.sum() > 400 * 0.68 - 6 * (400 * 0.68 * 0.32) ** 0.5
    assert not same.all()


@all_ops
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_dtype_and_the_format_stay(ops: str, layout: torch.memory_format) -> None:
    images = random_images(6, 3, 8, 12).contiguous(memory_format=layout)
    exact = Augmentation.of(ops)(images, draws_of(6), number(0.9))
    assert exact.stride() == images.stride()
    half = Augmentation.of(ops)(images.bfloat16(), draws_of(6), number(0.9))
    assert half.dtype == torch.bfloat16
    assert half.stride() == images.stride()
    # Each stage in float32, its input and result rounded to 8 bits; amplified by gains below 8.
    scale = max(1.0, exact.abs().max().item())
    assert (half.float() - exact).abs().max() < 8 * scale * 2.0**-8


@all_ops
def test_a_batch_is_its_shares(ops: str) -> None:
    images, p = random_images(12, 3, 8, 8), number(0.7)
    augment = Augmentation.of(ops)
    whole = augment(images, draws_of(12), p)
    for ranks in (2, 4):
        share = 12 // ranks
        parts = [
            augment(
                images[rank * share : (rank + 1) * share],
                batch_draws(5, Stream.D_REAL, 0, share, rank=rank),
                p,
            )
            for rank in range(ranks)
        ]
        # A convolution may sum in another order for another number of groups.
        tolerance = 1e-5 if "f" in ops else 0.0
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=tolerance)
    torch.testing.assert_close(
        augment(images[3:5], draws_of(12)[3:5], p), whole[3:5], rtol=0, atol=1e-5
    )


@all_ops
def test_other_streams_and_samples_have_other_draws(ops: str) -> None:
    images, augment = random_images(1, 3, 16, 16).expand(4, -1, -1, -1), Augmentation.of(ops)
    found = [
        augment(images, batch_draws(5, stream, first, 4), number(1.0))
        for stream, first in ((Stream.D_REAL, 0), (Stream.D_FAKE, 0), (Stream.D_REAL, 4))
    ]
    for one, other in itertools.combinations(found, 2):
        assert not torch.equal(one, other)
    assert all((batch != batch[:1]).any() for batch in found)


@all_ops
def test_it_is_affine_and_its_gradient_is_the_transpose(ops: str) -> None:
    augment, draws, p = Augmentation.of(ops), draws_of(6), number(0.8)
    x, y, weight = random_images(3, 6, 3, 10, 10, dtype=torch.float64)
    constant = augment(torch.zeros_like(x), draws, p)

    def linear(images: Tensor) -> Tensor:
        return augment(images, draws, p) - constant

    torch.testing.assert_close(linear(2 * x - 3 * y), 2 * linear(x) - 3 * linear(y))
    leaf = x.clone().requires_grad_()
    (transposed,) = torch.autograd.grad(augment(leaf, draws, p), leaf, weight)
    torch.testing.assert_close((transposed * y).sum(), (weight * linear(y)).sum())


@pytest.mark.parametrize("ops", ["bgcfnx", "color,translation,cutout"])
def test_second_derivatives(ops: str) -> None:
    augment, draws, p = Augmentation.of(ops), draws_of(3), number(0.8)
    images = random_images(3, 3, 6, 5, dtype=torch.float64).requires_grad_()

    def curved(images: Tensor) -> Tensor:
        return augment(images.sin(), draws, p).pow(3)

    assert torch.autograd.gradcheck(curved, (images,), fast_mode=True)
    assert torch.autograd.gradgradcheck(curved, (images,), fast_mode=True)


@all_ops
@pytest.mark.parametrize("size", [(4, 4), (5, 7), (2, 64)])
def test_results_are_finite_for_every_draw(ops: str, size: tuple[int, int]) -> None:
    images = torch.ones(2000, 3, *size)
    found = Augmentation.of(ops)(images, draws_of(2000), number(1.0))
    assert found.isfinite().all()


@all_ops
def test_an_image_that_is_not_finite_stays_alone(ops: str) -> None:
    images, augment = random_images(5, 3, 8, 8), Augmentation.of(ops)
    spoiled = images.clone()
    spoiled[2] = float("nan")
    rest = [0, 1, 3, 4]
    found = augment(spoiled, draws_of(5), number(0.8))
    assert torch.equal(found[rest], augment(images, draws_of(5), number(0.8))[rest])


@all_ops
def test_no_decision_depends_on_values(ops: str) -> None:
    """Tensors without memory have no values to wait for."""
    images = torch.empty(4, 3, 16, 16, device="meta", requires_grad=True)
    found = Augmentation.of(ops)(images, draws_of(4, device="meta"), torch.empty((), device="meta"))
    assert found.shape == images.shape
    found.sum().backward()
    with Watch() as watch:
        Augmentation.of(ops)(random_images(4, 3, 8, 8), draws_of(4), number(0.5))
    assert watch.waits == {}


@all_ops
def test_a_captured_augmentation_reads_its_inputs_again(ops: str) -> None:
    augment, images = Augmentation.of(ops), random_images(4, 3, 8, 8)
    first, p = torch.tensor(0), number(0.5)

    def work() -> Tensor:
        return augment(images, batch_draws(5, Stream.D_REAL, first, 4), p)

    work()
    graph = RecordedGraph()
    result = graph.capture(work)
    for start, probability in ((8, 0.9), (16, 0.2), (24, 0.0)):
        first.fill_(start)
        p.fill_(probability)
        images.copy_(images.flip(0))
        graph.replay()
        assert torch.equal(result, work())


def oriented(image: Tensor) -> Tensor:
    """The 8 orientations of an image [3, R, R]: 4 turns, then those of its mirror image."""
    turns = [torch.rot90(image, quarters, (1, 2)) for quarters in range(4)]
    mirrored = image.flip(2)
    return torch.stack(
        [*turns, *(torch.rot90(mirrored, quarters, (1, 2)) for quarters in range(4))]
    )


@pytest.mark.parametrize("p", [0.3, 0.79])
def test_augmentations_do_not_leak_below_the_safe_probability(p: float) -> None:
    """A set in which 70, 20 and 10 per cent have three orientations is recovered from what D sees.

    The distribution after augmentation is A d with a circulant A that can be inverted; a G that
    matches it can only have the distribution d, and most of its images are upright.
    """
    count = 20_000
    shapes = oriented(random_images(3, 4, 4))  # too small for a translation by a whole pixel
    share = torch.zeros(8)
    share[0], share[5], share[2] = 0.7, 0.2, 0.1
    which = torch.arange(8).repeat_interleave((share * count).round().long())
    seen = Augmentation.of("b")(shapes[which], draws_of(count), number(p))
    matches = (seen[:, None] == shapes).flatten(2).all(2)
    assert matches.sum(1).eq(1).all()
    found = matches.double().mean(0)
    # An orientation becomes any of the 8: a mirror with p/2, each quarter turn with p/4.
    expected = torch.zeros(8, dtype=torch.float64)
    for source, turn, mirror in itertools.product((0, 5, 2), range(4), (False, True)):
        flipped, angle = source >= 4, source % 4
        chance = (p / 2 if mirror else 1 - p / 2) * (p / 4 + (1 - p) * (turn == 0))
        if mirror:  # the mirror image of a turn by a is a mirror image turned by -a
            flipped, angle = not flipped, -angle
        expected[4 * flipped + (angle + turn) % 4] += share[source].item() * chance
    for hits, probability in zip(matches.sum(0).tolist(), expected.tolist(), strict=True):
        assert as_share_of(count, hits, probability)
    assert found.argmax() == 0


def test_augmentations_leak_at_probability_one() -> None:
    """All orientations are then equally frequent, and nothing says which one was the original."""
    count = 20_000
    shapes = oriented(random_images(3, 4, 4))
    seen = Augmentation.of("b")(shapes[:1].expand(count, -1, -1, -1), draws_of(count), number(1.0))
    hits = (seen[:, None] == shapes).flatten(2).all(2).sum(0)
    assert all(as_share_of(count, int(number_seen), 1 / 8) for number_seen in hits)


@pytest.mark.parametrize(
    ("text", "groups", "policies"),
    [
        ("bgc", {"b": 1, "g": 1, "c": 1}, ()),
        ("cgb", {"b": 1, "g": 1, "c": 1}, ()),
        ("bgc0.5x", {"b": 1, "g": 1, "c": 0.5, "x": 1}, ()),
        ("b.25", {"b": 0.25}, ()),
        ("blit", {"b": 1}, ()),
        ("geom", {"g": 1}, ()),
        ("noise", {"n": 1}, ()),
        ("bgcfn", {"b": 1, "g": 1, "c": 1, "f": 1, "n": 1}, ()),
        ("bgcfnc", dict.fromkeys("bgcfnx", 1), ()),
        ("color", {}, ("color",)),
        ("translation, cutout", {}, ("translation", "cutout")),
    ],
)
def test_names_of_its_parts(text: str, groups: dict[str, float], policies: tuple[str, ...]) -> None:
    assert read_ops(text) == (tuple(groups.items()), policies)
    assert Augmentation.of(text) == Augmentation(tuple(groups.items()), policies)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a list of groups"),
        ("bgq", "'q' is not a group; did you mean 'bg"),
        ("c.", "not a list of groups"),
        ("bg-c", "not a list of groups; did you mean 'bgc'"),
        ("colour,translation", "'colour' is not a policy; did you mean 'color'"),
        ("translatoin", "did you mean 'translation'"),
        ("blits", "did you mean 'blit'"),
        ("bgc2", "the factor of 'c' is 2; use a number above 0"),
        ("c0", "the factor of 'c' is 0"),
        ("bgcb", "names 'b' twice"),
        ("cutout,cutout", "names 'cutout' twice"),
        ("color,", "'' is not a policy"),
    ],
)
def test_unknown_names_are_refused_with_a_suggestion(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation.of(text)


def test_shapes_that_do_not_fit_are_refused() -> None:
    augment, p = Augmentation.of("bgc"), number(0.5)
    with pytest.raises(ValueError, match=r"shape \(2, 1, 8, 8\).*3, height, width"):
        augment(torch.zeros(2, 1, 8, 8), draws_of(2), p)
    with pytest.raises(ValueError, match="with 3 draws"):
        augment(torch.zeros(2, 3, 8, 8), draws_of(3), p)
