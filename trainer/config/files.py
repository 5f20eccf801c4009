"""Fields of the configuration from a file: JSON, TOML or YAML."""

from __future__ import annotations

import json
import reprlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from realness.trainer.config.base import ConfigError, require
from realness.trainer.config.values import read_values


def read_fields(path: Path) -> dict[str, Any]:
    """The fields that a file gives, by flag name, each with the type that it has in the tree.

    Nothing in the file is executed; see `read_values` for its form. Checks across fields are not
    made here: flags may still override some of them.

    Raises ConfigError, naming the file, when it cannot be read, and for every field in it that is
    unknown, given twice or of the wrong type.
    """
    content = _parsed(path)
    require(
        isinstance(content, dict),
        f"--config={path} holds {reprlib.repr(content)}; expected fields with their names",
    )
    fields, problems = read_values(content)
    require(not problems, "\n  ".join([f"--config={path}:", *problems]))
    return fields


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
