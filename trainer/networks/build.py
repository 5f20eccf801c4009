"""Building the networks that a configuration chooses.

Initial weights come from torch's default random generator, so the caller seeds it.
"""

from __future__ import annotations

from torch import nn

from realness.trainer.config import DiscriminatorConfig, GeneratorConfig


def build_generator(
    config: GeneratorConfig, resolution: int, code_dim: int = 0, *, growing: bool = False
) -> nn.Module:
    """Build a generator: z [B, z_dim] -> images [B, 3, resolution, resolution] in [-1, 1].

    With the objective's `code_dim` > 0, it also takes a code: see `CodedGenerator`. Any further
    inputs are drawn by `training_inputs` and `sampling_inputs`. growing: build a `GrowingNetwork`
    with the layers of all smaller sides.

    Raises:
        ValueError: for a resolution that the architecture does not support, or a code that it
            cannot use.
    """
    return config.build(resolution, code_dim, **_growth(growing))


def build_discriminator(
    config: DiscriminatorConfig, resolution: int, num_outputs: int, *, growing: bool = False
) -> nn.Module:
    """Build a discriminator: images [B, 3, resolution, resolution] -> outputs [B, num_outputs].

    `num_outputs` is set by the objective. growing: as for `build_generator`.

    Raises:
        ValueError: for a resolution that the architecture does not support.
    """
    return config.build(resolution, num_outputs, **_growth(growing))


def _growth(growing: bool) -> dict[str, bool]:
    # Networks of plugins that do not grow have no such parameter.
    return {"growing": True} if growing else {}
