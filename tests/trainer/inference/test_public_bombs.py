"""Hostile and damaged public models: nothing in a file runs, and nothing exhausts memory."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import resource
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._utils import _rebuild_tensor_v2

from realness.launch.stylegan2_presets import small
from realness.trainer.inference.public import ModelFileError, configuration, read_networks
from realness.trainer.inference.public.recognise import read_public
from tests.helpers.public_files import (
    NvidiaWriter,
    nvidia_pickle,
    r3gan_pickle,
    random_states,
    rosinality_file,
    tensorflow_pickle,
    tiny_r3gan,
    tiny_stylegan2,
    write,
)

STATES = random_states(tiny_stylegan2())
TRACE = "the-bomb-went-off"


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (TRACE,)


def read(path: Path) -> None:
    model = read_public(path)
    read_networks(model, configuration(model, small, small))


def refused(path: Path, content: bytes, match: str | None = None) -> None:
    """Check that a file is refused, and nothing in it executed."""
    with pytest.raises(ModelFileError, match=match):
        read(write(path, content))
    assert not Path(TRACE).exists()


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def in_module(place: str) -> bytes:
    """A bomb in the attributes of a module, in place of a parameter, or beside the networks."""

    def change(content: dict[str, Any], _: NvidiaWriter) -> Any:
        if place == "beside":
            return {**content, "augment_pipe": Bomb()}
        content["G_ema"].state["_init_args" if place == "setting" else "_parameters"] = {
            "x": Bomb()
        }
        return content

    return nvidia_pickle(STATES, change=change)


def in_storage() -> bytes:
    """A bomb inside the bytes of a storage, which torch.load would unpickle."""
    file = io.BytesIO()
    torch.save(Bomb(), file, _use_new_zipfile_serialization=False)
    return with_storage(file.getvalue())


class Stored:
    """A tensor whose storage is made of `content`; sizes and strides as given."""

    def __init__(self, content: Any, size: Any = (2,), stride: Any = (1,)) -> None:
        self.content, self.size, self.stride = content, size, stride

    def __reduce__(self) -> Any:
        inner = Bytes(self.content) if isinstance(self.content, bytes) else self.content
        empty: Any = OrderedDict()
        return _rebuild_tensor_v2, (inner, 0, self.size, self.stride, False, empty)


class Bytes:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self) -> Any:
        return torch.storage._load_from_bytes, (self.content,)


def with_tensor(tensor: Any) -> bytes:
    """A model with another tensor in place of the mapping's first weight."""

    def change(content: dict[str, Any], _: NvidiaWriter) -> Any:
        mapping = content["G_ema"].state["_modules"]["mapping"].state
        mapping["_modules"]["fc0"].state["_parameters"]["weight"] = tensor
        return content

    return nvidia_pickle(STATES, change=change)


def with_storage(content: bytes) -> bytes:
    return with_tensor(Stored(content))


def torch_archive(compressed: bool) -> bytes:
    """A training file of rosinality's, with a bomb or compressed."""
    file, plain = io.BytesIO(), io.BytesIO(rosinality_file(STATES))
    how = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(file, "w", how) as new:
        for name in old.namelist():
            bomb = name.endswith("data.pkl") and not compressed
            new.writestr(name, pickle.dumps({"g_ema": Bomb()}) if bomb else old.read(name))
    return file.getvalue()


class Array:
    """An array that says that it has 2^40 rows."""

    def __reduce__(self) -> Any:
        rebuild, args, state = np.zeros(1, np.float32).__reduce__()  # type: ignore[misc]
        return rebuild, args, (state[0], (1 << 40, 12), *state[2:])


def tensorflow_bomb() -> bytes:
    class Network:
        def __reduce__(self) -> Any:
            return os.mkdir, (TRACE,)

    return pickle.dumps((Network(), Network(), Network()))


RUN_ANYTHING = {
    "at the top": lambda: pickle.dumps(Bomb()),
    "beside the networks": lambda: in_module("beside"),
    "as a setting": lambda: in_module("setting"),
    "as a parameter": lambda: in_module("parameter"),
    "in a storage": in_storage,
    "in an archive": lambda: torch_archive(compressed=False),
    "in torch.save": lambda: legacy({"g_ema": Bomb()}),
    "by NEWOBJ": lambda: b"\x80\x04cos\n_Environ\n)\x81.",
    "by INST": lambda: b"(S'" + TRACE.encode() + b"'\nios\nmkdir\n.",
    "by STACK_GLOBAL": lambda: b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c\x01x\x85R.",
    "by an attribute": lambda: b"\x80\x04\x8c\x0bcollections\x8c\x13OrderedDict.__init__\x93.",
    "by an extension": lambda: b"\x80\x04\x82\x01.",
}


