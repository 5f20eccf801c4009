"""Exporting networks as graphs that run without this package: ONNX, and torch.export's `.pt2`.

The graphs are fp32, take batches of any size, and use the plain PyTorch reference of every fused
operation. Each file is read back and compared with the network it was made from.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from realness.trainer.config import ConfigError
from realness.trainer.inference.pixels import to_unit
from realness.trainer.inference.trained import TrainedDiscriminator, TrainedGenerator
from realness.trainer.objectives.base import Objective

FORMATS = ("onnx", "pt2")
ONNX_OPSET = 18
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
MAX_DIFFERENCE = 1e-3
"""Largest accepted difference between the outputs of a graph and of its network, as a fraction of
the network's largest absolute output: an eighth of a grey level for images."""

MAX_PROTOBUF_BYTES = 2**31 - 2**20
"""ONNX files are limited to 2 GiB; the weights of larger networks are stored in a second file."""
TRACED_BATCH = 2
CHECKED_BATCHES = (1, 5)
CHECK_SEED = 20


class ExportError(RuntimeError):
    """A graph does not compute the same as its network, and must not be used."""


@dataclass(frozen=True)
class Graph:
    """A module to be exported.

    examples: returns inputs for a batch of a given size, in the order of `inputs`; about: texts for
    the file's header.
    """

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    examples: Callable[[int], tuple[Tensor, ...]]
    about: dict[str, str]


def check_formats(text: str) -> tuple[str, ...]:
    """Parse a list of formats such as `onnx,pt2`, which may be empty.

    Raises:
        ConfigError: for an unknown format, or ONNX without the packages it needs.
    """
    wanted = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    unknown = [name for name in wanted if name not in FORMATS]
    if unknown:
        raise ConfigError(f"--formats={text}: unknown {unknown}; choose from {','.join(FORMATS)}")
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if "onnx" in wanted and missing:
        raise ConfigError(
            f"--formats={text}: ONNX needs {', '.join(missing)}, which the extra `export` "
            'installs: pip install -e ".[export]"; or leave it out: --formats pt2'
        )
    return wanted


def generator_graph(generator: TrainedGenerator) -> Graph:
    """The graph from z [B, z_dim] to images [B, 3, R, R] in [-1, 1].

    Further inputs are noise [B, noise_dim] for StyleGAN2 and the light networks, code
    [B, code_dim] for P2GAN, and classes [B, num_classes] for conditional runs, 1 at the image's.
    """

    def examples(batch: int) -> tuple[Tensor, ...]:
        index = torch.arange(batch)
        others = generator.inputs(index, CHECK_SEED)
        return generator.latents(index, CHECK_SEED), *others.values()

    about = {"images_seen": str(generator.images_seen), "data_digest": generator.data_digest}
    inputs = ("z", *input_names(generator))
    if generator.code_factors is not None:
        for name, values in zip(("code_mean", "code_std"), generator.code_factors, strict=True):
            about[name] = " ".join(f"{value:.9g}" for value in values.tolist())
    return Graph("generator", generator.module, inputs, ("images",), examples, about)


def input_names(generator: TrainedGenerator) -> list[str]:
    """How exported graphs name the generator's inputs besides z."""
    names = list(generator.inputs(torch.arange(1, device=generator.device), CHECK_SEED))
    return ["classes" if name == "code" and generator.classes else name for name in names]


def discriminator_graph(discriminator: TrainedDiscriminator, like: TrainedGenerator) -> Graph:
    """The graph from images [B, 3, R, R] in [-1, 1] to D's output [B, num_outputs] and score [B].

    That of a conditional run has the further input classes [B, num_classes].
    `like` is the generator of the same checkpoint; the graph is checked on its images.
    """
    size = like.config.data.resolution

    def examples(batch: int) -> tuple[Tensor, ...]:
        noise = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))
        made = to_unit(like.sample(torch.arange(batch), CHECK_SEED))
        condition = like.condition(torch.arange(batch), CHECK_SEED)
        images = torch.lerp(made, noise * 2 - 1, 0.25)
        return (images,) if condition is None else (images, condition)

    module = _Judge(discriminator.module, discriminator.objective).eval()
    about = {"images_seen": str(like.images_seen), "data_digest": like.data_digest}
    inputs = ("images", "classes") if like.classes else ("images",)
    return Graph("discriminator", module, inputs, ("output", "score"), examples, about)


