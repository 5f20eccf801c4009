"""NVIDIA's StyleGAN2 in PyTorch: the pickles of StyleGAN2-ADA and of StyleGAN3's repository.

Weights have the same meaning as here: N(0, 1) scaled at run time, so they are only renamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from realness.trainer.inference.public.model import (
    FILTER,
    WHAT_WORKS,
    PublicModel,
    Rule,
    Tensors,
    as_vector,
    doublings,
    renamed,
)
from realness.trainer.inference.public.modules import ModuleTree, class_of, read_tree
from realness.trainer.inference.public.pickles import ModelFileError
from realness.trainer.inference.public.tensors import TensorReader

LR_MULTIPLIER = 0.01
CENTRE = "mapping.w_avg"
LAYER_PARTS = {
    "weight": "conv.weight",
    "affine.weight": "conv.affine.weight",
    "affine.bias": "conv.affine.bias",
    "noise_strength": "noise_strength",
    "bias": "bias",
}
_PARTS = "|".join(LAYER_PARTS).replace(".", r"\.")

GENERATOR: list[Rule] = [
    (r"mapping\.fc(\d+)\.(weight|bias)", lambda m: f"mapping.layers.{m[1]}.{m[2]}"),
    (r"synthesis\.b4\.const", lambda m: "start"),
    (rf"synthesis\.b4\.conv1\.({_PARTS})", lambda m: f"blocks.0.convs.0.{LAYER_PARTS[m[1]]}"),
    (
        rf"synthesis\.b(\d+)\.conv([01])\.({_PARTS})",
        lambda m: f"blocks.{doublings(m[1])}.convs.{m[2]}.{LAYER_PARTS[m[3]]}",
    ),
    (
        rf"synthesis\.b(\d+)\.torgb\.({_PARTS})",
        lambda m: f"blocks.{doublings(m[1])}.to_image.{LAYER_PARTS[m[2]]}",
    ),
    (r"mapping\.w_avg|.*\.noise_const|.*\.?resample_filter", lambda m: ""),
]


def discriminator_rules(resolution: int) -> list[Rule]:
    """The names of D's tensors; its blocks count from the image here."""
    last = doublings(resolution)

    def block(side: str) -> int:
        return last - doublings(side)

    return [
        (rf"b{resolution}\.fromrgb\.(weight|bias)", lambda m: f"from_image.{m[1]}"),
        (r"b4\.conv\.(weight|bias)", lambda m: f"conv.{m[1]}"),
        (r"b4\.fc\.(weight|bias)", lambda m: f"hidden.{m[1]}"),
        (r"b4\.out\.(weight|bias)", lambda m: f"head.{m[1]}"),
        (
            r"b(\d+)\.conv([01])\.(weight|bias)",
            lambda m: f"blocks.{block(m[1])}.conv_{m[2]}.{m[3]}",
        ),
        (r"b(\d+)\.skip\.weight", lambda m: f"blocks.{block(m[1])}.skip.weight"),
        (r".*\.?resample_filter", lambda m: ""),
    ]


def read_nvidia(networks: Mapping[str, Any], reader: TensorReader) -> PublicModel:
    """The model of a pickle whose content is {"G": ..., "D": ..., "G_ema": ...}.

    Raises ModelFileError for other networks than StyleGAN2's, and for settings of it that this
    program's networks do not have.
    """
    trees = {
        name: read_tree(networks[name], reader)
        for name in ("G", "D", "G_ema")
        if class_of(networks.get(name))
    }
    if "G_ema" not in trees:
        raise ModelFileError(f"it holds no moving average of a generator. {WHAT_WORKS}")
    for tree in trees.values():
        _refuse_others(tree)
    average = trees["G_ema"]
    return PublicModel(
        kind="StyleGAN2 of NVIDIA's PyTorch code",
        average=generator_tensors(average.tensors),
        g=generator_tensors(trees["G"].tensors) if "G" in trees else None,
        d=discriminator_tensors(trees["D"].tensors) if "D" in trees else None,
        nvidia=True,
        centre=average.tensors.get(CENTRE),
        noise=noise_maps(average.tensors),
        clamps=(_clamp(average), _clamp(trees["D"]) if "D" in trees else 0.0),
        group=_group(trees["D"]) if "D" in trees else 4,
    )


