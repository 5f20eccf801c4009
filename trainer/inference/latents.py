"""Given latents: reading and writing them, and a generator that renders them instead of draws.

A file of latents is an `.npz` file with either `z` [N, z_dim] or `w` [N, w_dim] or
[N, num_styles, w_dim], and optionally `noise` [N, noise_dim] and `code` [N, code_dim], as floats.
The projector of StyleGAN2-ADA writes `w` in the same form.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realness import kernels
from realness.trainer.config import ConfigError
from realness.trainer.inference.trained import TrainedGenerator
from realness.trainer.networks.stylegan2_generator import StyleGAN2Generator
from realness.trainer.randomness import Stream
from realness.trainer.storage.files import atomic_writer

ARRAYS = ("z", "w", "noise", "code")
DAMAGE = (OSError, ValueError, EOFError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error)
"""What reading a damaged file raises."""
MOST_BYTES = 2**32
"""Larger arrays are refused before they are read: a small file can unpack to a huge array."""


@dataclass(frozen=True)
class Latents:
    """Latents of N images, float32: either z [N, z_dim], or styles w.

    w: [N, num_styles, w_dim], or [N, w_dim] if all layers have the same. noise: that of all
    convolutions, [N, noise_dim], or None for noise that is drawn. code: the condition of a
    conditional generator or P2GAN's code, [N, code_dim], or None for one that is drawn.
    """

    z: Tensor | None = None
    w: Tensor | None = None
    noise: Tensor | None = None
    code: Tensor | None = None

    @property
    def main(self) -> Tensor:
        """The one of z and w that is given."""
        given = self.w if self.z is None else self.z
        assert given is not None
        return given

    def __len__(self) -> int:
        return len(self.main)

    def arrays(self) -> dict[str, Tensor]:
        """What is given, by name."""
        named = {name: getattr(self, name) for name in ARRAYS}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class GeneratorOfLatents(TrainedGenerator):
    """A generator whose sample i has the latents, noise and code of row i of `given`.

    What is not given is drawn by number and seed, as for other samples. `latents` are then z, or
    styles w [B, num_styles, w_dim], which truncation moves as usual.
    """

    given: Latents

    @property
    def renders_styles(self) -> bool:
        """Whether `latents` are styles w, and not z."""
        return self.given.w is not None

    def latents(self, index: Tensor, seed: int, stream: Stream = Stream.EVALUATED) -> Tensor:
        rows = self.given.main[index.to(self.given.main.device)].to(self.device)
        if self.renders_styles and rows.dim() == 2:
            return rows[:, None].repeat(1, _styled(self).num_styles, 1)
        return rows

    def inputs(
        self, index: Tensor, seed: int, stream: Stream = Stream.EVALUATED
    ) -> dict[str, Tensor]:
        found = super().inputs(index, seed, stream)
        for name in ("noise", "code"):
            values = getattr(self.given, name)
            if values is not None:
                found[name] = values[index.to(values.device)].to(self.device)
        return found

    def class_numbers(self, index: Tensor, seed: int, stream: Stream = Stream.EVALUATED) -> Tensor:
        if self.given.code is None:
            return super().class_numbers(index, seed, stream)
        return self.given.code[index.to(self.given.code.device)].argmax(1).to(self.device)

    @torch.no_grad()
    def render(self, z: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        if not self.renders_styles:
            return super().render(z, inputs)
        return rendered(self, styles_of(self, z, inputs), inputs)


@torch.no_grad()
def styles_of(generator: TrainedGenerator, z: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """The truncated styles [B, num_styles, w_dim] of z [B, z_dim], or of styles, with `inputs`."""
    w, centre = z, generator.centre
    with kernels.implementation(generator.config.engine.impl):
        if z.dim() == 2:
            condition = inputs["code"] if generator.classes is not None else None
            w = _styled(generator).styles(z, condition=condition)
        if centre is None:
            return w
        if centre.dim() == 2:
            centre = (inputs["code"] @ centre)[:, None]
        return torch.lerp(centre, w, generator.truncation)


@torch.no_grad()
def rendered(generator: TrainedGenerator, w: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """Images float32 [B, 3, R, R] of styles w [B, num_styles, w_dim], which stay as they are."""
    with kernels.implementation(generator.config.engine.impl):
        return synthesized(generator, w, inputs)


def synthesized(generator: TrainedGenerator, w: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """Images of styles w [B, num_styles, w_dim] with a generator's other inputs; differentiable."""
    code = None if generator.config.classes.num_classes else inputs.get("code")
    return _styled(generator).synthesize(w, inputs["noise"], code)


