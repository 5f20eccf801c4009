"""rosinality's StyleGAN2: `.pt` files of state dicts, with names of their own."""

from __future__ import annotations

import re
from typing import Any

from realness.trainer.inference.public.model import (
    WHAT_WORKS,
    PublicModel,
    Rule,
    Tensors,
    renamed,
)
from realness.trainer.inference.public.pickles import ModelFileError
from realness.trainer.inference.public.tensors import Lazy, TensorReader, sizes_and_names

PARTS = {
    "conv.weight": "conv.weight",
    "conv.modulation.weight": "conv.affine.weight",
    "conv.modulation.bias": "conv.affine.bias",
    "noise.weight": "noise_strength",
    "activate.bias": "bias",
    "bias": "bias",
}
_PARTS = "|".join(PARTS).replace(".", r"\.")

GENERATOR: list[Rule] = [
    # The first module of `style` normalises z, and has no weights.
    (r"style\.(\d+)\.(weight|bias)", lambda m: f"mapping.layers.{int(m[1]) - 1}.{m[2]}"),
    (r"input\.input", lambda m: "start"),
    (rf"conv1\.({_PARTS})", lambda m: f"blocks.0.convs.0.{PARTS[m[1]]}"),
    (rf"to_rgb1\.({_PARTS})", lambda m: f"blocks.0.to_image.{PARTS[m[1]]}"),
    (
        rf"convs\.(\d+)\.({_PARTS})",
        lambda m: f"blocks.{int(m[1]) // 2 + 1}.convs.{int(m[1]) % 2}.{PARTS[m[2]]}",
    ),
    (rf"to_rgbs\.(\d+)\.({_PARTS})", lambda m: f"blocks.{int(m[1]) + 1}.to_image.{PARTS[m[2]]}"),
    (r"noises\.noise_\d+|.*\.kernel", lambda m: ""),
]
DISCRIMINATOR: list[Rule] = [
    (r"convs\.0\.0\.weight", lambda m: "from_image.weight"),
    (r"convs\.0\.1\.bias", lambda m: "from_image.bias"),
    (r"convs\.(\d+)\.conv1\.0\.weight", lambda m: f"blocks.{int(m[1]) - 1}.conv_0.weight"),
    (r"convs\.(\d+)\.conv1\.1\.bias", lambda m: f"blocks.{int(m[1]) - 1}.conv_0.bias"),
    (r"convs\.(\d+)\.conv2\.1\.weight", lambda m: f"blocks.{int(m[1]) - 1}.conv_1.weight"),
    (r"convs\.(\d+)\.conv2\.2\.bias", lambda m: f"blocks.{int(m[1]) - 1}.conv_1.bias"),
    (r"convs\.(\d+)\.skip\.1\.weight", lambda m: f"blocks.{int(m[1]) - 1}.skip.weight"),
    (r"final_conv\.0\.weight", lambda m: "conv.weight"),
    (r"final_conv\.1\.bias", lambda m: "conv.bias"),
    (r"final_linear\.0\.(weight|bias)", lambda m: f"hidden.{m[1]}"),
    (r"final_linear\.1\.(weight|bias)", lambda m: f"head.{m[1]}"),
    (r".*\.kernel", lambda m: ""),
]


def is_rosinality(content: dict[str, Any]) -> bool:
    """Whether the content of a `.pt` file is this format."""
    return "style.1.weight" in sizes_and_names(content.get("g_ema"))


def read_rosinality(content: dict[str, Any], reader: TensorReader) -> PublicModel:
    """The model of a file {"g_ema": ..., "g": ..., "d": ..., "latent_avg": ...}.

    All but the first may be missing. The optimisers in it are not read. Raises ModelFileError for
    other networks.
    """
    average = _tensors(content["g_ema"], reader)
    g, d = (_tensors(content[name], reader) if name in content else None for name in ("g", "d"))
    numbers = sorted(
        (int(match[1]), name)
        for name in average
        if (match := re.fullmatch(r"noises\.noise_(\d+)", name))
    )
    return PublicModel(
        kind="StyleGAN2 of rosinality's PyTorch code",
        average=_generator(average),
        g=None if g is None else _generator(g),
        d=None if d is None else _discriminator(d),
        nvidia=False,
        centre=reader.find(content.get("latent_avg")),
        noise=[average[name] for _, name in numbers],
    )


def _tensors(state: Any, reader: TensorReader) -> Tensors:
    found: Tensors = {}
    for name, value in sizes_and_names(state).items():
        # Models that were trained in DistributedDataParallel have a prefix.
        tensor = reader.find(value)
        if tensor is None:
            raise ModelFileError(f"{name} is not a tensor. {WHAT_WORKS}")
        found[name.removeprefix("module.")] = tensor
    return found


def _generator(tensors: Tensors) -> Tensors:
    found = renamed(tensors, GENERATOR, "G")
    return {name: _without_batch(name, value) for name, value in found.items()}


def _discriminator(tensors: Tensors) -> Tensors:
    return renamed(tensors, DISCRIMINATOR, "D")


def _without_batch(name: str, value: Lazy) -> Lazy:
    """The constant, the convolutions and the images' biases have leading or trailing ones there."""
    if name == "start" or name.endswith(".conv.weight"):
        return value.changed(lambda x: x[0])
    if name.endswith("to_image.bias"):
        return value.changed(lambda x: x.flatten())
    return value
