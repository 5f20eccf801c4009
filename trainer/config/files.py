"""Fields of the configuration from a file: JSON, TOML or YAML."""

from __future__ import annotations

import dataclasses
import difflib
import json
import reprlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from realness.trainer.config.base import ConfigError, require
from realness.trainer.config.train import TrainConfig


def read_fields(path: Path) -> dict[str, Any]:
    """The fields that a file gives, by flag name, each with the type that it has in the tree.

    The file holds them in the sections of a run's config.json, or flat by flag name, or some of
    them so and some so. Nothing in it is executed. What holds across fields is not checked here:
    flags may still override some of them.

    Raises ConfigError, naming the file, when it cannot be read, and for every field in it that is
    unknown, given twice or of the wrong type.
    """
    content = _parsed(path)
    require(
        isinstance(content, dict),
        f"--config={path} holds {reprlib.repr(content)}; expected fields with their names",
    )
    fields: dict[str, Any] = {}
    problems = _take(content, TrainConfig, "", fields)
    require(not problems, "\n  ".join([f"--config={path}:", *problems]))
    return fields


# --- text to values


def _parsed(path: Path) -> Any:
    """The content of the file, {} when it is empty."""
    load = _LOADERS.get(path.suffix.lower())
    if load is None:
        raise ConfigError(
            f"--config={path} has no known format: its name must end in {', '.join(_LOADERS)}"
        )
    try:
        # Editors on Windows write a mark at the beginning.
        content = load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"--config={path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        kind = path.suffix[1:].upper()
        raise ConfigError(f"--config={path} is not valid {kind}: {error}") from error
    return {} if content is None else content


def _load_toml(text: str) -> Any:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # pyright: ignore[reportMissingImports]
    return tomllib.loads(text)


def _load_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


_LOADERS: dict[str, Callable[[str], Any]] = {
    ".json": json.loads,
    ".toml": _load_toml,
    ".yaml": _load_yaml,
    ".yml": _load_yaml,
}


# --- values to fields


def _take(table: dict[Any, Any], kind: type, path: str, fields: dict[str, Any]) -> list[str]:
    """Add what the table of section `kind` gives to `fields`; returns what is wrong with it."""
    sections, leaves = _sections(kind), _leaves(kind)
    problems = []
    for key, value in table.items():
        name, shown = str(key).replace("-", "_"), f"{path}{key}"
        # Some sections have a field of their own name: only a table means the section.
        if name in sections and (isinstance(value, dict) or value is None):
            problems += _take(value or {}, sections[name], f"{shown}.", fields)
        elif name in fields:
            problems.append(f"{shown} is given twice")
        elif name in leaves:
            try:
                fields[name] = _converted(value, leaves[name])
            except ValueError as error:
                problems.append(f"{shown}: {reprlib.repr(value)} is not {error}")
        elif name in sections:
            problems.append(f"{shown}: {reprlib.repr(value)} is not a section of fields")
        else:
            problems.append(f"{shown} is unknown{_suggestion(name, kind)}")
    return problems


def _sections(kind: type) -> dict[str, Any]:
    """The dataclasses of the sections directly inside this one."""
    hints = get_type_hints(kind)
    return {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}


def _leaves(kind: type) -> dict[str, Any]:
    """The type of every field of this section and of the sections inside it."""
    sections = _sections(kind)
    leaves = {name: hint for name, hint in get_type_hints(kind).items() if name not in sections}
    for section in sections.values():
        leaves.update(_leaves(section))
    return leaves


def _paths(kind: type, path: str = "") -> dict[str, str]:
    """Where the fields of this section, and of those inside it, lie: {"lr_g": "optimizer.lr_g"}."""
    paths = {name: f"{path}{name}" for name in get_type_hints(kind)}
    for name, section in _sections(kind).items():
        paths = {**_paths(section, f"{path}{name}."), **paths}
    return paths


def _suggestion(name: str, kind: type) -> str:
    """What an unknown name was probably meant to be: of this section, or else of another one."""
    for paths in ({name: name for name in _paths(kind)}, _paths(TrainConfig)):
        if close := difflib.get_close_matches(name, paths, n=1):
            return f"; did you mean {paths[close[0]]}?"
    return ""


def _converted(value: Any, kind: Any) -> Any:
    """The value as a field of type `kind` holds it. Raises ValueError that says what it must be."""
    if get_origin(kind) is Literal:
        return _chosen(value, get_args(kind))
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


def _chosen(value: Any, options: tuple[Any, ...]) -> Any:
    for option in options:
        if type(value) is type(option) and value == option:
            return option
    hint = "" if type(value) is not bool else "; YAML reads no, off, yes and on as these: quote it"
    raise ValueError(f"one of {', '.join(map(repr, options))}{hint}")