def _styled(generator: TrainedGenerator) -> StyleGAN2Generator:
    return cast(StyleGAN2Generator, generator.module)


def with_latents(generator: TrainedGenerator, given: Latents) -> GeneratorOfLatents:
    """The generator that renders latents that fit it, as those of `read_latents` do."""
    own = {item.name: getattr(generator, item.name) for item in fields(TrainedGenerator)}
    return GeneratorOfLatents(**own, given=given)


def write_latents(path: Path, latents: Latents) -> None:
    """Write an .npz file, atomically. Raises OSError if the disk is full."""
    arrays: dict[str, Any] = {
        name: value.float().cpu().numpy() for name, value in latents.arrays().items()
    }
    with atomic_writer(path) as file:
        np.savez(file, **arrays)


def read_latents(path: Path, generator: TrainedGenerator) -> Latents:
    """The latents of a file, on the CPU. Nothing in the file is executed or unpickled.

    Raises:
        ConfigError: for a file that is missing or damaged, or that does not fit the generator.
    """
    arrays = {name: torch.from_numpy(array) for name, array in _read_arrays(path).items()}
    if ("z" in arrays) == ("w" in arrays):
        found = "both" if "z" in arrays else "neither"
        raise ConfigError(
            f"{path} must have either z or w, but has {found}; `realness invert` writes such files"
        )
    latents = Latents(**arrays)
    _check_fits(path, latents, generator)
    for name, values in arrays.items():
        if not values.isfinite().all():
            raise ConfigError(f"{path}: {name} has values that are not finite; it is damaged")
    return latents


def _read_arrays(path: Path) -> dict[str, NDArray[np.float32]]:
    """The known arrays in a file. Raises ConfigError for a file that cannot be read."""
    if not path.is_file():
        raise ConfigError(f"{path} is not a file; give an .npz file of latents")
    try:
        with zipfile.ZipFile(path) as archive:
            present = set(archive.namelist())
            return {
                name: _read_array(archive.getinfo(f"{name}.npy"), archive)
                for name in ARRAYS
                if f"{name}.npy" in present
            }
    except DAMAGE as error:
        raise ConfigError(f"{path} is not a valid .npz file of latents: {error}") from error


def _read_array(entry: zipfile.ZipInfo, archive: zipfile.ZipFile) -> NDArray[np.float32]:
    """One array as float32. Raises ValueError for what is not an array of floats, or too large."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{entry.filename} is compressed in an unknown way")
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(cast(io.BufferedReader, file))
        if version not in READ_HEADER:
            raise ValueError(f"{entry.filename} has the unknown version {version}")
        shape, in_columns, dtype = READ_HEADER[version](cast(io.BufferedReader, file))
        if dtype.kind != "f":
            raise ValueError(f"{entry.filename} holds {dtype}, not floats")
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 1 or size > MOST_BYTES:
            raise ValueError(f"{entry.filename} has the shape {shape}: nothing, or over 4 GiB")
        data = file.read(size + 1)
    if len(data) != size:
        raise ValueError(f"{entry.filename} holds {len(data):,} bytes, not {size:,}")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if in_columns else "C")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, np.float32).copy()


READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
"""By version of NumPy's format: functions that return shape, order and type."""


def _check_fits(path: Path, latents: Latents, generator: TrainedGenerator) -> None:
    """Raise ConfigError for latents of other shapes than the generator takes."""
    module, count = generator.module, len(latents)
    drawn = generator.inputs(torch.zeros(1, dtype=torch.int64), 0)
    taken = {"z": [[count, generator.config.g.z_dim]]}
    if isinstance(module, StyleGAN2Generator):
        taken["w"] = [[count, module.w_dim], [count, module.num_styles, module.w_dim]]
    taken |= {name: [[count, values.shape[1]]] for name, values in drawn.items()}
    for name, values in latents.arrays().items():
        if name not in taken:
            raise ConfigError(
                f"{path} has {name}, which this run's generator, {generator.config.g.name}, does "
                "not take; use the run that the latents were made with"
            )
        if list(values.shape) not in taken[name]:
            shapes = " or ".join(map(str, taken[name]))
            raise ConfigError(
                f"{path}: {name} has the shape {list(values.shape)}, but this run's generator "
                f"takes {shapes}; use the run that the latents were made with"
            )
