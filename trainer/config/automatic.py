"""Fields whose value "auto" is computed from other fields, once, when a command starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from realness.trainer.config.base import flag

AUTO = "auto"


def _r1_gamma(fields: Mapping[str, Any]) -> tuple[float, str]:
    resolution, batch = fields["resolution"], fields["batch_size"]
    value = 0.0002 * resolution**2 / max(1, batch)
    return value, f"0.0002 x {resolution}^2 pixels / batch of {batch}"


RULES: dict[str, Callable[[Mapping[str, Any]], tuple[Any, str]]] = {"r1_gamma": _r1_gamma}
"""The value of each such field, and how it was computed.

r1_gamma: Karras et al., "Training Generative Adversarial Networks with Limited Data" (NeurIPS
2020), the heuristic of its published code.
"""


def resolve(fields: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """All fields by flag names with numbers for "auto", and a line per field that was computed."""
    resolved, lines = dict(fields), []
    for name, rule in RULES.items():
        if fields.get(name) == AUTO:
            resolved[name], reason = rule(fields)
            lines.append(f"{flag(name)} auto is {resolved[name]:.6g} = {reason}")
    return resolved, lines
