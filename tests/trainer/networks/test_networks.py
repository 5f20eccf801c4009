"""DCGAN, spectral normalisation and global batch normalisation against torch and closed forms."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from realness import kernels
from realness.trainer.distributed import collectives, ranks
from realness.trainer.networks.batch_norm import GlobalBatchNorm
from realness.trainer.networks.build import build_discriminator, build_generator
from realness.trainer.networks.configs import DCGANDiscriminatorConfig, DCGANGeneratorConfig
from realness.trainer.networks.spectral_norm import (
    SpectralConv2d,
    SpectralLinear,
    update_spectral_norm,
)

RESOLUTIONS = [32, 64, 128, 256, 512, 1024]


def num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# Parameter counts. By hand, at 1024 with width 32 the stages have 4096, 2048, ..., 32 channels:
#   stages of stride 2: 16 * sum over c = 32, 64, ..., 2048 of c * 2c = 32 * (4^12 - 4^5) / 3
#                     = 178,946,048, and 16 * 32 * 3 = 1,536 to or from RGB
#   G besides: 128 * 4096 * 16 = 8,388,608 from z; batch norms 2 * (4096 + ... + 32) = 16,320
#   a head of D: 4096 * 4 * 4 = 65,536 features times its outputs
TRUNK_1024 = 178_946_048 + 1_536
HEAD_51 = 65_536 * 51


def test_parameter_count_of_the_1024_generator():
    with torch.device("meta"):
        generator = build_generator(DCGANGeneratorConfig(), 1024)
    assert num_parameters(generator) == TRUNK_1024 + 8_388_608 + 16_320 == 187_352_512


@pytest.mark.parametrize(("num_outputs", "total"), [(51, 182_289_920), (102, 185_632_256)])
def test_parameter_count_of_the_1024_discriminator(num_outputs, total):
    with torch.device("meta"):
        discriminator = build_discriminator(DCGANDiscriminatorConfig(), 1024, num_outputs)
    trunk = num_parameters(discriminator.get_submodule("layers"))
    head = num_parameters(discriminator.get_submodule("head"))
    assert trunk == TRUNK_1024 == 178_947_584
    assert head == num_outputs // 51 * HEAD_51
    assert trunk + head == num_parameters(discriminator) == total


def test_published_discriminator_size_counts_both_heads():
    """The quoted 189M include an N-outcome and a 2N-outcome head, of which only one is used."""
    assert round((TRUNK_1024 + 3 * HEAD_51) / 1e6) == 189


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_shapes_and_channels_at_every_resolution(resolution):
    with torch.device("meta"):
        generator = build_generator(DCGANGeneratorConfig(z_dim=7, g_width=3), resolution)
        discriminator = build_discriminator(DCGANDiscriminatorConfig(d_width=3), resolution, 5)
        images = generator(torch.empty(2, 7))
        assert images.shape == (2, 3, resolution, resolution)
        assert discriminator(images).shape == (2, 5)
    weights = [p for p in generator.parameters() if p.dim() == 4]
    assert weights[0].shape == (7, 3 * resolution // 8, 4, 4)
    assert weights[-1].shape == (3, 3, 4, 4)
    assert discriminator.get_submodule("head").in_features == 3 * resolution // 8 * 16


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_gradients_reach_every_parameter_at_every_resolution(resolution):
    torch.manual_seed(0)
    generator = build_generator(DCGANGeneratorConfig(z_dim=7, g_width=1), resolution)
    discriminator = build_discriminator(DCGANDiscriminatorConfig(d_width=1), resolution, 5)
    images = generator(torch.randn(2, 7))
    assert images.abs().max() <= 1
    discriminator(images).square().sum().backward()
    for parameter in [*generator.parameters(), *discriminator.parameters()]:
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("resolution", [16, 48, 2048])
def test_other_resolutions_are_refused(resolution):
    with pytest.raises(ValueError, match=f"resolution={resolution} must be a power of two"):
        build_generator(DCGANGeneratorConfig(), resolution)
    with pytest.raises(ValueError, match=f"resolution={resolution} must be a power of two"):
        build_discriminator(DCGANDiscriminatorConfig(), resolution, 1)


def test_wrong_inputs_are_refused():
    generator = build_generator(DCGANGeneratorConfig(g_width=2), 32)
    with pytest.raises(ValueError, match=r"z has shape \(2, 100\), expected \[B, 128\]"):
        generator(torch.zeros(2, 100))
    discriminator = build_discriminator(DCGANDiscriminatorConfig(d_width=2), 32, 1)
    with pytest.raises(ValueError, match=r"images have shape \(2, 3, 64, 64\)"):
        discriminator(torch.zeros(2, 3, 64, 64))


def test_initial_weights():
    torch.manual_seed(0)
    generator = build_generator(DCGANGeneratorConfig(), 64)
    discriminator = build_discriminator(DCGANDiscriminatorConfig(), 64, 51)
    for network in (generator, discriminator):
        kernels = [p for p in network.parameters() if p.dim() == 4]
        assert len(kernels) == {generator: 5, discriminator: 4}[network]
        for weight in kernels:
            assert weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert abs(weight.mean().item()) < 0.02 * 5 / weight.numel() ** 0.5
    norms = [m for m in generator.modules() if isinstance(m, GlobalBatchNorm)]
    scales = torch.cat([m.weight.detach() for m in norms])
    assert scales.mean().item() == pytest.approx(1, abs=0.005)
    assert scales.std().item() == pytest.approx(0.02, rel=0.15)
    assert all(torch.equal(m.bias, torch.zeros_like(m.bias)) for m in norms)
    assert {n for n, _ in generator.named_parameters() if n.endswith("bias")} == {
        f"norms.{i}.bias" for i in range(len(norms))
    }
    assert not any(n.endswith("bias") for n, _ in discriminator.named_parameters())


@pytest.mark.parametrize(
    ("activation", "torch_activation"), [("relu", nn.ReLU()), ("lrelu", nn.LeakyReLU(0.2))]
)
def test_generator_is_the_torch_sequential(activation, torch_activation):
    """The same weights in torch's own layers: images, and gradients of z and all parameters."""
    torch.manual_seed(0)
    generator = build_generator(
        DCGANGeneratorConfig(g_width=4, g_activation=activation), 32
    ).double()
    layers: list[nn.Module] = []
    channels = [128, 16, 8, 4, 3]
    for i, (below, above) in enumerate(itertools.pairwise(channels)):
        stride, padding = (2, 1) if i else (1, 0)
        layers.append(nn.ConvTranspose2d(below, above, 4, stride, padding, bias=False))
        layers += [nn.BatchNorm2d(above), torch_activation] if above > 3 else [nn.Tanh()]
    expected = nn.Sequential(nn.Unflatten(1, (128, 1, 1)), *layers).double()
    ours = [p for p in generator.parameters() if p.dim() == 4]
    ours += [p for p in generator.parameters() if p.dim() == 1]
    theirs = [p for p in expected.parameters() if p.dim() == 4]
    theirs += [p for p in expected.parameters() if p.dim() == 1]
    for mine, reference in zip(ours, theirs, strict=True):
        reference.data.copy_(mine.data)
    z = torch.randn(5, 128, dtype=torch.float64, requires_grad=True)
    images, reference = generator(z), expected(z)
    torch.testing.assert_close(images, reference)
    assert images.abs().max() <= 1
    upstream = torch.randn_like(images)
    torch.testing.assert_close(
        torch.autograd.grad(images, [z, *ours], upstream),
        torch.autograd.grad(reference, [z, *theirs], upstream),
    )
    torch.testing.assert_close(generator.eval()(z), expected.eval()(z))


