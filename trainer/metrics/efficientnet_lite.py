"""EfficientNet-lite0, a feature network whose weights come with a Python package.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019,
table 1, in the authors' "lite" variant (2020): no squeeze-and-excitation, ReLU6 instead of swish,
stem and head of fixed width. Trained on ImageNet at 224 pixels. Padding is TensorFlow's "same".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INPUT_SIZE = 224
NUM_FEATURES = 1280
NUM_CLASSES = 1000
STEM_CHANNELS = 32
NORM_EPS = 1e-3
# Expansion, kernel, stride of the first block, channels, blocks.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class SameConv2d(nn.Conv2d):
    """A convolution of an image turned by 180 degrees whose output has side ceil(size / stride).

    TensorFlow pads the end of an upright image more than its start; turned, it is the start, which
    is what a convolution with stride 2 does by itself. The bias, and the scale in the weights, are
    those of the batch normalisation that follows.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups)


def relu6_(x: Tensor) -> Tensor:
    return F.hardtanh_(x, 0.0, 6.0)


class InvertedBottleneck(nn.Module):
    """Expansion, depthwise convolution and projection, plus the input if the shapes match.

    Submodules have the names under which the weights are stored.
    """

    def __init__(self, c_in: int, c_out: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = c_in * expansion
        self.has_expansion = expansion > 1
        if self.has_expansion:
            self._expand_conv = SameConv2d(c_in, inner, 1)
        self._depthwise_conv = SameConv2d(inner, inner, kernel, stride, groups=inner)
        self._project_conv = SameConv2d(inner, c_out, 1)
        self.has_shortcut = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.has_expansion:
            y = relu6_(self._expand_conv(y))
        y = self._project_conv(relu6_(self._depthwise_conv(y)))
        return y.add_(x) if self.has_shortcut else y


class EfficientNetLite0(nn.Module):
    """Images [B, 3, H, W], normalised as (value - 127) / 128, to features or logits.

    Only for inference: there is no batch normalisation, and activations are overwritten. Inside,
    images and kernels are turned by 180 degrees, which the mean over positions undoes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, STEM_CHANNELS, 3, stride=2)
        blocks, channels = [], STEM_CHANNELS
        for expansion, kernel, stride, width, repeats in STAGES:
            for number in range(repeats):
                first = number == 0
                blocks.append(
                    InvertedBottleneck(channels, width, expansion, kernel, stride if first else 1)
                )
                channels = width
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = SameConv2d(channels, NUM_FEATURES, 1)
        self._fc = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def stages(self, images: Tensor) -> list[Tensor]:
        """The last output of each side, from a half to a 32nd of the images': five maps.

        They are turned by 180 degrees, and differentiable with respect to the images.
        """
        x = images.flip(2, 3).contiguous(memory_format=torch.channels_last)
        x, maps, ends = relu6_(self._conv_stem(x)), [], _ends_of_sides()
        for number, block in enumerate(self._blocks, start=1):
            x = block(x)
            if number in ends:
                maps.append(x)
        return maps

    def features(self, images: Tensor) -> Tensor:
        """The input of the classifier, [B, 1280]: means over positions of the last activations."""
        x = images.flip(2, 3).contiguous(memory_format=torch.channels_last)
        x = self._blocks(relu6_(self._conv_stem(x)))
        return relu6_(self._conv_head(x)).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of ImageNet's classes, [B, 1000]."""
        return self._fc(self.features(images))


def _ends_of_sides() -> set[int]:
    """Numbers of blocks up to the end of each stage that the next one halves, and of the last."""
    ends, number = set(), 0
    for stage, (*_, repeats) in enumerate(STAGES, start=1):
        number += repeats
        if stage == len(STAGES) or STAGES[stage][2] == 2:
            ends.add(number)
    return ends


NORMS = {
    "_conv_stem": "_bn0",
    "_conv_head": "_bn1",
    "_expand_conv": "_bn0",
    "_depthwise_conv": "_bn1",
    "_project_conv": "_bn2",
}
"""The batch normalisation after each convolution, as the stored weights are named."""


def without_norms(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the network without batch normalisation, computed in float64, and turned.

    With gamma, beta, mean mu and variance v, gamma (W x - mu) / sqrt(v + eps) + beta is a
    convolution with W gamma / sqrt(v + eps) and the bias beta - mu gamma / sqrt(v + eps).
    """
    found = {}
    for name, weight in weights.items():
        module, _, kind = name.rpartition(".")
        parent, _, own = module.rpartition(".")
        if own in NORMS:
            norm = f"{parent}.{NORMS[own]}" if parent else NORMS[own]
            gamma, beta, mean, variance = (
                weights[f"{norm}.{part}"].double()
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            scale = gamma / (variance + NORM_EPS).sqrt()
            found[name] = (weight.double() * scale[:, None, None, None]).to(weight.dtype).flip(2, 3)
            found[f"{module}.bias"] = (beta - mean * scale).to(weight.dtype)
        elif own not in NORMS.values():
            found[f"{module}.{kind}"] = weight
    return found


def load_efficientnet_lite0(weights: dict[str, torch.Tensor]) -> EfficientNetLite0:
    """The network with `weights`, which have batch normalisations; it takes no gradients."""
    network = EfficientNetLite0()
    network.load_state_dict(without_norms(weights))
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval().requires_grad_(False)
