"""Public models: files in the layouts of others, read back to the bit, and what they compute."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from scipy.signal import convolve2d, correlate2d
from torch import Tensor

from realness.launch.presets import relativistic_resnet
from realness.launch.stylegan2_presets import small
from realness.trainer.inference.public import (
    ModelFileError,
    PublicModel,
    configuration,
    fixed_noise,
    read_networks,
    read_public,
)
from realness.trainer.networks.stylegan2_generator import StyledConv, StyleGAN2Generator, ToImage
from realness.trainer.networks.stylegan2_layers import EqualConv2d
from realness.trainer.updates.build import build_networks
from tests.helpers.public_files import (
    NvidiaWriter,
    noise_and_centre,
    nvidia_pickle,
    r3gan_pickle,
    random_states,
    rosinality_file,
    tensorflow_pickle,
    tensorflow_variables,
    tiny_r3gan,
    tiny_stylegan2,
    write,
)

STATES = random_states(tiny_stylegan2())
LAYOUTS: dict[str, Callable[[], bytes]] = {
    "nvidia.pkl": lambda: nvidia_pickle(STATES),
    "tensorflow.pkl": lambda: tensorflow_pickle(STATES),
    "rosinality.pt": lambda: rosinality_file(STATES),
    "rosinality-older.pt": lambda: rosinality_file(STATES, archive=False),
}


def read(path: Path) -> tuple[PublicModel, dict[str, dict[str, Tensor]]]:
    """A file's model, and the states of its networks."""
    model = read_public(path)
    return model, read_networks(model, configuration(model, small, small))


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_reads_back_to_the_bit(name: str, tmp_path: Path) -> None:
    model, states = read(write(tmp_path / name, LAYOUTS[name]()))
    for network, state in STATES.items():
        assert set(states[network]) - set(state) <= {"path_length_mean"}
        for key, value in state.items():
            assert torch.equal(states[network][key], value), (network, key)
    noise, centre = noise_and_centre(10)
    flat = fixed_noise(model)
    assert flat is not None
    assert model.centre is not None
    assert torch.equal(flat, torch.cat([x.flatten() for x in noise.values()]))
    assert torch.equal(model.centre.read(), centre)


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("clamp", [None, 3.0])
def test_settings_are_read_from_the_file(group: int, clamp: float | None, tmp_path: Path) -> None:
    fields = {"w_dim": 6, "mapping_layers": 2, "z_dim": 5, "minibatch_group": group}
    bound = clamp or 0.0
    config = tiny_stylegan2(**fields, g_clamp=bound, d_clamp=bound)

    def without_group(content: dict[str, Any], writer: NvidiaWriter) -> Any:
        state = states["D"]
        if group == 1:
            content["D"] = writer.discriminator(state, 1, deviation=False)
        return content

    states = random_states(config)
    content = nvidia_pickle(states, group, without_group, clamp=clamp)
    found = configuration(read_public(write(tmp_path / "x.pkl", content)), small, small)
    assert found.g == config.g
    assert found.d == config.d


def test_settings_of_tensorflow_are_read_too(tmp_path: Path) -> None:
    content = tensorflow_pickle(
        STATES, conv_clamp=np.float32(7), mbstd_group_size=8, resample_kernel=[1, 3, 3, 1]
    )
    model = read_public(write(tmp_path / "x.pkl", content))
    assert (model.clamps, model.group) == ((7.0, 7.0), 8)
    content = tensorflow_pickle(STATES, resample_kernel=[1, 2, 1])
    with pytest.raises(ModelFileError, match=r"resamples with the filter \[1, 2, 1\]"):
        read_public(write(tmp_path / "x.pkl", content))


def test_a_missing_discriminator_is_random_and_a_missing_generator_the_average(
    tmp_path: Path,
) -> None:
    file = io.BytesIO()
    content = torch.load(io.BytesIO(rosinality_file(STATES)), weights_only=False)
    torch.save({"g_ema": content["g_ema"]}, file)
    model, states = read(write(tmp_path / "x.pt", file.getvalue()))
    assert model.d is None
    assert torch.equal(states["G"]["start"], STATES["EMA"]["start"])
    assert set(states["D"]) >= {"head.weight", "from_image.weight"}


def test_r3gan_reads_back_to_the_bit(tmp_path: Path) -> None:
    config = tiny_r3gan()
    states = random_states(config)
    model = read_public(write(tmp_path / "x.pkl", r3gan_pickle(states)))
    found = configuration(model, small, relativistic_resnet)
    assert found.g == config.g
    assert found.d == config.d
    read_states = read_networks(model, found)
    for network, state in states.items():
        assert read_states[network].keys() == state.keys()
        for key, value in state.items():
            assert torch.equal(read_states[network][key], value), (network, key)