def torch_discriminator(
    network: nn.Module, num_outputs: int, spectral: bool, activation: nn.Module
) -> nn.Sequential:
    """torch's layers with the weights (and singular vectors) of `network`, 32x32 at width 4."""
    layers = [nn.Conv2d(3, 4, 4, 2, 1, bias=False), nn.Conv2d(4, 8, 4, 2, 1, bias=False)]
    layers += [nn.Conv2d(8, 16, 4, 2, 1, bias=False), nn.Linear(256, num_outputs, bias=False)]
    ours = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for mine, theirs in zip(ours, layers, strict=True):
        theirs.weight.data = mine.weight.data.clone()
        if spectral:
            theirs = spectral_norm(theirs.to(mine.weight.dtype))
            theirs.parametrizations.weight[0]._u.copy_(mine.u)  # type: ignore[union-attr]
            theirs.parametrizations.weight[0]._v.copy_(mine.v)  # type: ignore[union-attr]
    activated = [m for conv in layers[:-1] for m in (conv, activation)]
    return nn.Sequential(*activated, nn.Flatten(), layers[-1]).eval()


@pytest.mark.parametrize(
    ("norm", "activation", "torch_activation"),
    [
        ("spectral", "lrelu", nn.LeakyReLU(0.2)),
        ("none", "lrelu", nn.LeakyReLU(0.2)),
        ("none", "relu", nn.ReLU()),
        ("spectral", "silu", nn.SiLU()),
    ],
)
@kernels.implementation("reference")
def test_discriminator_is_the_torch_sequential(norm, activation, torch_activation):
    """Outputs and gradients of images and weights; torch's spectral_norm has the same u and v."""
    torch.manual_seed(0)
    config = DCGANDiscriminatorConfig(d_width=4, d_norm=norm, d_activation=activation)
    network = build_discriminator(config, 32, 5).double()
    expected = torch_discriminator(network, 5, norm == "spectral", torch_activation)
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    output, reference = network(images), expected(images)
    torch.testing.assert_close(output, reference)
    upstream = torch.randn_like(output)
    torch.testing.assert_close(
        torch.autograd.grad(output, [images, *network.parameters()], upstream),
        torch.autograd.grad(reference, [images, *expected.parameters()], upstream),
    )


