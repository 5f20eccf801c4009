"""Files in the layouts of public models, written from one of this program's StyleGAN2.

The names of modules that are not installed are written by stand-ins in `sys.modules`. Tensors and
arrays are written by torch and numpy themselves. The layouts are those of the published programs;
weights are in their parametrisation.
"""

from __future__ import annotations

import argparse
import io
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from realness.launch.stylegan2_presets import small
from realness.trainer.config import TrainConfig, with_fields
from realness.trainer.updates.build import build_networks

SIDES = (4, 8, 16, 32)
State = Mapping[str, Tensor]
SOURCE_TEXT = "raise SystemExit('the source text of a file must never run')"


def tiny_stylegan2(**fields: Any) -> TrainConfig:
    """A StyleGAN2 at 32 pixels, of some ten thousand weights; G and D differ in their widths."""
    sizes = {
        "z_dim": 12, "w_dim": 10, "mapping_layers": 3, "g_channel_base": 96, "g_max_channels": 8,
        "d_channel_base": 128, "d_max_channels": 7,
    }  # fmt: skip
    return with_fields(small(32), **{**sizes, **fields})


def random_states(config: TrainConfig) -> dict[str, dict[str, Tensor]]:
    """States of "G", "EMA" and "D" in which all tensors are random.

    Biases of styles are multiples of 2^-10, so that subtracting 1 and adding it changes nothing.
    """
    random = torch.Generator().manual_seed(1)
    generator, discriminator, _ = build_networks(config)

    def state(module: nn.Module) -> dict[str, Tensor]:
        return {
            name: _rounded(name, torch.randn(value.shape, generator=random))
            for name, value in module.state_dict().items()
            if name != "path_length_mean"
        }

    return {"G": state(generator), "EMA": state(generator), "D": state(discriminator)}


def _rounded(name: str, x: Tensor) -> Tensor:
    return (x * 1024).round() / 1024 if name.endswith("affine.bias") else x


def noise_and_centre(w_dim: int) -> tuple[dict[tuple[int, int], Tensor], Tensor]:
    """Fixed noise by (side, 0 or 1 for the convolution), and the centre of W."""
    random = torch.Generator().manual_seed(2)
    places = [(side, number) for side in SIDES for number in (0, 1) if (side, number) != (4, 0)]
    noise = {place: torch.randn(place[0], place[0], generator=random) for place in places}
    return noise, torch.randn(w_dim, generator=random)


# --- stand-ins for modules that are not installed


@contextmanager
def stand_ins(*names: str) -> Iterator[dict[str, Any]]:
    """Classes by dotted name that pickle writes under that name."""
    made: dict[str, Any] = {}
    before = dict(sys.modules)
    for dotted in names:
        module, _, name = dotted.rpartition(".")
        for depth in range(1, module.count(".") + 2):
            part = ".".join(module.split(".")[:depth])
            sys.modules.setdefault(part, types.ModuleType(part))
        made[dotted] = type(name, (), {"__module__": module})
        setattr(sys.modules[module], name, made[dotted])
    try:
        yield made
    finally:
        for name in set(sys.modules) - set(before):
            del sys.modules[name]


class _Persistent:
    """Written as NVIDIA's persistence does: a call with the class's source text and state."""

    def __init__(self, rebuild: Any, name: str, state: dict[str, Any]) -> None:
        self._rebuild, self._name, self.state = rebuild, name, state

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        meta = {"type": "class", "version": 6, "module_src": SOURCE_TEXT, "class_name": self._name}
        return self._rebuild, ({**meta, "state": self.state},)


# --- NVIDIA's PyTorch code


def module_state(
    parameters: Mapping[str, Tensor] = {},
    buffers: Mapping[str, Tensor] = {},
    modules: Mapping[str, Any] = {},
    **settings: Any,
) -> dict[str, Any]:
    """The attributes of an nn.Module."""
    return {
        "training": False,
        "_parameters": OrderedDict((key, nn.Parameter(x)) for key, x in parameters.items()),
        "_buffers": OrderedDict(buffers),
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(),
        "_modules": OrderedDict(modules),
        **settings,
    }


