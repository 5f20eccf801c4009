"""Shared by all parts of the configuration: the error, flag names, checks and field markers."""

from __future__ import annotations

from dataclasses import field
from typing import Any


class ConfigError(ValueError):
    """An invalid configuration; the message names the flag, its value and how to fix it."""


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def flag(name: str) -> str:
    """The command-line spelling of a field: `lr_g` -> `--lr-g`."""
    return "--" + name.replace("_", "-")


def positive(config: Any, *names: str) -> None:
    """Require these fields to be greater than 0."""
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{flag(name)}={value} must be greater than 0")


def not_negative(config: Any, *names: str) -> None:
    """Require these fields to be 0 or more."""
    for name in names:
        value = getattr(config, name)
        require(value >= 0, f"{flag(name)}={value} must not be negative")


def any_time(default: Any) -> Any:
    """A field that may change when a run is resumed: the trajectory does not depend on it."""
    return field(default=default, metadata={"any_time": True})