def spectral_layers() -> list[SpectralConv2d | SpectralLinear]:
    torch.manual_seed(0)
    return [SpectralConv2d(6, 10, 4, 2, 1), SpectralLinear(40, 3), SpectralLinear(5, 1)]


def top_singular_value(weight: torch.Tensor) -> float:
    return torch.linalg.svdvals(weight.detach().double().flatten(1))[0].item()


@pytest.mark.parametrize("layer", spectral_layers(), ids=lambda layer: type(layer).__name__)
def test_spectral_norm_converges_to_the_svd(layer):
    """From construction on sigma is a lower bound, and it rises to the SVD's value."""
    exact = top_singular_value(layer.weight)
    started = (layer.weight / layer.normalized_weight(torch.float32)).mean().item()
    # A sum of some hundred products in float32 is accurate to 1e-6 at best.
    assert 0.7 * exact < started <= exact * (1 + 1e-5)
    for _ in range(200):
        update_spectral_norm(layer)
    assert top_singular_value(layer.normalized_weight(torch.float32)) == pytest.approx(1, abs=1e-4)
    assert layer.u.norm().item() == pytest.approx(1, abs=1e-5)
    assert layer.v.norm().item() == pytest.approx(1, abs=1e-5)


def test_update_is_one_power_iteration_of_every_layer():
    torch.manual_seed(0)
    network = build_discriminator(DCGANDiscriminatorConfig(d_width=2), 32, 3)
    layers = [m for m in network.modules() if isinstance(m, SpectralConv2d | SpectralLinear)]
    assert len(layers) == 4
    expected = []
    for layer in layers:
        matrix = layer.weight.detach().flatten(1)
        v = F.normalize(matrix.T @ layer.u, dim=0)
        expected.append((F.normalize(matrix @ v, dim=0), v))
    update_spectral_norm(network)
    for layer, (u, v) in zip(layers, expected, strict=True):
        torch.testing.assert_close(layer.u, u)
        torch.testing.assert_close(layer.v, v)


def test_forward_and_backward_leave_the_discriminator_as_it_was():
    network = build_discriminator(DCGANDiscriminatorConfig(d_width=2), 32, 3)
    before = copy.deepcopy(network.state_dict())
    for _ in range(3):
        network.train()(torch.randn(2, 3, 32, 32)).sum().backward()
    after = network.state_dict()
    assert {"head.u", "head.v", "layers.0.u", "layers.0.v"} <= set(before)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_update_ignores_networks_without_spectral_norm():
    network = build_generator(DCGANGeneratorConfig(g_width=2), 32)
    before = copy.deepcopy(network.state_dict())
    update_spectral_norm(network)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_spectral_norm_stays_fp32_under_autocast():
    (layer, *_) = spectral_layers()
    expected = layer.normalized_weight(torch.float32)
    vectors = layer.u.clone(), layer.v.clone()
    update_spectral_norm(layer)
    updated = layer.u.clone(), layer.v.clone()
    layer.u.copy_(vectors[0])
    layer.v.copy_(vectors[1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.normalized_weight(torch.float32), expected)
        assert layer(torch.randn(2, 6, 8, 8)).dtype == torch.bfloat16
        update_spectral_norm(layer)
    assert torch.equal(layer.u, updated[0])
    assert torch.equal(layer.v, updated[1])


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16])
def test_buffers_stay_fp32_when_a_network_is_cast(cast):
    network = nn.Sequential(SpectralConv2d(3, 4, 3), GlobalBatchNorm(4))
    before = {name: value.clone() for name, value in network.named_buffers()}
    network.to(cast)
    assert all(p.dtype == cast for p in network.parameters())
    for name, value in network.named_buffers():
        assert torch.equal(value, before[name])
    output = network(torch.randn(2, 3, 8, 8, dtype=cast))
    assert output.dtype == cast
    output.float().square().sum().backward()
    update_spectral_norm(network)
    assert network[0].u.dtype == torch.float32
    assert all(b.dtype == torch.float64 for b in network.double().buffers())


# Batch normalisation.