class NvidiaWriter:
    """Writes {"G", "D", "G_ema"} as StyleGAN2-ADA's PyTorch code does."""

    def __init__(self, rebuild: Any, clamp: float | None = 256.0) -> None:
        self._rebuild, self._clamp = rebuild, clamp
        self._filter = torch.outer(*2 * (torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8,))

    def module(self, name: str, **parts: Any) -> _Persistent:
        """A module of the class `name`; see `module_state`."""
        return _Persistent(self._rebuild, name, module_state(**parts))

    def _linear(self, weight: Tensor, bias: Tensor, act: str, multiplier: float = 1.0) -> Any:
        return self.module(
            "FullyConnectedLayer",
            parameters={"weight": weight, "bias": bias},
            activation=act,
            weight_gain=np.float64(multiplier / np.sqrt(weight.shape[1])),
            bias_gain=multiplier,
        )

    def _styled(self, state: State, path: str, noise: Tensor | None) -> Any:
        """A modulated convolution; one to an image has neither noise nor its strength."""
        conv = f"{path}.conv"
        affine = state[f"{conv}.affine.weight"], state[f"{conv}.affine.bias"]
        parameters = {"weight": state[f"{conv}.weight"], "bias": state[f"{path}.bias"]}
        buffers = {}
        if noise is not None:
            parameters["noise_strength"] = state[f"{path}.noise_strength"].reshape(())
            buffers = {"resample_filter": self._filter, "noise_const": noise}
        return self.module(
            "ToRGBLayer" if noise is None else "SynthesisLayer",
            parameters=parameters,
            buffers=buffers,
            modules={"affine": self._linear(*affine, "linear")},
            conv_clamp=self._clamp,
        )

    def generator(self, state: State, noise: Mapping[Any, Tensor], centre: Tensor) -> Any:
        layers = sum(name.startswith("mapping") for name in state) // 2
        mapping = {
            f"fc{i}": self._linear(
                state[f"mapping.layers.{i}.weight"],
                state[f"mapping.layers.{i}.bias"],
                "lrelu",
                0.01,
            )
            for i in range(layers)
        }
        blocks = {}
        for k, side in enumerate(SIDES):
            inner = {"torgb": self._styled(state, f"blocks.{k}.to_image", None)}
            for i in (0, 1) if k else (1,):
                path = f"blocks.{k}.convs.{i if k else 0}"
                inner[f"conv{i}"] = self._styled(state, path, noise[side, i])
            blocks[f"b{side}"] = self.module(
                "SynthesisBlock",
                parameters={} if k else {"const": state["start"]},
                buffers={"resample_filter": self._filter},
                modules=inner,
                architecture="skip",
                conv_clamp=self._clamp,
            )
        return self.module(
            "Generator",
            modules={
                "synthesis": self.module("SynthesisNetwork", modules=blocks),
                "mapping": self.module(
                    "MappingNetwork", buffers={"w_avg": centre}, modules=mapping
                ),
            },
        )

    def _conv(self, state: State, path: str) -> Any:
        parameters = {"weight": state[f"{path}.weight"], "bias": state.get(f"{path}.bias")}
        given = {key: value for key, value in parameters.items() if value is not None}
        layer = module_state(given, {"resample_filter": self._filter}, conv_clamp=self._clamp)
        if len(given) == 1:
            layer["_parameters"]["bias"] = None
        return _Persistent(self._rebuild, "Conv2dLayer", layer)

    def discriminator(self, state: State, group: int, *, deviation: bool = True) -> Any:
        blocks = {}
        for j, side in enumerate(SIDES[:0:-1]):
            inner = {"conv0": "conv_0", "conv1": "conv_1", "skip": "skip"}
            modules = {a: self._conv(state, f"blocks.{j}.{b}") for a, b in inner.items()}
            if not j:
                modules["fromrgb"] = self._conv(state, "from_image")
            blocks[f"b{side}"] = self.module("DiscriminatorBlock", modules=modules)
        last = {
            "mbstd": self.module("MinibatchStdLayer", group_size=group, num_channels=1),
            "conv": self._conv(state, "conv"),
            "fc": self._linear(state["hidden.weight"], state["hidden.bias"], "lrelu"),
            "out": self._linear(state["head.weight"], state["head.bias"], "linear"),
        }
        if not deviation:
            del last["mbstd"]
        blocks["b4"] = self.module("DiscriminatorEpilogue", modules=last)
        return self.module("Discriminator", modules=blocks)