def generator_tensors(tensors: Tensors) -> Tensors:
    """G's tensors under this program's names."""
    _refuse_classes(tensors)
    found = renamed(tensors, GENERATOR, "G")
    return {name: as_vector(value) for name, value in found.items()}


def discriminator_tensors(tensors: Tensors) -> Tensors:
    """D's tensors under this program's names."""
    _refuse_classes(tensors)
    sides = [name.partition(".")[0][1:] for name in tensors if name.endswith("fromrgb.weight")]
    if len(sides) != 1 or not sides[0].isdigit():
        raise ModelFileError(
            f"its D takes images at {len(sides)} sides, so it is not the residual one of "
            f"configuration F. {WHAT_WORKS}"
        )
    return renamed(tensors, discriminator_rules(int(sides[0])), "D")


def noise_maps(tensors: Tensors) -> list[Any]:
    """The fixed noise of all convolutions, from 4x4 up; empty if some have none."""
    names = [name for name in tensors if name.endswith(".noise_const")]
    names.sort(key=lambda name: (doublings(name.split(".")[1][1:]), name))
    convs = [name for name in tensors if name.endswith(".noise_strength")]
    return [tensors[name] for name in names] if len(names) == len(convs) else []


def _refuse_classes(tensors: Tensors) -> None:
    classes = next((value.shape for name, value in tensors.items() if "embed." in name), None)
    if classes is not None:
        raise ModelFileError(
            f"it is conditional on {classes[-1]} classes, and StyleGAN2 has no classes here; use "
            "an unconditional model"
        )


def _refuse_others(tree: ModuleTree) -> None:
    """Refuse other architectures by the names of their classes, and unusual settings."""
    kinds = set(tree.kinds.values())
    if "SynthesisInput" in kinds:
        raise ModelFileError(
            f"it is StyleGAN3 (-T or -R), which this program has no networks for. {WHAT_WORKS}"
        )
    if any("Precond" in kind or "UNet" in kind for kind in kinds):
        raise ModelFileError(f"it is a diffusion model, not a GAN. {WHAT_WORKS}")
    for path, settings in tree.settings.items():
        activation = settings.get("activation", "lrelu")
        if activation not in ("lrelu", "linear"):
            raise ModelFileError(f"its layer {path} has the activation {activation}, not lrelu")
        gain = settings.get("bias_gain")
        if path.startswith("mapping.fc") and gain not in (None, LR_MULTIPLIER):
            raise ModelFileError(
                f"its mapping network has the learning-rate multiplier {gain}; only "
                f"{LR_MULTIPLIER} can be read"
            )
    taps = torch.tensor(FILTER)
    expected = torch.outer(taps, taps) / taps.sum() ** 2
    for name, value in tree.tensors.items():
        if name.endswith("resample_filter") and (
            value.shape != (4, 4) or not torch.allclose(value.read(), expected, atol=1e-6)
        ):
            raise ModelFileError(f"{name} is not the filter {list(FILTER)}, the only one readable")


def _clamp(tree: ModuleTree) -> float:
    """The limit of the convolutions' outputs, 0 for none."""
    found = {
        settings["conv_clamp"] or 0.0
        for path, settings in tree.settings.items()
        if "conv_clamp" in settings and f"{path}.weight" in tree.tensors
    }
    if len(found) > 1:
        raise ModelFileError(f"its convolutions are limited to different values: {sorted(found)}")
    return float(next(iter(found), 0.0))


def _group(tree: ModuleTree) -> int:
    """Images per group of the minibatch deviation."""
    settings = next(
        (tree.settings[p] for p, k in tree.kinds.items() if k == "MinibatchStdLayer"), None
    )
    if settings is None:
        return 1
    if settings.get("num_channels", 1) != 1 or not settings.get("group_size"):
        raise ModelFileError(
            "its minibatch deviation has several channels, or groups of a whole batch; only one "
            "channel and groups of a fixed size can be read"
        )
    return int(settings["group_size"])