def batch_norm_pair(**options) -> tuple[GlobalBatchNorm, nn.BatchNorm2d]:
    torch.manual_seed(0)
    ours, theirs = GlobalBatchNorm(6, **options), nn.BatchNorm2d(6)
    nn.init.normal_(ours.bias)
    theirs.load_state_dict({**ours.state_dict(), "num_batches_tracked": torch.tensor(0)})
    return ours, theirs


@pytest.mark.parametrize("statistics", ["global", "local"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_batch_norm_is_torchs(statistics, memory_format, dtype):
    """Values, running statistics over two steps, gradients of x, weight and bias; then eval."""
    ours, theirs = batch_norm_pair(statistics=statistics)
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    for _ in range(2):
        x = (3 * torch.randn(4, 6, 5, 7, dtype=dtype) + 10).to(memory_format=memory_format)
        x.requires_grad_()
        y, expected = ours(x), theirs(x)
        torch.testing.assert_close(y, expected)
        assert y.is_contiguous(memory_format=memory_format)
        upstream = torch.randn_like(y)
        torch.testing.assert_close(
            torch.autograd.grad(y, [x, ours.weight, ours.bias], upstream),
            torch.autograd.grad(expected, [x, theirs.weight, theirs.bias], upstream),
            atol=1e-4 if dtype == torch.float32 else 1e-10,
            rtol=1e-4 if dtype == torch.float32 else 1e-9,
        )
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_batch_norm_of_vectors_is_torchs():
    torch.manual_seed(0)
    ours, theirs = GlobalBatchNorm(6).double(), nn.BatchNorm1d(6).double()
    theirs.weight.data.copy_(ours.weight.data)
    x = torch.randn(9, 6, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))


def test_batch_norm_of_bf16_has_fp32_statistics():
    """Far from 0, bf16 moments would be useless; the result is that of fp32, rounded once."""
    ours, theirs = batch_norm_pair()
    x = (torch.randn(8, 6, 16, 16) + 30).bfloat16()
    y = ours(x)
    assert y.dtype == torch.bfloat16
    # One rounding is 2^-8; if a different order of float32 sums crosses a tie, slightly more.
    torch.testing.assert_close(y.float(), theirs(x.float()), atol=0, rtol=2**-8 + 1e-5)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_batch_norm_saves_its_input_once():
    """Only the activation is kept for the backward pass, in its own precision."""
    ours = GlobalBatchNorm(6)
    x = torch.randn(4, 6, 16, 16).bfloat16().requires_grad_()
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        ours(x)
    large = [t for t in saved.values() if t.numel() >= x.numel()]
    assert [t.data_ptr() for t in large] == [x.data_ptr()]


def merge_with(other: torch.Tensor):
    """The result of `global_moments` on a rank whose only peer holds the rows `other`."""

    def merge(mean, variance):
        variance_other, mean_other = torch.var_mean(other, dim=(0, 2, 3), correction=0)
        merged = (mean + mean_other) / 2
        spread = ((mean - merged) ** 2 + (mean_other - merged) ** 2) / 2
        return merged, (variance + variance_other) / 2 + spread

    return merge


def test_batch_norm_of_a_share_is_that_of_the_whole_batch(monkeypatch):
    """This rank's rows get the whole batch's values, running statistics and input gradients."""
    ours, theirs = batch_norm_pair()
    ours, theirs = ours.double(), theirs.double()
    x = torch.randn(4, 6, 3, 3, dtype=torch.float64)
    share, rest = x.chunk(2)
    share.requires_grad_()
    monkeypatch.setattr(collectives, "global_moments", merge_with(rest))
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    y, expected = ours(share), theirs(torch.cat([share, rest]))[:2]
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    upstream = torch.randn_like(y)
    torch.testing.assert_close(
        torch.autograd.grad(y, share, upstream), torch.autograd.grad(expected, share, upstream)
    )


def test_local_statistics_ask_no_other_rank(monkeypatch):
    def refuse(*_):
        raise AssertionError("local statistics must not meet other ranks")

    monkeypatch.setattr(collectives, "global_moments", refuse)
    monkeypatch.setattr(ranks, "world_size", refuse)
    ours, theirs = batch_norm_pair(statistics="local")
    x = torch.randn(4, 6, 3, 3)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_batch_norm_gradcheck():
    ours = GlobalBatchNorm(3).double()
    x = torch.randn(3, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ours, (x,))


def test_batch_norm_refuses_a_second_derivative():
    """The moments are constants of torch's kernel there, so the result would be wrong."""
    ours = GlobalBatchNorm(3)
    x = torch.randn(3, 3, 2, 2, requires_grad=True)
    (grad,) = torch.autograd.grad(ours(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.square().sum().backward()


def test_batch_norm_refuses_a_single_value():
    with pytest.raises(ValueError, match=r"more than one value per channel.*\(1, 3\)"):
        GlobalBatchNorm(3)(torch.randn(1, 3))