REBUILD = "torch_utils.persistence._reconstruct_persistent_obj"


def nvidia_pickle(
    states: Mapping[str, State],
    group: int = 4,
    change: Callable[[dict[str, Any], NvidiaWriter], Any] = lambda content, _: content,
    clamp: float | None = 256.0,
) -> bytes:
    """A pickle of StyleGAN2-ADA's PyTorch code; `change` may replace its content."""
    noise, centre = noise_and_centre(len(states["EMA"]["mapping.layers.0.bias"]))
    with stand_ins(REBUILD, "dnnlib.util.EasyDict") as made:
        rebuild = made[REBUILD]
        writer = NvidiaWriter(rebuild, clamp)
        settings = type("EasyDict", (dict,), {"__module__": "dnnlib.util"})
        sys.modules["dnnlib.util"].EasyDict = settings  # type: ignore[attr-defined]
        content = {
            "G": writer.generator(states["G"], noise, centre + 1),
            "D": writer.discriminator(states["D"], group),
            "G_ema": writer.generator(states["EMA"], noise, centre),
            "augment_pipe": None,
            "training_set_kwargs": settings(path="images.zip", xflip=True),
        }
        return pickle.dumps(change(content, writer), protocol=4)


# --- NVIDIA's TensorFlow code

NETWORK = "dnnlib.tflib.network.Network"


def _array(x: Tensor) -> np.ndarray:
    return x.numpy().astype(np.float32)


def tensorflow_variables(state: State, noise: Mapping[Any, Tensor]) -> tuple[list[Any], list[Any]]:
    """The variables of the mapping and of the synthesis network."""
    layers = sum(name.startswith("mapping") for name in state) // 2
    mapping = [
        (f"Dense{i}/{part}", _array(state[f"mapping.layers.{i}.{part}"]).T)
        for i in range(layers)
        for part in ("weight", "bias")
    ]
    synthesis: list[Any] = [("4x4/Const/const", _array(state["start"])[None])]
    for k, side in enumerate(SIDES):
        names = {"ToRGB": f"blocks.{k}.to_image"}
        for i, name in enumerate(("Conv0_up", "Conv1") if k else ("Conv",)):
            names[name] = f"blocks.{k}.convs.{i}"
        for name, path in names.items():
            weight = _array(state[f"{path}.conv.weight"]).transpose(2, 3, 1, 0)
            turned = weight[::-1, ::-1] if name == "Conv0_up" else weight
            parts = {
                "weight": np.ascontiguousarray(turned),
                "bias": _array(state[f"{path}.bias"]),
                "mod_weight": _array(state[f"{path}.conv.affine.weight"]).T,
                "mod_bias": _array(state[f"{path}.conv.affine.bias"]) - np.float32(1),
            }
            if name != "ToRGB":
                # A session returns a variable without dimensions as a number of numpy.
                parts["noise_strength"] = _array(state[f"{path}.noise_strength"])[0]
            synthesis += [(f"{side}x{side}/{name}/{part}", x) for part, x in parts.items()]
    for (side, i), x in noise.items():
        number = 2 * int(np.log2(side)) - 5 + i
        synthesis.append((f"noise{number}", _array(x)[None, None]))
    return mapping, synthesis


