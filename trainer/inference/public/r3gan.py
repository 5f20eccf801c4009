"""R3GAN's pickles: networks whose modules are stored by the names of their classes.

Weights have the same meaning as here (Huang et al., "The GAN is dead; long live the GAN!", NeurIPS
2024), so they are only renamed. A stage is a list of layers: G's begin with the one that enlarges,
D's end with the one that shrinks, and the lowest has a basis in its place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from realness.trainer.config import TrainConfig
from realness.trainer.inference.public.model import (
    FILTER,
    WHAT_WORKS,
    PublicModel,
    Rule,
    Sizes,
    Tensors,
    renamed,
)
from realness.trainer.inference.public.modules import ModuleTree, read_tree
from realness.trainer.inference.public.pickles import ModelFileError
from realness.trainer.inference.public.tensors import TensorReader
from realness.trainer.networks.r3gan_configs import (
    R3GANDiscriminatorConfig,
    R3GANGeneratorConfig,
)

BLOCK = {
    "LinearLayer1.Layer.weight": "widen.weight",
    "LinearLayer2.Layer.weight": "grouped",
    "LinearLayer3.Layer.weight": "narrow.weight",
    "NonLinearity1.Bias": "bias_0",
    "NonLinearity2.Bias": "bias_1",
}
_BLOCK = "|".join(BLOCK).replace(".", r"\.")
_LAYER = r"MainLayers\.(\d+)\.Layers\.(\d+)"

COMMON: list[Rule] = [(r".*\.Resampler\.Kernel", lambda m: "")]
GENERATOR: list[Rule] = [
    (r"MainLayers\.0\.Layers\.0\.Basis", lambda m: "basis"),
    (r"MainLayers\.0\.Layers\.0\.LinearLayer\.weight", lambda m: "start"),
    (
        rf"MainLayers\.0\.Layers\.(\d+)\.({_BLOCK})",
        lambda m: f"stages.0.{int(m[1]) - 1}.{BLOCK[m[2]]}",
    ),
    (rf"{_LAYER}\.({_BLOCK})", lambda m: f"stages.{m[1]}.{m[2]}.{BLOCK[m[3]]}"),
    (rf"{_LAYER}\.LinearLayer\.Layer\.weight", lambda m: f"stages.{m[1]}.{m[2]}.conv.weight"),
    (r"AggregationLayer\.Layer\.weight", lambda m: "to_image.weight"),
    *COMMON,
]
DISCRIMINATOR: list[Rule] = [
    (r"ExtractionLayer\.Layer\.weight", lambda m: "from_image.weight"),
    (rf"{_LAYER}\.({_BLOCK})", lambda m: f"stages.{m[1]}.{m[2]}.{BLOCK[m[3]]}"),
    (rf"{_LAYER}\.LinearLayer\.Layer\.weight", lambda m: f"stages.{m[1]}.{m[2]}.conv.weight"),
    (rf"{_LAYER}\.Basis\.weight", lambda m: "depthwise"),
    (rf"{_LAYER}\.LinearLayer\.weight", lambda m: "head"),
    *COMMON,
]


def read_r3gan(networks: Mapping[str, Any], reader: TensorReader) -> PublicModel:
    """The model of a pickle whose content is {"G": ..., "D": ..., "G_ema": ...}.

    The optimisers in it are not read. Raises ModelFileError for a conditional model, and for other
    networks.
    """
    found = {}
    for name, rules in (("G", GENERATOR), ("G_ema", GENERATOR), ("D", DISCRIMINATOR)):
        tree = read_tree(networks.get(name), reader)
        _check_filters(tree)
        tensors = {key.removeprefix("Model."): value for key, value in tree.tensors.items()}
        if classes := tensors.get("EmbeddingLayer.weight"):
            raise ModelFileError(
                f"it is conditional on {classes.shape[-1]} classes, and converted models have no "
                "classes here; use an unconditional model"
            )
        found[name] = renamed(tensors, rules, name[:1])
    depthwise = found["D"].get("depthwise")
    if depthwise is not None and len(depthwise.shape) == 4:
        found["D"]["depthwise"] = depthwise.changed(lambda x: x[:, 0])
    return PublicModel(
        kind="R3GAN",
        average=found["G_ema"],
        g=found["G"],
        d=found["D"],
        nvidia=False,
        family="r3gan",
    )


def r3gan_configuration(model: PublicModel, config: TrainConfig) -> TrainConfig:
    """`config` with the sizes of the model's networks.

    Raises ModelFileError for sizes that this program's R3GAN cannot have.
    """
    g, d = _sizes(model.average, "G"), _sizes(model.d or {}, "D")
    widths, blocks, expansion, in_group = g
    d_widths, d_blocks, d_expansion, d_in_group = d
    start = model.average.get("start")
    if start is None or len(start.shape) != 2:
        raise ModelFileError(f"its G has no first layer. {WHAT_WORKS}")
    if not {blocks, d_blocks} <= {1, 2}:
        raise ModelFileError(f"its stages have {blocks} and {d_blocks} blocks; 1 or 2 can be read")
    return replace(
        config,
        data=replace(config.data, resolution=widths.resolution),
        g=R3GANGeneratorConfig(
            z_dim=start.shape[1],
            g_max_channels=widths.most,
            g_channel_base=widths.base,
            g_blocks=blocks,  # type: ignore[arg-type]
            g_expansion=expansion,
            g_group_channels=in_group,
        ),
        d=R3GANDiscriminatorConfig(
            d_max_channels=d_widths.most,
            d_channel_base=d_widths.base,
            d_blocks=d_blocks,  # type: ignore[arg-type]
            d_expansion=d_expansion,
            d_group_channels=d_in_group,
        ),
    )


def r3gan_resolution(model: PublicModel) -> int:
    """Side of the images in pixels."""
    return _sizes(model.average, "G")[0].resolution


def _sizes(tensors: Tensors, network: str) -> tuple[Sizes, int, int, int]:
    """Widths by side, blocks per stage, expansion, and channels per group."""
    shapes: dict[int, list[tuple[int, ...]]] = {}
    groups = set()
    for name, value in tensors.items():
        if match := re.fullmatch(r"stages\.(\d+)\.\d+\.(widen\.weight|grouped)", name):
            if len(value.shape) != 4 or not value.shape[1]:
                raise ModelFileError(f"its {network} has {name} of shape {value.shape}")
            if match[2] == "grouped":
                groups.add(value.shape[1])
            else:
                shapes.setdefault(int(match[1]), []).append(value.shape)
    stages = [shapes.get(number, []) for number in range(len(shapes))]
    blocks = {len(stage) for stage in stages}
    expansions = {shape[0] // shape[1] for stage in stages for shape in stage}
    if {len(blocks), len(expansions), len(groups)} != {1} or 0 in blocks or len(stages) > 16:
        raise ModelFileError(
            f"its {network} has stages of {sorted(blocks)} blocks, wider by {sorted(expansions)}, "
            f"in groups of {sorted(groups)} channels; all stages must be alike"
        )
    widths = [stage[0][1] for stage in stages]
    channels = tuple(widths if network == "G" else reversed(widths))
    return Sizes(channels), blocks.pop(), expansions.pop(), groups.pop()


def _check_filters(tree: ModuleTree) -> None:
    taps = torch.tensor(FILTER)
    expected = torch.outer(taps, taps) / taps.sum() ** 2
    for name, value in tree.tensors.items():
        if name.endswith("Kernel") and (
            value.shape != (4, 4) or not torch.allclose(value.read(), expected, atol=1e-6)
        ):
            raise ModelFileError(f"{name} is not the filter {list(FILTER)}, the only one readable")
