"""NVIDIA's StyleGAN2 in TensorFlow: a pickle of three networks (G, D, the average of G).

A network holds pairs of a variable's name and an array, and the networks inside it. Convolutions
are [height, width, in, out]; those that enlarge are turned by 180 degrees, because TensorFlow's
transposed convolution is a correlation with the other orientation. The style's bias lacks its 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from realness.trainer.inference.public.model import (
    WHAT_WORKS,
    PublicModel,
    Tensors,
    refuse_filter,
)
from realness.trainer.inference.public.names import TENSORFLOW
from realness.trainer.inference.public.nvidia import (
    CENTRE,
    discriminator_tensors,
    generator_tensors,
    noise_maps,
)
from realness.trainer.inference.public.pickles import ModelFileError, mapping_of, origin_of
from realness.trainer.inference.public.tensors import Lazy, TensorReader, number_of, sizes_and_names

MOST_DEPTH = 4
LAYERS = {"Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1", "ToRGB": "torgb"}
PARTS = {
    "weight": "weight",
    "bias": "bias",
    "noise_strength": "noise_strength",
    "mod_weight": "affine.weight",
    "mod_bias": "affine.bias",
}
D_LAYERS = {
    "FromRGB": "fromrgb", "Conv0": "conv0", "Conv1_down": "conv1", "Skip": "skip",
    "Conv": "conv", "Dense0": "fc",
}  # fmt: skip
BOOKKEEPING = re.compile(r"lod|.*/?(?:lod|pl_mean_var)")

Change = Callable[[Tensor], Tensor]


def read_tensorflow(networks: tuple[Any, ...], reader: TensorReader) -> PublicModel:
    """The model of a pickle whose content is (G, D, the average of G).

    Raises ModelFileError for other networks than StyleGAN2's.
    """
    if len(networks) != 3 or any(origin_of(network) != TENSORFLOW for network in networks):
        raise ModelFileError(f"it does not hold three networks. {WHAT_WORKS}")
    settings = [mapping_of(sizes_and_names(x.state).get("static_kwargs")) for x in networks]
    for each in settings:
        refuse_filter(each.get("resample_kernel"))
    g, d, average = (dict(_variables(network, reader, "", 0)) for network in networks)
    _refuse_others({**g, **average})
    average, g = _generator(average), _generator(g)
    return PublicModel(
        kind="StyleGAN2 of NVIDIA's TensorFlow code",
        average=generator_tensors(average),
        g=generator_tensors(g),
        d=discriminator_tensors(_discriminator(d)),
        nvidia=True,
        centre=average.get(CENTRE),
        noise=noise_maps(average),
        clamps=(_number(settings[2], "conv_clamp", 0), _number(settings[1], "conv_clamp", 0)),
        group=int(_number(settings[1], "mbstd_group_size", 4)) or 1,
    )


def _number(settings: Mapping[Any, Any], name: str, default: float) -> float:
    """A setting that is a number; the program's default if it was not given, 0 for None."""
    return (number_of(settings[name]) or 0.0) if name in settings else default


def _variables(
    network: Any, reader: TensorReader, prefix: str, depth: int
) -> Iterator[tuple[str, Lazy]]:
    """All variables of a network and of the networks inside it, by path."""
    state = sizes_and_names(network.state) if origin_of(network) == TENSORFLOW else {}
    variables, inner = state.get("variables"), sizes_and_names(state.get("components"))
    if not isinstance(variables, list) or depth > MOST_DEPTH or len(inner) > MOST_DEPTH:
        raise ModelFileError("a network in it lacks its variables, or is nested too deep")
    for pair in variables:
        if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            raise ModelFileError("a network in it has a variable without a name: it is damaged")
        found = reader.find(pair[1])
        if found is not None:
            yield prefix + pair[0], found
    for name, component in inner.items():
        yield from _variables(component, reader, f"{prefix}{name}/", depth + 1)


def _refuse_others(variables: Tensors) -> None:
    if any("StyleMod" in name or "ToRGB_lod" in name for name in variables):
        older = "StyleGAN1" if any("StyleMod" in name for name in variables) else "a growing GAN"
        raise ModelFileError(
            f"it is {older} of TensorFlow, whose networks differ from StyleGAN2's. {WHAT_WORKS}"
        )
    if any("LabelConcat" in name for name in variables):
        raise ModelFileError(
            "it is conditional on classes, and StyleGAN2 has no classes here; use an unconditional "
            "model"
        )


def _generator(variables: Tensors) -> Tensors:
    """G's variables under the names of the PyTorch code."""
    found: Tensors = {}
    for name, value in variables.items():
        new, change = _generator_name(name)
        if new:
            found[new] = value.changed(change) if change else value
    return found


def _generator_name(name: str) -> tuple[str, Change | None]:
    if name == "dlatent_avg":
        return CENTRE, None
    if BOOKKEEPING.fullmatch(name):
        return "", None
    if match := re.fullmatch(r"mapping/Dense(\d+)/(weight|bias)", name):
        return f"mapping.fc{match[1]}.{match[2]}", _transposed if match[2] == "weight" else None
    if name == "synthesis/4x4/Const/const":
        return "synthesis.b4.const", lambda x: x[0]
    if match := re.fullmatch(r"synthesis/noise(\d+)", name):
        number = int(match[1])  # 0 at 4x4, then two per side
        layer = f"synthesis.b{4 << (number + 1) // 2}.conv{(number + 1) % 2}"
        return f"{layer}.noise_const", lambda x: x[0, 0]
    match = re.fullmatch(r"synthesis/(\d+)x\1/(\w+)/(\w+)", name)
    if match is None or match[2] not in LAYERS or match[3] not in PARTS:
        return name, None
    new = f"synthesis.b{match[1]}.{LAYERS[match[2]]}.{PARTS[match[3]]}"
    changes: dict[str, Change] = {
        "weight": _turned if match[2] == "Conv0_up" else _outputs_first,
        "mod_weight": _transposed,
        "mod_bias": lambda x: x + 1,
    }
    return new, changes.get(match[3])


def _discriminator(variables: Tensors) -> Tensors:
    """D's variables under the names of the PyTorch code."""
    found: Tensors = {}
    for name, value in variables.items():
        match = re.fullmatch(r"(\d+)x\1/(\w+)/(weight|bias)", name)
        if BOOKKEEPING.fullmatch(name):
            continue
        new = name
        if output := re.fullmatch(r"Output/(weight|bias)", name):
            new = f"b4.out.{output[1]}"
        elif match and match[2] in D_LAYERS:
            new = f"b{match[1]}.{D_LAYERS[match[2]]}.{match[3]}"
        if new.endswith("weight"):
            value = value.changed(_outputs_first if len(value.shape) == 4 else _transposed)
        found[new] = value
    return found


def _transposed(x: Tensor) -> Tensor:
    return x.t()


def _outputs_first(x: Tensor) -> Tensor:
    return x.permute(3, 2, 0, 1)


def _turned(x: Tensor) -> Tensor:
    return _outputs_first(x.flip(0, 1))