def tensorflow_pickle(states: Mapping[str, State], **settings: Any) -> bytes:
    """A pickle of StyleGAN2's TensorFlow code, with these settings: (G, D, Gs)."""
    noise, centre = noise_and_centre(len(states["EMA"]["mapping.layers.0.bias"]))
    with stand_ins(NETWORK) as made:

        def network(name: str, variables: list[Any], **components: Any) -> Any:
            result = made[NETWORK]()
            vars(result).update(
                version=4, name=name, static_kwargs=settings, components=components,
                build_module_src=SOURCE_TEXT, build_func_name=name, variables=variables,
            )  # fmt: skip
            return result

        def generator(state: State, w_avg: Tensor) -> Any:
            mapping, synthesis = tensorflow_variables(state, noise)
            top = [("lod", np.float32(0)), ("dlatent_avg", _array(w_avg))]
            return network(
                "G",
                top,
                synthesis=network("G_synthesis", synthesis),
                mapping=network("G_mapping", mapping),
            )

        state = states["D"]
        variables: list[Any] = [("lod", np.float32(0))]
        places = {"4x4/Conv": "conv", "4x4/Dense0": "hidden", "Output": "head"}
        places["32x32/FromRGB"] = "from_image"
        for j, side in enumerate(SIDES[:0:-1]):
            inner = {"Conv0": "conv_0", "Conv1_down": "conv_1", "Skip": "skip"}
            places |= {f"{side}x{side}/{a}": f"blocks.{j}.{b}" for a, b in inner.items()}
        for name, path in places.items():
            weight = _array(state[f"{path}.weight"])
            axes = (2, 3, 1, 0) if weight.ndim == 4 else (1, 0)
            variables.append((f"{name}/weight", np.ascontiguousarray(weight.transpose(axes))))
            if f"{path}.bias" in state:
                variables.append((f"{name}/bias", _array(state[f"{path}.bias"])))
        content = (
            generator(states["G"], centre + 1),
            network("D", variables),
            generator(states["EMA"], centre),
        )
        return pickle.dumps(content, protocol=4)


# --- rosinality's code


def _rosinality_generator(state: State, noise: Mapping[Any, Tensor]) -> dict[str, Tensor]:
    found = {"input.input": state["start"][None]}
    for name in (name for name in state if name.startswith("mapping")):
        _, _, i, part = name.split(".")
        found[f"style.{int(i) + 1}.{part}"] = state[name]

    def styled(name: str, path: str, image: bool) -> None:
        conv = f"{path}.conv"
        found[f"{name}.conv.weight"] = state[f"{conv}.weight"][None]
        for part in ("weight", "bias"):
            found[f"{name}.conv.modulation.{part}"] = state[f"{conv}.affine.{part}"]
        if image:
            found[f"{name}.bias"] = state[f"{path}.bias"][None, :, None, None]
        else:
            found[f"{name}.noise.weight"] = state[f"{path}.noise_strength"]
            found[f"{name}.activate.bias"] = state[f"{path}.bias"]

    styled("conv1", "blocks.0.convs.0", image=False)
    styled("to_rgb1", "blocks.0.to_image", image=True)
    for k in range(1, len(SIDES)):
        styled(f"convs.{2 * k - 2}", f"blocks.{k}.convs.0", image=False)
        styled(f"convs.{2 * k - 1}", f"blocks.{k}.convs.1", image=False)
        styled(f"to_rgbs.{k - 1}", f"blocks.{k}.to_image", image=True)
        found[f"convs.{2 * k - 2}.conv.blur.kernel"] = torch.ones(4, 4)
    for number, x in enumerate(noise.values()):
        found[f"noises.noise_{number}"] = x[None, None]
    return found


