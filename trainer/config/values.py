"""Fields of the configuration from values without types: what JSON, TOML or YAML holds."""

from __future__ import annotations

import dataclasses
import difflib
import reprlib
from collections.abc import Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from realness.trainer.config.automatic import AUTO
from realness.trainer.config.components import is_kind, registered
from realness.trainer.config.fields import Leaf, leaves, slots
from realness.trainer.config.train import TrainConfig


def read_values(content: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """The fields that `content` gives, by flag names and with their types, and what is wrong in it.

    `content` holds them in the sections of a run's config.json, or flat by flag name, or some of
    them in one way and some in the other. Checks across fields are not made here.
    """
    fields: dict[str, Any] = {}
    problems = _take(content, _Section("", TrainConfig), fields)
    return fields, problems


@dataclasses.dataclass(frozen=True)
class _Section:
    """A section that may hold fields: `kinds` are its dataclasses, one per component."""

    path: str
    base: type

    @property
    def kinds(self) -> list[type]:
        return list(registered(self.base.kind).values()) if is_kind(self.base) else [self.base]

    @property
    def sections(self) -> dict[str, _Section]:
        """The sections directly inside this one."""
        return {
            slot.attribute: _Section(f"{self.path}.{slot.attribute}".lstrip("."), slot.type)
            for kind in self.kinds
            for slot in slots(kind)
            if slot.is_section
        }

    def leaves(self) -> dict[str, Leaf]:
        """The fields of this section and of the sections inside it."""
        return leaves(self.base, self.path)


def _take(table: Mapping[Any, Any], section: _Section, fields: dict[str, Any]) -> list[str]:
    """Add what the table of a section gives to `fields`; returns what is wrong with it."""
    sections, known = section.sections, section.leaves()
    problems = []
    for key, value in table.items():
        name, shown = str(key).replace("-", "_"), f"{section.path}.{key}".lstrip(".")
        # Some sections have a field of their own name: only a table means the section.
        if name in sections and (isinstance(value, Mapping) or value is None):
            problems += _take(value or {}, sections[name], fields)
        elif name in fields:
            problems.append(f"{shown} is given twice")
        elif name in known:
            if known[name].is_automatic and value == AUTO:
                fields[name] = value
                continue
            try:
                fields[name] = _converted(value, known[name].type)
            except ValueError as error:
                problems.append(f"{shown}: {reprlib.repr(value)} is not {error}")
        elif name in sections:
            problems.append(f"{shown}: {reprlib.repr(value)} is not a section of fields")
        else:
            problems.append(f"{shown} is unknown{_suggestion(name, section)}")
    return problems


def _suggestion(name: str, section: _Section) -> str:
    """What an unknown name was probably meant to be: of this section, or else of another one."""
    here = {**{leaf.name: leaf.name for leaf in section.leaves().values()}}
    here.update({inner: inner for inner in section.sections})
    everywhere = _Section("", TrainConfig)
    paths = {leaf.name: leaf.path for leaf in everywhere.leaves().values()}
    for names in (here, {**everywhere.sections, **paths}):
        if close := difflib.get_close_matches(name, names, n=1):
            found = names[close[0]]
            return f"; did you mean {found.path if isinstance(found, _Section) else found}?"
    return ""


def _converted(value: Any, kind: Any) -> Any:
    """The value as a field of type `kind` holds it. Raises ValueError that says what it must be."""
    if get_origin(kind) is Literal:
        return _chosen(value, get_args(kind))
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError("a list")
        return tuple(_converted(item, get_args(kind)[0]) for item in value)
    if NoneType in get_args(kind):
        # TOML has no null.
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        (inner,) = set(get_args(kind)) - {NoneType}
        try:
            return _converted(value, inner)
        except ValueError as error:
            raise ValueError(f"{error} or 'none'") from error
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            # Text too: in YAML 1e-4 is text, and 1.0e-4 is a number.
            return float(value)
        except (ValueError, OverflowError):
            pass
    elif type(value) is kind:
        return value
    raise ValueError(_EXPECTED[kind])


_EXPECTED = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}


def is_convertible(kind: Any) -> bool:
    """Whether a field may have this type."""
    if get_origin(kind) is Literal:
        return True
    if get_origin(kind) is tuple:
        return len(get_args(kind)) == 2 and is_convertible(get_args(kind)[0])
    inner = set(get_args(kind)) - {NoneType}
    if NoneType in get_args(kind) and len(inner) == 1:
        return is_convertible(inner.pop())
    return kind in _EXPECTED


def _chosen(value: Any, options: tuple[Any, ...]) -> Any:
    for option in options:
        if type(value) is type(option) and value == option:
            return option
    hint = "" if type(value) is not bool else "; YAML reads no, off, yes and on as these: quote it"
    raise ValueError(f"one of {', '.join(map(repr, options))}{hint}")
