"""Files of latents: round trips, files of other programs, and files that are refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from realness.trainer.config import ConfigError
from realness.trainer.inference.adjusting import truncated
from realness.trainer.inference.latents import (
    GeneratorOfLatents,
    Latents,
    read_latents,
    with_latents,
    write_latents,
)
from realness.trainer.inference.trained import (
    TrainedGenerator,
    build_empty_generator,
    trained_generator,
)
from tests.helpers.systems import systems

INDEX = torch.arange(2)


def generator_of(name: str) -> TrainedGenerator:
    config = systems()[name]
    torch.manual_seed(0)
    return trained_generator(config, build_empty_generator(config, "cpu"), 0, "")


@pytest.fixture(scope="module")
def styled() -> TrainedGenerator:
    return generator_of("stylegan2")


def styles_of(generator: TrainedGenerator) -> torch.Tensor:
    """The styles [2, num_styles, w_dim] of the samples 0 and 1."""
    module: Any = generator.module
    return module.styles(generator.latents(INDEX, 0))


def same(first: Latents, second: Latents) -> bool:
    one, other = first.arrays(), second.arrays()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["realness", "p2gan", "p2gan-stylegan2", "conditional-stylegan2"])
def test_samples_are_the_same_from_a_file(name: str, tmp_path: Path) -> None:
    """z, noise, codes and classes of drawn samples, written and read, give the same images."""
    generator = generator_of(name)
    z, inputs = generator.latents(INDEX, 0), generator.inputs(INDEX, 0)
    write_latents(tmp_path / "l.npz", Latents(z=z, **inputs))
    read = read_latents(tmp_path / "l.npz", generator)
    assert same(read, Latents(z=z, **inputs))
    given = with_latents(generator, read)
    assert torch.equal(given.sample(INDEX, 5), generator.sample(INDEX, 0))
    if generator.classes is not None:
        assert torch.equal(given.class_numbers(INDEX, 5), generator.class_numbers(INDEX, 0))


@pytest.mark.parametrize("psi", [1.0, 0.4])
def test_styles_are_rendered_as_their_latents_are(styled: TrainedGenerator, psi: float) -> None:
    generator = truncated(styled, psi)
    noise = generator.inputs(INDEX, 0)["noise"]
    for w in (styles_of(generator), styles_of(generator)[:, 0]):
        given = with_latents(generator, Latents(w=w, noise=noise))
        assert torch.equal(given.sample(INDEX, 5), generator.sample(INDEX, 0))


def test_a_projection_of_another_program_is_read(styled: TrainedGenerator, tmp_path: Path) -> None:
    """One w for every layer, [1, num_styles, w_dim], in float64 and in columns."""
    w = styles_of(styled)[:1]
    np.savez_compressed(tmp_path / "p.npz", w=np.asfortranarray(w.numpy().astype(np.float64)))
    assert same(read_latents(tmp_path / "p.npz", styled), Latents(w=w))


def test_a_changed_byte_changes_nothing_unnoticed(styled: TrainedGenerator, tmp_path: Path) -> None:
    path, latents = tmp_path / "l.npz", Latents(w=styles_of(styled))
    write_latents(path, latents)
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 13):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        try:
            assert same(read_latents(path, styled), latents), place
        except ConfigError:
            refused += 1
        path.write_bytes(whole[:place])
        with pytest.raises(ConfigError, match="not a valid"):
            read_latents(path, styled)
    assert refused > len(whole) // 13 // 2


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def declared(shape: tuple[int, ...]) -> bytes:
    """A file whose array w says that it has `shape`, with 8 bytes of data."""
    header, file = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"shape": shape, "fortran_order": False, "descr": "<f4"}
    )
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("w.npy", header.getvalue() + bytes(8))
    return file.getvalue()


W = np.zeros((1, 16), np.float32)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a valid .npz file"),
        (b"<html>not found</html>", "not a valid .npz file"),
        (npz(), "must have either z or w, but has neither"),
        (npz(w=W, z=W), "but has both"),
        (npz(w=np.array([{}], object)), "w.npy holds object, not floats"),
        (npz(w=W.astype(int)), "w.npy holds int64, not floats"),
        (npz(w=W[:0]), "nothing, or over 4 GiB"),
        (declared((2**40, 16)), "nothing, or over 4 GiB"),
        (declared((10, 16)), "w.npy holds 8 bytes, not 640"),
        (npz(w=W + np.inf), "w has values that are not finite"),
        (npz(w=W.astype(np.float64) + 1e300), "w has values that are not finite"),
        (npz(w=W[:, :12]), r"w has the shape \[1, 12\], but this run's generator takes \[1, 16\]"),
        (npz(w=W[:, None]), r"takes \[1, 16\] or \[1, 8, 16\]"),
        (npz(w=W, noise=W), r"noise has the shape \[1, 16\]"),
        (npz(w=W, code=W), "has code, which this run's generator, stylegan2, does not take"),
    ],
)
def test_what_does_not_fit_is_refused(
    styled: TrainedGenerator, tmp_path: Path, data: bytes, message: str
) -> None:
    path = tmp_path / "l.npz"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        read_latents(path, styled)


def test_other_generators_and_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "l.npz").write_bytes(npz(w=W))
    with pytest.raises(ConfigError, match="has w, which this run's generator, dcgan, does not"):
        read_latents(tmp_path / "l.npz", generator_of("realness"))
    with pytest.raises(ConfigError, match="is not a file; give"):
        read_latents(tmp_path, generator_of("realness"))


def test_a_row_is_chosen_by_its_number(styled: TrainedGenerator) -> None:
    """And what is not given is drawn by the same number."""
    given: GeneratorOfLatents = with_latents(styled, Latents(w=styles_of(styled)))
    assert torch.equal(given.latents(INDEX.flip(0), 0), given.latents(INDEX, 0).flip(0))
    assert torch.equal(given.inputs(INDEX, 3)["noise"], styled.inputs(INDEX, 3)["noise"])