def _rosinality_discriminator(state: State) -> dict[str, Tensor]:
    places = {"convs.0": "from_image", "final_conv": "conv"}
    found = {}
    for j in range(len(SIDES) - 1):
        places[f"convs.{j + 1}.conv1"] = f"blocks.{j}.conv_0"
        found[f"convs.{j + 1}.conv2.0.kernel"] = torch.ones(4, 4)
        found[f"convs.{j + 1}.conv2.1.weight"] = state[f"blocks.{j}.conv_1.weight"]
        found[f"convs.{j + 1}.conv2.2.bias"] = state[f"blocks.{j}.conv_1.bias"]
        found[f"convs.{j + 1}.skip.1.weight"] = state[f"blocks.{j}.skip.weight"]
    for name, path in places.items():
        found[f"{name}.0.weight"] = state[f"{path}.weight"]
        found[f"{name}.1.bias"] = state[f"{path}.bias"]
    for number, path in enumerate(("hidden", "head")):
        for part in ("weight", "bias"):
            found[f"final_linear.{number}.{part}"] = state[f"{path}.{part}"]
    return found


def rosinality_file(states: Mapping[str, State], *, archive: bool = True) -> bytes:
    """A `.pt` file of a training run: a zip archive, or the older form."""
    noise, centre = noise_and_centre(len(states["EMA"]["mapping.layers.0.bias"]))
    content = {
        "g": _rosinality_generator(states["G"], noise),
        "d": _rosinality_discriminator(states["D"]),
        "g_ema": OrderedDict(_rosinality_generator(states["EMA"], noise)),
        "latent_avg": centre,
        "g_optim": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": []},
        "args": argparse.Namespace(size=32, latent=12, n_mlp=3),
        "ada_aug_p": 0.1,
    }
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=archive)
    return file.getvalue()


# --- R3GAN's code


def tiny_r3gan() -> TrainConfig:
    """An R3GAN at 32 pixels of some ten thousand weights."""
    sizes = {
        "generator": "r3gan", "discriminator": "r3gan", "z_dim": 6, "g_max_channels": 8,
        "d_max_channels": 8, "g_channel_base": 128, "d_channel_base": 128, "g_group_channels": 4,
        "d_group_channels": 4, "d_blocks": 1, "augment": "none", "path_length_weight": 0.0,
    }  # fmt: skip
    return with_fields(small(32), **sizes)


