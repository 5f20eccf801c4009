"""The conversion of pixels between grey levels and [-1, 1]."""

from __future__ import annotations

import torch

from realness.trainer.inference.pixels import to_uint8, to_unit


def test_every_level_survives_both_conversions() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    unit = to_unit(levels)
    assert (unit[0], unit[-1]) == (-1, 1)
    # Even steps of 2/255; float32's eps is 1.2e-7, and each value is rounded twice.
    assert (unit.diff() - 2 / 255).abs().max() < 3e-7
    assert torch.equal(to_uint8(unit), levels)


def test_values_outside_the_range_are_clipped() -> None:
    assert to_uint8(torch.tensor([-1.5, -1.004, 1.004, 2.0])).tolist() == [0, 0, 255, 255]