class _Judge(nn.Module):
    """D together with the score that its objective computes from its output."""

    def __init__(self, module: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.module, self.objective = module, objective

    def forward(self, images: Tensor, *condition: Tensor) -> tuple[Tensor, Tensor]:
        output = self.module(images, *condition).float()
        return output, self.objective.score(output)


def write_graph(graph: Graph, out: Path, formats: Sequence[str]) -> dict[str, float]:
    """Write `graph` into the folder `out` in each format and check the file.

    Returns the largest difference found, by file name, in the unit of MAX_DIFFERENCE.

    Raises:
        ExportError: if a file's outputs differ by more than MAX_DIFFERENCE.
    """
    program = _trace(graph)
    found: dict[str, float] = {}
    for name in formats:
        path = out / f"{graph.name}.{name}"
        run = _write_onnx(program, graph, path) if name == "onnx" else _write_pt2(program, path)
        found[path.name] = _difference(graph, run)
        if not found[path.name] <= MAX_DIFFERENCE:
            raise ExportError(
                f"{path.name} differs from the network by {found[path.name]:.2g} of its largest "
                f"output, more than {MAX_DIFFERENCE:g}; do not use it"
            )
    return found


def _trace(graph: Graph) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(
        graph.module,
        graph.examples(TRACED_BATCH),
        dynamic_shapes=_shapes(graph, batch),
        strict=False,
    )


def _shapes(graph: Graph, batch: Any) -> list[Any]:
    """The dynamic dimension of every input; those of *condition, if any, are in a tuple."""
    named, *others = [{0: batch} for _ in graph.inputs]
    if isinstance(graph.module, _Judge) and others:
        return [named, tuple(others)]
    return [named, *others]


Run = Callable[[tuple[Tensor, ...]], Sequence[np.ndarray]]
"""Computes outputs from inputs with the file that was written to disk."""


def _write_onnx(program: torch.export.ExportedProgram, graph: Graph, path: Path) -> Run:
    import onnxruntime

    weights = sum(value.numel() * value.element_size() for value in program.state_dict.values())
    with warnings.catch_warnings():
        # torch itself uses functions that it has deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        made = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=ONNX_OPSET,
            input_names=graph.inputs,
            output_names=graph.outputs,
            verbose=False,
        )
    assert made is not None
    made.model.metadata_props.update(graph.about)
    for value in (*made.model.graph.inputs, *made.model.graph.outputs):
        _name_batch(value)
    made.save(path, external_data=weights > MAX_PROTOBUF_BYTES)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(inputs: tuple[Tensor, ...]) -> Sequence[np.ndarray]:
        feeds = {name: value.numpy() for name, value in zip(graph.inputs, inputs, strict=True)}
        return [np.asarray(value) for value in session.run(list(graph.outputs), feeds)]

    return run


def _name_batch(value: Any) -> None:
    """Name the first dimension of an input or output `batch`; the exporter only numbers it."""
    dims = list(value.shape)
    value.shape = type(value.shape)(["batch", *dims[1:]])


def _write_pt2(program: torch.export.ExportedProgram, path: Path) -> Run:
    torch.export.save(program, path)
    module = torch.export.load(path).module()

    def run(inputs: tuple[Tensor, ...]) -> Sequence[np.ndarray]:
        return [value.numpy() for value in _as_tuple(module(*inputs))]

    return run


@torch.no_grad()
def _difference(graph: Graph, run: Run) -> float:
    """The largest difference over outputs and batches, relative to the largest output."""
    worst = 0.0
    for batch in CHECKED_BATCHES:
        inputs = graph.examples(batch)
        for value, other in zip(_as_tuple(graph.module(*inputs)), run(inputs), strict=True):
            expected = value.numpy()
            if expected.shape != other.shape:
                return float("inf")
            scale = max(float(np.abs(expected).max()), np.finfo(np.float32).tiny)
            worst = max(worst, float(np.abs(expected - other).max()) / scale)
    return worst


def _as_tuple(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)
