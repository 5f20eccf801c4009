"""Building the networks that a configuration chooses.

Initial weights come from torch's default random generator, so the caller seeds it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from realness.trainer.config import DiscriminatorConfig, GeneratorConfig


def build_generator(
    config: GeneratorConfig,
    resolution: int,
    code_dim: int = 0,
    *,
    growing: bool = False,
    num_classes: int = 0,
) -> nn.Module:
    """Build a generator: z [B, z_dim] -> images [B, 3, resolution, resolution] in [-1, 1].

    With the objective's `code_dim` > 0, it also takes a code: see `CodedGenerator`. Any further
    inputs are drawn by `training_inputs` and `sampling_inputs`. growing: build a `GrowingNetwork`
    with the layers of all smaller sides. num_classes: build a conditional network, if not 0.

    Raises:
        ValueError: for a resolution that the architecture does not support, or a code that it
            cannot use.
    """
    return config.build(resolution, code_dim, **_options(growing, num_classes))


def build_discriminator(
    config: DiscriminatorConfig,
    resolution: int,
    num_outputs: int,
    *,
    growing: bool = False,
    num_classes: int = 0,
) -> nn.Module:
    """Build a discriminator: images [B, 3, resolution, resolution] -> outputs [B, num_outputs].

    `num_outputs` is set by the objective. growing, num_classes: as for `build_generator`.

    Raises:
        ValueError: for a resolution that the architecture does not support.
    """
    return config.build(resolution, num_outputs, **_options(growing, num_classes))


def _options(growing: bool, num_classes: int) -> dict[str, Any]:
    # Networks of plugins that do not grow, or know no classes, have no such parameters.
    options: dict[str, Any] = {"growing": True} if growing else {}
    return options | ({"num_classes": num_classes} if num_classes else {})