class R3GANWriter:
    """Writes networks as modules of R3GAN's classes, with real layers of torch in them."""

    def __init__(self, made: Mapping[str, Any]) -> None:
        self._made = made
        self._filter = torch.outer(*2 * (torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8,))

    def _module(self, name: str, **parts: Any) -> Any:
        module = self._made[f"{name}"]()
        vars(module).update(module_state(**parts))
        return module

    def _conv(self, weight: Tensor, groups: int = 1) -> nn.Conv2d:
        rows, columns, size, _ = weight.shape
        layer = nn.Conv2d(columns * groups, rows, size, groups=groups, bias=False)
        layer.weight = nn.Parameter(weight)
        return layer

    def _layer(self, weight: Tensor, groups: int = 1) -> Any:
        return self._module(
            "R3GAN.Networks.Convolution", modules={"Layer": self._conv(weight, groups)}
        )

    def _block(self, state: State, path: str) -> Any:
        grouped = state[f"{path}.grouped"]
        groups = len(grouped) // grouped.shape[1]
        activations = {
            f"NonLinearity{i + 1}": self._module(
                "R3GAN.FusedOperators.BiasedActivationCUDA",
                parameters={"Bias": state[f"{path}.bias_{i}"]},
            )
            for i in range(2)
        }
        layers = {
            "LinearLayer1": self._layer(state[f"{path}.widen.weight"]),
            "LinearLayer2": self._layer(grouped, groups),
            "LinearLayer3": self._layer(state[f"{path}.narrow.weight"]),
        }
        return self._module("R3GAN.Networks.ResidualBlock", modules={**layers, **activations})

    def _resample(self, state: State, path: str, way: str) -> Any:
        kernel = {"Kernel": self._filter}
        modules = {
            "Resampler": self._module(f"R3GAN.Resamplers.Interpolative{way}CUDA", buffers=kernel)
        }
        if f"{path}.conv.weight" in state:
            modules["LinearLayer"] = self._layer(state[f"{path}.conv.weight"])
        name = "UpsampleLayer" if way == "Upsampler" else "DownsampleLayer"
        return self._module(f"R3GAN.Networks.{name}", modules=modules)

    def _stages(self, kind: str, stages: list[list[Any]]) -> nn.ModuleList:
        made = nn.ModuleList()
        for number, layers in enumerate(stages):
            inner = nn.ModuleList()
            inner._modules.update({str(i): layer for i, layer in enumerate(layers)})
            name = f"R3GAN.Networks.{kind}Stage"
            stage = self._module(name, modules={"Layers": inner}, DataType=torch.bfloat16)
            made._modules[str(number)] = stage
        return made

    def _linear(self, weight: Tensor) -> nn.Linear:
        layer = nn.Linear(*weight.shape[::-1], bias=False)
        layer.weight = nn.Parameter(weight)
        return layer

    def _wrapped(self, kind: str, **modules: Any) -> Any:
        model = self._module(f"R3GAN.Networks.{kind}", modules=modules)
        return self._module(f"training.networks.{kind}", modules={"Model": model}, c_dim=0)

    def generator(self, state: State) -> Any:
        """G, whose stages count from 4x4."""
        basis = self._module(
            "R3GAN.Networks.GenerativeBasis",
            parameters={"Basis": state["basis"]},
            modules={"LinearLayer": self._linear(state["start"])},
        )
        stages = [[basis, *(self._block(state, f"stages.0.{i}") for i in range(2))]]
        for k in range(1, len(SIDES)):
            blocks = [self._block(state, f"stages.{k}.{i}") for i in (1, 2)]
            stages.append([self._resample(state, f"stages.{k}.0", "Upsampler"), *blocks])
        last = self._layer(state["to_image.weight"])
        return self._wrapped(
            "Generator", MainLayers=self._stages("Generator", stages), AggregationLayer=last
        )

    def discriminator(self, state: State) -> Any:
        """D, whose stages count from the image, with one block each."""
        basis = self._module(
            "R3GAN.Networks.DiscriminativeBasis",
            modules={
                "Basis": self._conv(state["depthwise"][:, None], len(state["depthwise"])),
                "LinearLayer": self._linear(state["head"]),
            },
        )
        stages = []
        for k in range(len(SIDES)):
            below = k < len(SIDES) - 1
            end = self._resample(state, f"stages.{k}.1", "Downsampler") if below else basis
            stages.append([self._block(state, f"stages.{k}.0"), end])
        first = self._layer(state["from_image.weight"])
        return self._wrapped(
            "Discriminator", ExtractionLayer=first, MainLayers=self._stages("Discriminator", stages)
        )


def r3gan_pickle(states: Mapping[str, State]) -> bytes:
    """A pickle of R3GAN's training loop, with the optimisers' state."""
    networks = ("Generator", "Discriminator")
    inside = ("ResidualBlock", "Convolution", "GenerativeBasis", "DiscriminativeBasis")
    names = [f"training.networks.{name}" for name in networks]
    names += [f"R3GAN.Networks.{name}{kind}" for name in networks for kind in ("", "Stage")]
    names += [f"R3GAN.Networks.{name}" for name in (*inside, "UpsampleLayer", "DownsampleLayer")]
    names += ["R3GAN.FusedOperators.BiasedActivationCUDA"]
    names += [f"R3GAN.Resamplers.Interpolative{way}samplerCUDA" for way in ("Up", "Down")]
    with stand_ins(*names) as made:
        writer = R3GANWriter(made)
        content = {
            "G": writer.generator(states["G"]),
            "D": writer.discriminator(states["D"]),
            "G_ema": writer.generator(states["EMA"]),
            "D_opt_state": {"state": {0: {"step": torch.zeros(())}}, "param_groups": [{"lr": 1.0}]},
            "training_set_kwargs": {"path": "x"},
            "cur_nimg": 5,
        }
        return pickle.dumps(content)


def write(path: Path, content: bytes) -> Path:
    """Write a file; returns its path."""
    path.write_bytes(content)
    return path
