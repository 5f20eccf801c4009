"""Shared by all parts of the configuration: the error, flag names, checks and field markers."""

from __future__ import annotations

import os
from dataclasses import field
from typing import Any


class ConfigError(ValueError):
    """An invalid configuration; the message names the flag, its value and how to fix it."""


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def expand_user(path: str) -> str:
    """The path with `~` or `~user` at its start replaced by the home folder, as in a shell.

    The path of an unknown user stays as it is.
    """
    return os.path.expanduser(path)


def flag(name: str) -> str:
    """The command-line spelling of a field: `lr_g` -> `--lr-g`."""
    return "--" + name.replace("_", "-")


def flag_prefix(section: type, attribute: str) -> str:
    """What a field's flag begins with: the prefix of the class that introduced the field."""
    for base in reversed(section.__mro__):
        if attribute in base.__dict__.get("__dataclass_fields__", {}):
            return base.__dict__.get("prefix", "")
    raise AttributeError(f"{section.__qualname__} has no field {attribute!r}")


def positive(config: Any, *names: str) -> None:
    """Require these fields to be greater than 0."""
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{_flag_of(config, name)}={value} must be greater than 0")


def not_negative(config: Any, *names: str) -> None:
    """Require these fields to be 0 or more."""
    for name in names:
        value = getattr(config, name)
        require(value >= 0, f"{_flag_of(config, name)}={value} must not be negative")


def fraction(config: Any, *names: str) -> None:
    """Require these fields to lie in [0, 1)."""
    for name in names:
        value = getattr(config, name)
        require(0 <= value < 1, f"{_flag_of(config, name)}={value} must lie in [0, 1)")


def expand_paths(config: Any, *names: str) -> None:
    """Expand the home folder in these fields, of type str or tuple[str, ...]."""
    for name in names:
        value = getattr(config, name)
        paths = tuple(map(expand_user, value)) if isinstance(value, tuple) else expand_user(value)
        object.__setattr__(config, name, paths)  # the dataclass is frozen, and this is its start


def _flag_of(config: Any, name: str) -> str:
    return flag(flag_prefix(type(config), name) + name)


def automatic(default: Any) -> Any:
    """A field that a flag or a file may also set to "auto": see `trainer.config.automatic`."""
    return field(default=default, metadata={"automatic": True})


def derived(default: Any, label: str, *, resumable: bool = False) -> Any:
    """A field that the program sets, not a flag; `label` is its name in messages."""
    return field(default=default, metadata={"label": label, "resumable": resumable})


def resumable(default: Any) -> Any:
    """A field that may change when a run is resumed: the trajectory does not depend on it."""
    return field(default=default, metadata={"resumable": True})