# --- what the weights compute, by the equations of the other programs in float64


def built(tmp_path: Path, content: bytes) -> StyleGAN2Generator:
    """The average of G in a file, as this program's network in float64."""
    path = write(tmp_path / "model", content)
    model, states = read(path)
    generator, _, _ = build_networks(configuration(model, small, small))
    generator.load_state_dict(states["EMA"])
    assert isinstance(generator, StyleGAN2Generator)
    return generator.double()


def doubled(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Zeros between the pixels of x [C, H, W], convolved with weight [O, C, 3, 3], then filtered.

    The filter is [1, 3, 3, 1] / 8 in each direction with a gain of 4 (Karras et al., CVPR 2020,
    appendix B). Both are convolutions in the mathematical sense. Returns [O, 2 H, 2 W].
    """
    spread = np.zeros((x.shape[0], 2 * x.shape[1] - 1, 2 * x.shape[2] - 1))
    spread[:, ::2, ::2] = x
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    images = []
    for kernels in weight:
        wide = sum(convolve2d(plane, k) for plane, k in zip(spread, kernels, strict=True))
        images.append(convolve2d(np.pad(wide, 1), 4 * taps, mode="valid"))
    return np.stack(images)


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, 0.2 * x, x) * np.sqrt(2)


def test_an_enlarging_layer_computes_what_the_tensorflow_code_does(tmp_path: Path) -> None:
    """From the variables in the file: style = w A / sqrt(w_dim) + b + 1, kernel / sqrt(fan-in)."""
    noise, _ = noise_and_centre(10)
    _, pairs = tensorflow_variables(STATES["EMA"], noise)
    found = {name: np.asarray(x, np.float64) for name, x in pairs}
    random = np.random.default_rng(0)
    x, w, added = (random.standard_normal(size) for size in ((8, 4, 4), (10,), (8, 8)))
    kernel = found["8x8/Conv0_up/weight"]  # [3, 3, in, out]
    style = w @ found["8x8/Conv0_up/mod_weight"] / np.sqrt(10)
    style = style + found["8x8/Conv0_up/mod_bias"] + 1
    kernel = kernel / np.sqrt(9 * 8) * style[:, None]
    kernel = kernel / np.sqrt((kernel**2).sum((0, 1, 2)) + 1e-8)
    # TensorFlow's transposed convolution takes the kernel turned by 180 degrees.
    turned = kernel[::-1, ::-1].transpose(3, 2, 0, 1)
    y = doubled(x, turned) + added * found["8x8/Conv0_up/noise_strength"]
    expected = leaky(y + found["8x8/Conv0_up/bias"][:, None, None])

    layer = built(tmp_path, tensorflow_pickle(STATES)).blocks[1].convs[0]  # type: ignore[index]
    assert isinstance(layer, StyledConv)
    got = layer(*map(torch.from_numpy, (x[None], w[None], added[None, None])), None, 1.0)
    # The only difference is the epsilon of 1e-8 in the norm, of order 1.
    np.testing.assert_allclose(got[0].detach().numpy(), expected, rtol=1e-6, atol=1e-6)


def test_an_image_layer_computes_what_the_pytorch_code_does(tmp_path: Path) -> None:
    """From the file's tensors: style = (A w / sqrt(w_dim) + b) / sqrt(in), no demodulation."""
    state = {name: value.double().numpy() for name, value in STATES["EMA"].items()}
    random = np.random.default_rng(1)
    x, w = random.standard_normal((8, 4, 4)), random.standard_normal(10)
    path = "blocks.0.to_image"
    style = state[f"{path}.conv.affine.weight"] @ w / np.sqrt(10)
    style = (style + state[f"{path}.conv.affine.bias"]) / np.sqrt(8)
    weight = state[f"{path}.conv.weight"][:, :, 0, 0] * style
    expected = np.einsum("oc,chw->ohw", weight, x) + state[f"{path}.bias"][:, None, None]
    layer = built(tmp_path, nvidia_pickle(STATES)).blocks[0].to_image  # type: ignore[index]
    assert isinstance(layer, ToImage)
    got = layer(torch.from_numpy(x)[None], torch.from_numpy(w)[None])
    np.testing.assert_allclose(got[0].detach().numpy(), expected, rtol=1e-12, atol=1e-12)


def test_the_bound_is_that_of_the_published_code() -> None:
    """clip(gain act(conv + b), -bound gain', bound gain'): the residual's gain counts, not lrelu's.

    Karras et al. (NeurIPS 2020), published code: the limit is scaled by the layer's own gain.
    """
    torch.manual_seed(0)
    layer = EqualConv2d(2, 3, 3, act="lrelu", gain=0.5).double()
    layer.bound = 0.7
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = layer.weight.detach().numpy() / np.sqrt(18)
    planes = [
        sum(correlate2d(p, k, mode="same") for p, k in zip(x[0].numpy(), kernels, strict=True))
        for kernels in weight
    ]
    expected = np.clip(leaky(np.stack(planes)) * 0.5, -0.35, 0.35)
    got = layer(x).detach()[0].numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert 0.2 < (np.abs(got) == 0.35).mean() < 0.9


# --- other files


def state_pickle(kind: str) -> bytes:
    """A pickle of NVIDIA's code with another network in it."""

    def change(content: dict[str, Any], writer: NvidiaWriter) -> Any:
        if kind == "diffusion":
            return {"ema": writer.module("EDMPrecond", modules={}), "loss_fn": None}
        if kind == "stylegan3":
            inner = {"input": writer.module("SynthesisInput")}
            content["G_ema"] = writer.module(
                "Generator", modules={"synthesis": writer.module("SynthesisNetwork", modules=inner)}
            )
        if kind == "conditional":
            embed = {"embed": writer.module("FullyConnectedLayer", parameters=weights)}
            content["G_ema"] = writer.module(
                "Generator", modules={"mapping": writer.module("MappingNetwork", modules=embed)}
            )
        return content

    weights = {"weight": torch.zeros(4, 10), "bias": torch.zeros(4)}
    return nvidia_pickle(STATES, change=change)


def stylegan1() -> bytes:
    """A pickle of TensorFlow's StyleGAN1: its styles are applied by variables named StyleMod."""
    content = tensorflow_pickle(STATES)
    return content.replace(b"4x4/Conv/mod_bias", b"4x4/C/StyleModbia")


def archive(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name in names:
            made.writestr(name, b"x")
    return file.getvalue()


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


OTHERS = {
    "an empty file": (lambda: b"", "it is empty"),
    "a web page": (lambda: b"\n<!DOCTYPE html><html>", "it is a web page"),
    "Git LFS": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
    "StyleGAN3": (lambda: state_pickle("stylegan3"), "it is StyleGAN3"),
    "StyleGAN1": (stylegan1, "it is StyleGAN1"),
    "conditional": (lambda: state_pickle("conditional"), "conditional on 10 classes"),
    "diffusion": (lambda: state_pickle("diffusion"), "EDMPrecond: a diffusion model"),
    "latent diffusion": (
        lambda: saved({"state_dict": {"model.diffusion_model.x": torch.zeros(1)}}),
        "it is a diffusion model",
    ),
    "another network": (lambda: saved({"conv.weight": torch.zeros(1)}), "holds conv.weight"),
    "a pickled module": (
        lambda: saved(torch.nn.ReLU()),
        "module of PyTorch that was pickled whole",
    ),
    "a pickle": (lambda: pickle.dumps([1, 2]), "it holds list"),
    "safetensors": (lambda: save({"x": torch.zeros(2)}), "it is a safetensors file"),
    "a zip of them": (lambda: archive("a/g.safetensors"), "a zip archive of safetensors"),
    "a zip": (lambda: archive("a.png", "b.png"), r"other files \(a.png, b.png\)"),
    "a text": (lambda: b"hello", "neither a pickle nor"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_named_and_refused(name: str, tmp_path: Path) -> None:
    make, what = OTHERS[name]
    path = write(tmp_path / "model.bin", make())
    with pytest.raises(ModelFileError, match=what) as caught:
        read(path)
    assert str(path) in str(caught.value) or name == "conditional"
    assert len(str(caught.value)) < 700


def test_what_is_not_understood_is_listed(tmp_path: Path) -> None:
    states = {**STATES, "EMA": {**STATES["EMA"], "start": torch.zeros(9, 4, 4)}}
    with pytest.raises(ModelFileError, match=r"has start of shape \(9, 4, 4\), not \(8, 4, 4\)"):
        read(write(tmp_path / "shape.pkl", nvidia_pickle(states)))

    def extra(content: dict[str, Any], writer: NvidiaWriter) -> Any:
        weights = {"weight": torch.zeros(1), "bias": torch.zeros(1)}
        content["G_ema"].state["_modules"]["attention"] = writer.module("A", parameters=weights)
        return content

    with pytest.raises(ModelFileError, match=r"does not have: attention.weight, attention.bias"):
        read(write(tmp_path / "extra.pkl", nvidia_pickle(STATES, change=extra)))
