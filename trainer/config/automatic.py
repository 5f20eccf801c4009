"""Fields whose value "auto" is computed from other fields, once, when a command starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from realness.trainer.config.base import ConfigError, flag

AUTO = "auto"
RADFORD_CHANNELS = 1024
"""Channels of DCGAN at 4x4, at every resolution (Radford et al., 2016, figure 1 and section 5.1: D
at 32x32 has 256, 512 and 1,024, which are its 28,672 features)."""


def dcgan_width(resolution: int) -> int:
    """The base width of DCGAN that gives RADFORD_CHANNELS at 4x4: they are width x R / 8."""
    return 8 * RADFORD_CHANNELS // resolution


def _r1_gamma(fields: Mapping[str, Any]) -> tuple[float, str]:
    resolution, batch = fields["resolution"], fields["batch_size"]
    value = 0.0002 * resolution**2 / max(1, batch)
    return value, f"0.0002 x {resolution}^2 pixels / batch of {batch}"


def _width(kind: str, name: str) -> Callable[[Mapping[str, Any]], tuple[int, str]]:
    def rule(fields: Mapping[str, Any]) -> tuple[int, str]:
        if fields[kind] != "dcgan":
            raise ConfigError(
                f"{flag(name)}=auto is the width of Radford's DCGAN, but this run has "
                f"{flag(kind)} {fields[kind]}; give a number"
            )
        resolution = fields["resolution"]
        return dcgan_width(resolution), f"8 x {RADFORD_CHANNELS:,} channels at 4x4 / {resolution}"

    return rule


RULES: dict[str, Callable[[Mapping[str, Any]], tuple[Any, str]]] = {
    "r1_gamma": _r1_gamma,
    "g_width": _width("generator", "g_width"),
    "d_width": _width("discriminator", "d_width"),
}
"""The value of each such field, and how it was computed.

r1_gamma: Karras et al., "Training Generative Adversarial Networks with Limited Data" (NeurIPS
2020), the heuristic of its published code. g_width, d_width: `dcgan_width`.
"""


def resolve(fields: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """All fields by flag names with numbers for "auto", and a line per field that was computed."""
    resolved, lines = dict(fields), []
    for name, rule in RULES.items():
        if fields.get(name) == AUTO:
            resolved[name], reason = rule(fields)
            lines.append(f"{flag(name)} auto is {resolved[name]:.6g} = {reason}")
    return resolved, lines
