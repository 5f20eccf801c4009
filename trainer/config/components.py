"""Components: the networks, objectives, optimisers and augmentations that make up a run.

The configuration of a component is a frozen dataclass that inherits from the base class of its kind
(`GeneratorConfig`, `DiscriminatorConfig`, `ObjectiveConfig`, `AlgorithmConfig`,
`AugmentationConfig`), declares what the component can do, and builds it. `register` gives it the
name by which a flag chooses it. Components of this program and of plugins are registered in the
same way.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar, TypeVar

from realness.trainer.config.base import ConfigError, flag

BUILT_IN = (
    "realness.trainer.networks.configs",
    "realness.trainer.networks.stylegan2_configs",
    "realness.trainer.networks.light_configs",
    "realness.trainer.networks.r3gan_configs",
    "realness.trainer.objectives.configs",
    "realness.trainer.engines.optimizer_configs",
    "realness.trainer.augment.configs",
)
"""Modules that register the components of this program. They are imported by name, as plugins are,
because the configuration belongs to a lower layer than what it describes."""

PLUGIN_MODULE = "realness_plugin_"
"""What the module names of plugins begin with; the name of the file and its digest follow."""

DEFAULTS = {
    "generator": "dcgan",
    "discriminator": "dcgan",
    "objective": "realness",
    "optimizer": "adam",
    "augment": "none",
}
"""The component of each kind that a configuration has if none is chosen."""


class Component:
    """Base class of all configurations of components.

    kind: the flag that chooses a component of this kind, such as "generator". name: the name it is
    registered by. prefix: what the names of its fields begin with as flags.
    """

    kind: ClassVar[str] = ""
    name: ClassVar[str] = ""
    prefix: ClassVar[str] = ""


C = TypeVar("C", bound=Component)

_registered: dict[str, dict[str, type[Component]]] = {kind: {} for kind in DEFAULTS}


def register(name: str, *, prefix: str | None = None) -> Callable[[type[C]], type[C]]:
    """Class decorator: make a configuration selectable as `--<kind> <name>`.

    Every field that the class adds to its base class becomes a flag: field `width` of the generator
    "tiny-net" is `--tiny-net-width`. prefix: another beginning of these names.

    A plugin that is loaded again, with other contents, replaces its own components. Raises
    ConfigError if the class is not a frozen dataclass of a known kind, or if another component of
    its kind has the name.
    """

    def enter(cls: type[C]) -> type[C]:
        where = f"{cls.__module__}.{cls.__qualname__}"
        if getattr(cls, "kind", None) not in _registered:
            raise ConfigError(
                f"{where} cannot be registered: it must inherit from GeneratorConfig, "
                "DiscriminatorConfig, ObjectiveConfig, AlgorithmConfig or AugmentationConfig"
            )
        # Of this class itself: a subclass inherits the attribute of its base class.
        parameters = cls.__dict__.get("__dataclass_params__")
        if parameters is None or not parameters.frozen:
            raise ConfigError(f"{where} must be a frozen dataclass: write @dataclass(frozen=True)")
        known = _registered[cls.kind].get(name)
        if known is not None and _origin(known) != _origin(cls):
            raise ConfigError(
                f"{where} registers the {cls.kind} {name!r}, which {known.__module__} has already "
                "registered; choose another name"
            )
        cls.name = name
        cls.prefix = name.replace("-", "_") + "_" if prefix is None else prefix
        _registered[cls.kind][name] = cls
        return cls

    return enter


def _origin(cls: type) -> str:
    """The module of a class; for a plugin, without the digest of its contents."""
    module = cls.__module__
    return module.rpartition("_")[0] if module.startswith(PLUGIN_MODULE) else module


def registered(kind: str) -> dict[str, type[Component]]:
    """All components of a kind, by name; built-in ones come first."""
    _load_built_in()
    return _registered[kind]


def restore(components: Mapping[str, Mapping[str, type[Component]]]) -> None:
    """Forget all components but these, by kind and name."""
    for kind, known in components.items():
        _registered[kind] = dict(known)


def component(kind: str, name: str) -> type[Any]:
    """The configuration class of a component. For an unknown name, raises ConfigError with a
    suggestion."""
    known = registered(kind)
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(
            f"{flag(kind)}={name} is unknown; {hint}available: {', '.join(known)}. A component of "
            "your own needs its file: --plugin FILE"
        )
    return known[name]


def default_component(base: type[C]) -> C:
    """The default component of a kind, with its default settings."""
    return component(base.kind, DEFAULTS[base.kind])()


@cache
def _load_built_in() -> None:
    for module in BUILT_IN:
        importlib.import_module(module)


def is_kind(cls: type) -> bool:
    """Whether a class stands for any component of its kind, such as GeneratorConfig."""
    return dataclasses.is_dataclass(cls) and issubclass(cls, Component) and not cls.name
