"""Finding out what a file is, and reading it if it is a StyleGAN2 or an R3GAN."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from realness.trainer.inference.public.model import WHAT_WORKS, PublicModel
from realness.trainer.inference.public.modules import class_of
from realness.trainer.inference.public.names import PERSISTENT, R3GAN, TENSORFLOW, is_allowed
from realness.trainer.inference.public.nvidia import read_nvidia
from realness.trainer.inference.public.pickles import (
    DAMAGE,
    ModelFileError,
    RefusedName,
    origin_of,
    read_pickle,
)
from realness.trainer.inference.public.r3gan import read_r3gan
from realness.trainer.inference.public.rosinality import is_rosinality, read_rosinality
from realness.trainer.inference.public.tensorflow import read_tensorflow
from realness.trainer.inference.public.tensors import TensorReader, sizes_and_names
from realness.trainer.inference.public.torch_files import is_stream, read_archive, read_stream

HEAD_BYTES = 512
PICKLE, ZIP = b"\x80", b"PK\x03\x04"
STARTS = {
    b"\x89HDF": "an HDF5 file (of Keras, for example)",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"version https://git-lfs": "a pointer of Git LFS, not the file: fetch it with `git lfs pull`",
    b"\x89PNG": "a picture",
    b"\xff\xd8": "a picture",
    b"7z\xbc\xaf": "an archive of 7-Zip; unpack it first",
    b"Rar!": "an archive of RAR; unpack it first",
}
"""What files that begin with these bytes are."""

KNOWN_NAMES = {
    "R3GAN.": "a model of another version of R3GAN",
    "training.networks.": "a model whose networks are stored by their classes, but not R3GAN's",
    "pytorch_lightning.": "a checkpoint of PyTorch Lightning, such as those of diffusion models",
    "lightning": "a checkpoint of PyTorch Lightning, such as those of diffusion models",
    "ldm.": "a latent diffusion model",
    "diffusers.": "a diffusion model",
    "transformers.": "a model of transformers",
    "tensorflow.": "a pickle of TensorFlow objects",
    "torch.nn.": "a module of PyTorch that was pickled whole",
}
"""What files that import names that begin like these are."""


def read_public(path: Path) -> PublicModel:
    """The networks of a public model's file; see `WHAT_WORKS`. Nothing in it is executed.

    Raises:
        ModelFileError: for anything else, saying what it is, and what can be read.
    """
    try:
        return _read(path)
    except RefusedName as error:
        known = (text for start, text in KNOWN_NAMES.items() if error.name.startswith(start))
        what = next(known, "not a model of a kind that can be read")
        raise ModelFileError(f"{path} is {what}: {error}. {WHAT_WORKS}") from error
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}") from error
    except DAMAGE as error:
        raise ModelFileError(f"{path} is damaged ({type(error).__name__}: {error})") from error


def _read(path: Path) -> PublicModel:
    if path.is_dir():
        raise ModelFileError(f"it is a folder, not a model file or an export. {WHAT_WORKS}")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        _refuse_by_start(head)
    if head.startswith(ZIP):
        _refuse_by_entries(path)
        content: Any = read_archive(path)
    else:
        data = memoryview(path.read_bytes())
        content = read_stream(data) if is_stream(data) else read_pickle(data, 0, is_allowed)[0]
    return _model(content, TensorReader(path.stat().st_size))


def _model(content: Any, reader: TensorReader) -> PublicModel:
    """The model in a file's content."""
    if isinstance(content, tuple) and any(origin_of(item) == TENSORFLOW for item in content):
        return read_tensorflow(content, reader)
    entries = sizes_and_names(content)
    if is_rosinality(entries):
        return read_rosinality(entries, reader)
    if any(origin_of(item) == PERSISTENT for item in entries.values()):
        if "G_ema" not in entries:
            kinds = ", ".join(filter(None, map(class_of, entries.values())))
            raise ModelFileError(
                f"it holds {kinds}: a diffusion model or another kind of network, not a GAN. "
                f"{WHAT_WORKS}"
            )
        return read_nvidia(entries, reader)
    if any(origin_of(item) in R3GAN for item in entries.values()):
        return read_r3gan(entries, reader)
    names = [str(name) for name in sizes_and_names(entries.get("state_dict", entries))]
    if any("diffusion_model" in name or "time_embed" in name for name in names):
        raise ModelFileError(f"it is a diffusion model, not a GAN. {WHAT_WORKS}")
    shown = ", ".join(names[:4]) or type(content).__name__
    raise ModelFileError(f"it holds {shown}, which is no model that can be read. {WHAT_WORKS}")


def _refuse_by_start(head: bytes) -> None:
    """Refuse what can be told from a file's first bytes."""
    if not head:
        raise ModelFileError("it is empty; download it again")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise ModelFileError(
            "it is a web page, not a model: the download needs a log-in or a confirmation. Open "
            "the address in a browser, and save the file itself"
        )
    for start, what in STARTS.items():
        if head.startswith(start):
            raise ModelFileError(f"it is {what}. {WHAT_WORKS}")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 27:
        raise ModelFileError(
            "it is a safetensors file, which does not say how its networks are built. Give the "
            f"folder of an export, which has a config.json too. {WHAT_WORKS}"
        )
    if not head.startswith((PICKLE, ZIP)):
        raise ModelFileError(f"it is neither a pickle nor a file of PyTorch. {WHAT_WORKS}")


def _refuse_by_entries(path: Path) -> None:
    """Refuse zip archives that torch.save did not write."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ModelFileError(
            f"it is a zip archive that is damaged, or cut short ({error}); download it again"
        ) from error
    if any(name.endswith("data.pkl") for name in names):
        return
    if any(name.endswith(".safetensors") for name in names):
        raise ModelFileError(
            "it is a zip archive of safetensors files. If they are an export of this program, "
            f"unpack it, and give the folder. {WHAT_WORKS}"
        )
    raise ModelFileError(
        f"it is a zip archive of other files ({', '.join(names[:3])}). {WHAT_WORKS}"
    )
