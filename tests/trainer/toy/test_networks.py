"""The 2-D networks as ensembles: against torch's layers, and against single members."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from realness import kernels
from realness.trainer.objectives.penalties import gradient_squared_norm
from realness.trainer.toy.networks import (
    EnsembleBatchNorm,
    EnsembleLinear,
    EnsembleMaxout,
    FarDiscriminator,
    FarGenerator,
    ToyDiscriminator,
    ToyGenerator,
    interleave_members,
    member_generators,
    split_members,
)

SEEDS = [3, 11, 4]
Build = Callable[[Sequence[int]], nn.Module]

GENERATORS: dict[str, Build] = {
    "toy": lambda seeds: ToyGenerator(seeds, width=20),
    "far": lambda seeds: FarGenerator(seeds),
}
DISCRIMINATORS: dict[str, Build] = {
    "toy": lambda seeds: ToyDiscriminator(4, seeds, width=20),
    "far": lambda seeds: FarDiscriminator(4, seeds),
}


def num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# By hand. RealnessGAN: 32 * 400 + 400, three of 400 * 400 + 400, 2 * 400 of each batch
# normalisation, 400 * 2 + 2. D: 2 * 1000 + 1000, two of 200 * 1000 + 1000, 200 * K + K.
# FAR-GAN: 2 * 64 + 64, two of 64 * 64 + 64, and 64 * K + K with K = 2 or 1.
@pytest.mark.parametrize(
    ("network", "total"),
    [
        (ToyGenerator([0]), 13_200 + 3 * 160_400 + 4 * 800 + 802),
        (ToyDiscriminator(5, [0]), 3_000 + 2 * 201_000 + 1_005),
        (FarGenerator([0]), 192 + 2 * 4_160 + 130),
        (FarDiscriminator(1, [0]), 192 + 2 * 4_160 + 65),
        (FarDiscriminator(1, SEEDS), 3 * (192 + 2 * 4_160 + 65)),
    ],
)
def test_parameter_counts(network, total):
    assert num_parameters(network) == total


def test_rows_are_interleaved():
    rows = torch.arange(12.0).view(6, 2)
    x = split_members(rows, 3, 2)
    assert x.shape == (3, 2, 2)
    assert torch.equal(x[1], torch.stack([rows[1], rows[4]]))
    assert torch.equal(interleave_members(x), rows)


def test_linear_is_torchs_for_each_member():
    layer = EnsembleLinear(5, 4, member_generators(SEEDS, "G")).double()
    rows = torch.randn(6, 5, dtype=torch.float64)
    output = layer(rows)
    for r in range(6):
        alone = nn.functional.linear(rows[r], layer.weight[r % 3].T, layer.bias[r % 3, 0])
        torch.testing.assert_close(output[r], alone)


def test_maxout_is_the_largest_piece():
    layer = EnsembleMaxout(5, 4, 3, member_generators(SEEDS, "D")).double()
    rows = torch.randn(6, 5, dtype=torch.float64)
    output = layer(rows).detach()
    assert output.shape == (6, 4)
    for r in range(6):
        every = (rows[r] @ layer.weight[r % 3] + layer.bias[r % 3, 0]).tolist()
        for j in range(4):
            assert output[r, j].item() == pytest.approx(max(every[j + 4 * k] for k in range(3)))


def test_initial_weights_are_those_of_torch_linear():
    """Uniform in +-1/sqrt(in): the range is filled and the variance is bound^2 / 3."""
    layer = EnsembleLinear(400, 900, member_generators([7], "G"))
    for parameter in (layer.weight, layer.bias):
        assert parameter.abs().max().item() == pytest.approx(1 / 20, rel=0.01)
        assert parameter.abs().max().item() <= 1 / 20
    assert layer.weight.var().item() == pytest.approx(1 / 400 / 3, rel=0.01)


@pytest.mark.parametrize("build", [*GENERATORS.values(), *DISCRIMINATORS.values()])
def test_seeds_decide_the_initial_weights(build):
    """Equal for equal seeds, whatever the global generator's state, and different for others."""
    torch.manual_seed(0)
    first = build([3, 11, 3])
    torch.manual_seed(1)
    second = build([3, 11, 3])
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    for weight in first.parameters():
        if weight.dim() == 3:
            assert torch.equal(weight[0], weight[2])
            assert (weight[0] - weight[1]).abs().mean() > 0.1 * weight.abs().max()


def test_generator_and_discriminator_of_a_seed_start_apart():
    generator, discriminator = FarGenerator([5]), FarDiscriminator(1, [5])
    (a, *_), (b, *_) = generator.parameters(), discriminator.parameters()
    assert a.shape == b.shape
    assert (a - b).abs().mean() > 0.1


def assert_members_match(build: Build, loss: Callable[[nn.Module, Tensor], Tensor], features: int):
    """Losses and parameter gradients of the ensemble are those of the members by themselves.

    `loss` maps a network and its rows to one number per row.
    """
    torch.manual_seed(0)
    ensemble = build(SEEDS).double()
    rows = torch.randn(7 * len(SEEDS), features, dtype=torch.float64)
    losses = loss(ensemble, rows)
    gradients = torch.autograd.grad(losses.sum(), list(ensemble.parameters()))
    for m, seed in enumerate(SEEDS):
        single = build([seed]).double()
        expected = loss(single, rows[m :: len(SEEDS)])
        torch.testing.assert_close(losses[m :: len(SEEDS)], expected)
        singles = list(single.parameters())
        for mine, theirs, like in zip(
            gradients, torch.autograd.grad(expected.sum(), singles), singles, strict=True
        ):
            of_member = mine.reshape(len(SEEDS), -1)[m].view_as(like)
            torch.testing.assert_close(of_member, theirs)