def legacy(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


@pytest.mark.parametrize("place", RUN_ANYTHING)
def test_nothing_in_a_file_runs(place: str, tmp_path: Path) -> None:
    refused(tmp_path / "model.pkl", RUN_ANYTHING[place]())


def test_the_refusal_names_what_was_asked_for(tmp_path: Path) -> None:
    refused(tmp_path / "x.pkl", pickle.dumps(Bomb()), r"asks for 'posix.mkdir'")


def test_objects_cannot_change_the_records(tmp_path: Path) -> None:
    """BUILD and SETITEMS on a class of records, which would outlive the file."""
    head = b"\x80\x04\x8c\x0bcollections\x8c\x0bOrderedDict\x93"
    for program in (b"}\x8c\x06origin\x8c\x01xsb.", b"\x8c\x01a\x8c\x01bs.", b"\x8c\x01aa."):
        refused(tmp_path / "x.pkl", head + program)


EXHAUSTING = {
    "bytes of 2^50": (lambda: b"\x80\x04\x8e" + struct.pack("<Q", 1 << 50) + b"x.", "cut short"),
    "text of 2^40": (lambda: b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x.", "cut short"),
    "a bytearray": (lambda: b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.", "cut short"),
    "a frame of 2^60": (lambda: b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.", "cut short"),
    "a slot of the memo": (lambda: b"\x80\x02Nr\xff\xff\xff\xff.", "slot 4,294,967,295"),
    "a slot as text": (lambda: b"Np99999999999\n.", "neither a pickle"),
    "a slot as text, after a protocol": (lambda: b"\x80\x02Np99999999999\n.", "slot"),
    "a number": (
        lambda: b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + bytes(1 << 20) + b".",
        "number",
    ),
    "a negative length": (lambda: b"\x80\x02T\xff\xff\xff\xffx.", "negative|number|cut short"),
    "deep lists": (lambda: b"\x80\x04" + b"]" * 200_000 + b"a" * 199_999 + b".", "it holds list"),
    "deep tuples": (lambda: b"\x80\x04)" + b"\x85" * 200_000 + b".", "it holds tuple"),
    "many opcodes": (lambda: b"\x80\x04" + b"N0" * 500_001 + b"N.", "1,000,000 opcodes"),
    "a stride of 0": (
        lambda: with_tensor(Stored(torch.zeros(2)._typed_storage(), (1 << 40, 12), (0, 0))),
        "larger than the file",
    ),
    "a size beyond its storage": (
        lambda: with_tensor(Stored(torch.zeros(2)._typed_storage(), (10, 12), (12, 1))),
        "larger than its storage",
    ),
    "a size that is no number": (
        lambda: with_tensor(Stored(torch.zeros(2)._typed_storage(), ("x",), (1,))),
        "a tensor has the size",
    ),
    "compressed": (lambda: torch_archive(compressed=True), "is compressed"),
    "an array of 2^40 rows": (lambda: with_tensor(Array()), "larger than the file"),
    "a bomb of TensorFlow": (tensorflow_bomb, "asks for"),
    "a storage that holds an object": (lambda: with_storage(legacy([1])), "something else"),
    "a storage that is no stream": (lambda: with_storage(b"hello"), "not a file of torch.save"),
}


@pytest.mark.parametrize("name", EXHAUSTING)
def test_no_file_exhausts_memory(name: str, tmp_path: Path) -> None:
    make, what = EXHAUSTING[name]
    content = make()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(tmp_path / "model.pkl", content, what)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 400_000, f"{grown:,} KiB more"


def test_a_storage_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    content = legacy({"x": torch.zeros(3)})
    for numel in (1 << 40, -1):
        changed = content.replace(
            b"K\x03", b"\x8a\x06" + numel.to_bytes(6, "little", signed=True), 1
        )
        assert changed != content
        refused(tmp_path / "x.pt", changed, "more than the file holds|damaged")


def test_many_tensors_of_one_storage_are_refused(tmp_path: Path) -> None:
    """Tensors that overlap make a small file a large network."""
    shared = torch.randn(12 * 6 * 3 * 3 * 8)
    content = torch.load(io.BytesIO(rosinality_file(STATES)), weights_only=False)
    for network in ("g", "g_ema", "d"):
        state = content[network]
        for name, value in state.items():
            state[name] = shared[: value.numel()].view(value.shape)
    content = {name: content[name] for name in ("g", "g_ema", "d")}
    refused(tmp_path / "x.pt", legacy(content), "larger than the file")


def test_modules_that_contain_each_other_are_refused(tmp_path: Path) -> None:
    """Ten modules, each twice in the next: a walk over all paths would not end."""

    def change(content: dict[str, Any], writer: NvidiaWriter) -> Any:
        module = writer.module("M")
        for _ in range(30):
            module = writer.module("M", modules={str(k): module for k in range(9)})
        content["G_ema"] = module
        return content

    refused(tmp_path / "x.pkl", nvidia_pickle(STATES, change=change), "deep|modules")


CUT_SHORT = "cut short|damaged|is empty|neither a pickle"
CUT = {
    "nvidia.pkl": lambda: nvidia_pickle(STATES),
    "tensorflow.pkl": lambda: tensorflow_pickle(STATES),
    "rosinality.pt": lambda: rosinality_file(STATES),
    "rosinality-older.pt": lambda: rosinality_file(STATES, archive=False),
    "r3gan.pkl": lambda: r3gan_pickle(random_states(tiny_r3gan())),
}


@pytest.mark.parametrize("name", CUT)
def test_files_cut_at_every_thousandth_byte_are_refused(name: str, tmp_path: Path) -> None:
    content = CUT[name]()
    for end in range(0, len(content), 1000):
        refused(tmp_path / name, content[:end], CUT_SHORT)


@pytest.mark.parametrize("name", ["nvidia.pkl", "rosinality-older.pt"])
def test_changed_bytes_are_read_or_refused(name: str, tmp_path: Path) -> None:
    """Whatever a changed byte does, there is no other exception, and no trace."""
    content, random = CUT[name](), np.random.default_rng(0)
    for place in random.integers(0, len(content), 15):
        changed = bytearray(content)
        changed[place] ^= int(random.integers(1, 256))
        with contextlib.suppress(ModelFileError):
            read(write(tmp_path / name, bytes(changed)))
        assert not Path(TRACE).exists()
