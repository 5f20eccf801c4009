"""Reading pickles without executing them.

A pickle is a program that may import and call anything. Here every name that it imports becomes a
class of inert records, which keep what they are given and do nothing; names that are not in a short
list are refused. The lengths in a pickle are checked before it is read.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

Data = memoryview
"""The bytes of a file, or a part of them."""

MOST_OPCODES = 1_000_000
"""Opcodes of a pickle; networks of a thousand layers need some 100,000."""
MOST_TEXT_BYTES = 1 << 26
"""Bytes of a value that is written as text, and of a line."""
SIZED_BY = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
"""Bytes of the length in front of an argument."""
OPCODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
TWO_LINES = {"GLOBAL", "INST"}
DAMAGE = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError,
    OverflowError, RecursionError, MemoryError, UnicodeError,
)  # fmt: skip
"""What unpickling raises for damaged files."""


class ModelFileError(ValueError):
    """A file that is not read; the message says what it is, and what would work."""


class RefusedName(ModelFileError):
    """A pickle imports a name that is not in the list; `name` is that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"it asks for {name!r}, which no network needs; nothing was executed")
        self.name = name


class Record:
    """Inert stand-in for an object that a pickle builds.

    origin: the name that the pickle imported. args, options: arguments of its creation. state: what
    it was set to afterwards. items: its entries, if it is a mapping; members: if it is a sequence.
    """

    origin: ClassVar[str] = ""
    args: tuple[Any, ...]
    options: dict[str, Any]
    state: Any
    items: dict[Any, Any]
    members: list[Any]

    def __new__(cls, *args: Any, **options: Any) -> Record:
        record = object.__new__(cls)
        record.args, record.options, record.state = args, options, None
        record.items, record.members = {}, []
        return record

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        """Add a member, as lists do."""
        self.members.append(value)

    def add(self, value: Any) -> None:
        """Add a member, as sets do."""
        self.members.append(value)


def origin_of(value: Any) -> str:
    """The name that a pickle imported to make a value; empty for plain values."""
    kind = value if isinstance(value, type) else type(value)
    return kind.origin if issubclass(kind, Record) else ""


def mapping_of(value: Any) -> dict[Any, Any]:
    """The entries of a dict, or of the record of a mapping; none of anything else."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, Record):
        return {}
    if value.items or not value.args:
        return value.items
    pairs = value.args[0]
    if isinstance(pairs, dict):
        return pairs
    if not isinstance(pairs, list | tuple):
        return {}
    return {pair[0]: pair[1] for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2}


def read_pickle(
    data: Data,
    start: int,
    allowed: Callable[[str], bool],
    persistent: Callable[[Any], Any] | None = None,
) -> tuple[Any, int]:
    """The records of the pickle that begins at `start`, and the position behind it.

    allowed: whether a dotted name may be imported. persistent: makes the objects that the pickle
    refers to by persistent numbers; None refuses them.

    Raises:
        RefusedName: for any other name.
        ModelFileError: for a pickle that is cut short or damaged.
    """
    end = _check(data, start)
    unpickler = _InertUnpickler(_Reader(data[start:end]), allowed, persistent)
    try:
        return unpickler.load(), end
    except ModelFileError:
        raise
    except DAMAGE as error:
        raise ModelFileError(f"its pickle is damaged ({type(error).__name__}: {error})") from error


def _check(data: Data, start: int) -> int:
    """The position behind a pickle, after checking its opcodes.

    Raises ModelFileError for an unknown opcode, for lengths beyond the end of the file, and for
    slots of the memo, or numbers of opcodes, that would exhaust memory or time.
    """
    at = start
    for _ in range(MOST_OPCODES):
        if at >= len(data):
            raise _cut(at)
        opcode = OPCODES.get(data[at])
        if opcode is None:
            raise ModelFileError(f"byte {at:,} is not part of a pickle: it is damaged")
        begin, at = at + 1, _end_of_argument(data, at + 1, opcode)
        if at > len(data):
            raise _cut(begin)
        if opcode.name == "STOP":
            return at
        argument = data[begin:at]
        if "PUT" in opcode.name and _slot(opcode.name, argument) > len(data):
            raise ModelFileError(f"it uses slot {_slot(opcode.name, argument):,} of the memo")
        if opcode.name == "FRAME" and at + int.from_bytes(argument, "little") > len(data):
            raise _cut(begin)
    raise ModelFileError(f"it has more than {MOST_OPCODES:,} opcodes; no network needs so many")


def _cut(at: int) -> ModelFileError:
    return ModelFileError(f"it is cut short, or damaged, at byte {at:,}; download it again")


def _end_of_argument(data: Data, at: int, opcode: pickletools.OpcodeInfo) -> int:
    """The position behind an opcode's argument that begins at `at`; perhaps outside `data`."""
    if opcode.arg is None:
        return at
    size = opcode.arg.n
    if size >= 0:
        return at + size
    if size == pickletools.UP_TO_NEWLINE:
        for _ in range(1 + (opcode.name in TWO_LINES)):
            at = _end_of_line(data, at)
        return at
    width = SIZED_BY[size]
    length = int.from_bytes(data[at : at + width], "little")
    if size == pickletools.TAKEN_FROM_ARGUMENT4 and length >= 1 << 31:
        raise ModelFileError("it has a negative length: it is damaged")
    if opcode.name in ("LONG1", "LONG4") and length > 1 << 10:
        raise ModelFileError(f"it has a number of {length:,} bytes")
    return at + width + length


def _end_of_line(data: Data, at: int) -> int:
    for begin in range(at, min(len(data), at + MOST_TEXT_BYTES), 1 << 12):
        place = bytes(data[begin : begin + (1 << 12)]).find(b"\n")
        if place >= 0:
            return begin + place + 1
    raise _cut(at)


def _slot(name: str, argument: Data) -> int:
    """The slot of the memo that a PUT opcode writes."""
    if name != "PUT":
        return int.from_bytes(argument, "little")
    text = bytes(argument).strip()
    return int(text) if text.isdigit() and len(text) < 20 else 1 << 62


class _Reader:
    """The file interface of a part of memory, without a copy of it."""

    def __init__(self, data: Data) -> None:
        self._data, self._at = data, 0

    def read(self, size: int) -> bytes:
        piece = bytes(self._data[self._at : self._at + size])
        self._at += len(piece)
        return piece

    def readinto(self, buffer: Any) -> int:
        piece = self._data[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def readline(self) -> bytes:
        try:
            end = _end_of_line(self._data, self._at)
        except ModelFileError:
            end = len(self._data)
        return self.read(end - self._at)


class _InertUnpickler(pickle.Unpickler):
    def __init__(
        self,
        reader: _Reader,
        allowed: Callable[[str], bool],
        persistent: Callable[[Any], Any] | None,
    ) -> None:
        super().__init__(reader)
        self._allowed, self._persistent = allowed, persistent
        self._kinds: dict[str, type[Record]] = {}

    def find_class(self, module: str, name: str) -> type[Record]:
        origin = f"{module}.{name}"
        if not self._allowed(origin):
            raise RefusedName(origin)
        if origin not in self._kinds:
            self._kinds[origin] = type("Recorded", (Record,), {"origin": origin})
        return self._kinds[origin]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise ModelFileError("it refers to objects outside of it")
        return self._persistent(pid)


def plain_values(entries: Mapping[Any, Any]) -> dict[str, Any]:
    """The entries that are numbers, texts or None, by name."""
    kinds = int | float | str | bool | None
    return {
        key: value
        for key, value in entries.items()
        if isinstance(key, str) and isinstance(value, kinds)
    }
