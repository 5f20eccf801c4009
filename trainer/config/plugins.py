"""Plugins: Python files whose components register themselves when they are imported."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from realness.trainer.config.base import ConfigError, expand_user, flag, require
from realness.trainer.config.components import (
    DEFAULTS,
    PLUGIN_MODULE,
    Component,
    registered,
    restore,
)
from realness.trainer.config.fields import leaves
from realness.trainer.config.train import TrainConfig
from realness.trainer.config.values import is_convertible

_loaded: dict[str, Path] = {}
"""The plugins of this process: the sha256 of each file, and its path."""


def load_plugins(paths: Sequence[str]) -> tuple[str, ...]:
    """Import these files, each once per process; returns the sha256 of each.

    Raises ConfigError for a file that cannot be read, that fails when it is imported, or that
    registers nothing or fields whose flags exist already.
    """
    return tuple(_load(Path(expand_user(path))) for path in paths)


def check_recorded(paths: Sequence[str], digests: Sequence[str], where: Path) -> None:
    """Check that the plugins that a configuration records have been loaded.

    A plugin is never imported because a file names it. A plugin of the same name with other
    contents counts as loaded: `changed_plugins` and the check on resume compare contents.

    Raises ConfigError that names the first plugin that is missing and how to load it, and for a
    record that is not valid.
    """
    for record in (paths, digests):
        valid = isinstance(record, (list, tuple)) and all(isinstance(item, str) for item in record)
        require(valid and len(record) == len(paths), f"{where} has no valid record of its plugins")
    names = {path.name for path in _loaded.values()}
    for path, digest in zip(paths, digests, strict=True):
        require(
            digest in _loaded or Path(path).name in names,
            f"{where} needs the plugin {path} (sha256 {digest[:12]}), which was not given; if you "
            f"trust the file, add --plugin {path}",
        )


def changed_plugins(paths: Sequence[str], digests: Sequence[str]) -> list[str]:
    """The recorded plugins whose contents differ from those of the file that was loaded."""
    recorded = zip(paths, digests, strict=True)
    return [path for path, digest in recorded if digest not in _loaded]


def _load(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--plugin={path} cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest in _loaded:
        return digest
    before = {kind: dict(registered(kind)) for kind in DEFAULTS}
    try:
        _import(path, digest)
        _check(before)
    except ConfigError as error:
        restore(before)
        raise ConfigError(f"--plugin={path}: {error}") from error
    for other in [key for key, known in _loaded.items() if known.name == path.name]:
        del _loaded[other]
    _loaded[digest] = path
    return digest


def _check(before: Mapping[str, Mapping[str, type[Component]]]) -> None:
    """Check what a plugin has added to the components of `before`."""
    new = [
        component
        for kind, known in before.items()
        for name, component in registered(kind).items()
        if component is not known.get(name)
    ]
    require(
        bool(new),
        "it registers nothing; decorate the frozen dataclass of a component with @register(NAME)",
    )
    for leaf in leaves(TrainConfig).values():
        require(
            is_convertible(leaf.type),
            f"{flag(leaf.name)} cannot be a flag, because its type is {leaf.type}; use int, float, "
            "bool, str, a Literal, or one of these or None",
        )
    for component in new:
        items = dataclasses.fields(cast(Any, component))
        bare = [item.name for item in items if _lacks_default(item)]
        require(not bare, f"every field of {component.__qualname__} needs a default: {bare}")
        component()  # the defaults must be valid themselves


def _lacks_default(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _import(path: Path, digest: str) -> None:
    # The digest keeps two files of the same name apart.
    name = f"{PLUGIN_MODULE}{path.stem}_{digest[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError("it is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except ConfigError:
        raise
    except Exception as error:
        lines = traceback.extract_tb(error.__traceback__)
        line = next((item.lineno for item in reversed(lines) if item.filename == str(path)), None)
        raise ConfigError(
            f"it cannot be imported: line {line or '?'}: {type(error).__name__}: {error}"
        ) from error
