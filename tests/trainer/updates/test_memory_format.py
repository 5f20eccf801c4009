"""The requested layout holds through every convolution of an update."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from realness.trainer.randomness import Stream
from realness.trainer.updates.sharded_gan import build_gan
from realness.trainer.updates.step import update_d, update_g
from tests.helpers.engine_runs import shown
from tests.helpers.ranks import run_on_ranks
from tests.helpers.systems import BATCH, systems

FORMATS = {"auto": torch.channels_last, "contiguous": torch.contiguous_format}


class Convolutions(TorchDispatchMode):
    """Counts convolutions, and lists images or gradients of images in another layout.

    The second derivative in the weights is a convolution of images with batch and channels
    swapped: such views count as having the layout of what they view.
    """

    def __init__(self, layout: torch.memory_format) -> None:
        super().__init__()
        self.layout = layout
        self.count = 0
        self.faults: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        images = {
            torch.ops.aten.convolution.default: 1,
            torch.ops.aten.convolution_backward.default: 2,
        }
        for x in args[: images.get(func, 0)]:
            self.count += 1
            if not (self.fits(x) or self.fits(x.transpose(0, 1))):
                self.faults.append(f"{func} of {tuple(x.shape)} with strides {x.stride()}")
        return func(*args, **(kwargs or {}))

    def fits(self, x: Tensor) -> bool:
        return x.is_contiguous(memory_format=self.layout)


def convolutions_of_two_updates(name: str, setting: str) -> tuple[int, list[str], bool]:
    """Number and faults of one update of each network, penalties included, and of sampling."""
    config = systems()[name]
    engine = replace(config.engine, memory_format=setting)
    gan = build_gan(replace(config, engine=engine), torch.device("cpu"))
    images = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)  # as decoders leave them
    with Convolutions(FORMATS[setting]) as convolutions:
        update_d(gan, gan.normalise(images[: config.num_real], Stream.D_REAL, 0), 0)
        update_g(gan, gan.normalise(images, Stream.G_REAL, 0), 0)
        shown(gan, 4)
    weights = [*gan.g.module.parameters(), *gan.d.module.parameters()]
    gan.close()
    return (
        convolutions.count,
        convolutions.faults,
        all(weight.is_contiguous() for weight in weights),
    )


@pytest.mark.slow
@pytest.mark.parametrize("setting", FORMATS)
@pytest.mark.parametrize(
    "name", ["realness-r1", "layer-norm-wgan-gp", "far", "p2gan-resnet", "stylegan2", "r3gan"]
)
def test_no_convolution_falls_back(name: str, setting: str) -> None:
    [(count, faults, stored_alike)] = run_on_ranks(1, convolutions_of_two_updates, name, setting)
    assert count > 20
    assert not faults, "\n".join(faults)
    assert stored_alike
