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
    """A convolution without bias whose output is ceil(size / stride), padded more at the end."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(c_in, c_out, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        sides: list[int] = []
        for size in (x.shape[-1], x.shape[-2]):
            total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
            sides += [total // 2, total - total // 2]
        return super().forward(F.pad(x, sides))


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
            self._bn0 = nn.BatchNorm2d(inner, eps=NORM_EPS)
        self._depthwise_conv = SameConv2d(inner, inner, kernel, stride, groups=inner)
        self._bn1 = nn.BatchNorm2d(inner, eps=NORM_EPS)
        self._project_conv = SameConv2d(inner, c_out, 1)
        self._bn2 = nn.BatchNorm2d(c_out, eps=NORM_EPS)
        self.has_shortcut = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.has_expansion:
            y = F.relu6(self._bn0(self._expand_conv(y)))
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.has_shortcut else y


class EfficientNetLite0(nn.Module):
    """Images [B, 3, H, W], normalised as (value - 127) / 128, to features or logits."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, STEM_CHANNELS, 3, stride=2)
        self._bn0 = nn.BatchNorm2d(STEM_CHANNELS, eps=NORM_EPS)
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
        self._bn1 = nn.BatchNorm2d(NUM_FEATURES, eps=NORM_EPS)
        self._fc = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def features(self, images: Tensor) -> Tensor:
        """The input of the classifier, [B, 1280]: means over positions of the last activations."""
        x = F.relu6(self._bn0(self._conv_stem(images)))
        x = self._blocks(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of ImageNet's classes, [B, 1000]."""
        return self._fc(self.features(images))


def load_efficientnet_lite0(weights: dict[str, torch.Tensor]) -> EfficientNetLite0:
    """The network with `weights`, in evaluation mode and without gradients."""
    network = EfficientNetLite0()
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)