@pytest.mark.parametrize("name", ["toy", "far"])
def test_generator_ensemble_is_its_members(name):
    features = 32 if name == "toy" else 2
    assert_members_match(GENERATORS[name], lambda g, z: (g(z) ** 3).sum(1), features)


@pytest.mark.parametrize("name", ["toy", "far"])
def test_discriminator_ensemble_is_its_members(name):
    assert_members_match(DISCRIMINATORS[name], lambda d, x: (d(x) ** 3).sum(1), 2)


@pytest.mark.parametrize("name", ["toy", "far"])
@kernels.implementation("reference")
def test_gradient_penalty_of_an_ensemble_is_its_members(name):
    """R1 and its gradient, a second derivative of the networks."""

    def penalty(network: nn.Module, rows: Tensor) -> Tensor:
        points = rows.clone().requires_grad_()
        return gradient_squared_norm((network(points) ** 2).sum(1), points)

    assert_members_match(DISCRIMINATORS[name], penalty, 2)


@pytest.mark.parametrize("name", ["toy", "far"])
def test_discriminator_is_differentiable_twice(name):
    network = DISCRIMINATORS[name]([0, 1]).double()
    points = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: network(x).square(), (points,))


def test_batch_normalisation_is_per_member():
    """Each member against torch's layer by itself, over two steps and then in evaluation."""
    torch.manual_seed(0)
    ours = EnsembleBatchNorm(5, member_generators(SEEDS, "G")).double()
    theirs = [nn.BatchNorm1d(5).double() for _ in range(3)]
    rows = torch.empty(0)
    for _ in range(2):
        rows = torch.randn(12, 5, dtype=torch.float64) * torch.arange(1, 6) + 3
        output = ours(rows)
        for m, single in enumerate(theirs):
            torch.testing.assert_close(output[m::3], single(rows[m::3]))
    output = ours.eval()(rows)
    for m, single in enumerate(theirs):
        torch.testing.assert_close(output[m::3], single.eval()(rows[m::3]))


def test_first_weights_of_batch_normalisation():
    """1, or N(1, 0.02) draws of the member's own seed, as in the published script."""
    plain, drawn = ToyGenerator(SEEDS), ToyGenerator(SEEDS, bn_std=0.02)
    alone = ToyGenerator(SEEDS[1:2], bn_std=0.02)
    norms = [
        [layer for layer in network.modules() if isinstance(layer, EnsembleBatchNorm)]
        for network in (plain, drawn, alone)
    ]
    assert all(bool((layer.weight == 1).all()) for layer in norms[0])
    for together, single in zip(*norms[1:], strict=True):
        assert torch.equal(together.weight[400:800], single.weight)
        assert not together.bias.any()
    weights = torch.cat([layer.weight for layer in norms[1]])
    # 4,800 draws; 5 standard errors.
    assert weights.mean().item() == pytest.approx(1.0, abs=5 * 0.02 / 4800**0.5)
    assert weights.std().item() == pytest.approx(0.02, rel=5 / (2 * 4800) ** 0.5)


def test_members_do_not_see_each_other():
    """Changing one member's rows changes none of another's outputs, batch statistics included."""
    generator = ToyGenerator(SEEDS, width=20).double()
    z = torch.randn(12, 32, dtype=torch.float64)
    changed = z.clone()
    changed[1::3] = torch.randn(4, 32)
    before, after = generator(z), generator(changed)
    assert torch.equal(before[0::3], after[0::3])
    assert torch.equal(before[2::3], after[2::3])
    assert not torch.allclose(before[1::3], after[1::3])


@pytest.mark.parametrize("build", [*GENERATORS.values(), *DISCRIMINATORS.values()])
def test_meta_device_and_bf16(build):
    features = build([0]).get_parameter("layers.0.weight").shape[1]
    with torch.device("meta"):
        output = build(SEEDS)(torch.empty(6, features))
    assert output.is_meta
    assert output.shape[0] == 6
    torch.manual_seed(0)
    network, rows = build(SEEDS), torch.randn(30, features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = network(rows)
    assert low.dtype == torch.bfloat16
    scale = network(rows).abs().max().item()
    torch.testing.assert_close(low.float(), network(rows), atol=0.05 * scale, rtol=0)
    low.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_wrong_rows_are_refused():
    generator = FarGenerator(SEEDS)
    with pytest.raises(ValueError, match=r"shape \(7, 2\), expected \[B \* 3, 2\]"):
        generator(torch.zeros(7, 2))
    with pytest.raises(ValueError, match=r"shape \(6, 3\), expected \[B \* 3, 2\]"):
        generator(torch.zeros(6, 3))
    with pytest.raises(ValueError, match="seeds is empty"):
        FarGenerator([])
