"""`realness.jsonl`: D's distributions for real and generated images during training.

One JSON object per line, at the times of the sample grids: D's distribution over the outcomes of
realness, averaged over real and over generated images, and the anchors they are trained towards
(Xiangli et al., "Real or Not Real, that is the Question", ICLR 2020, section 2 and eq. 3).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from realness.trainer.reporting.stats import Thinned, iterate_stats

REALNESS_FILE = "realness.jsonl"
DIGITS = 6
MAX_MOMENTS = 128
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Realness:
    """Distributions over the N outcomes, least real first, after `images` images of training.

    real, fake: means over real and generated images; a1, a0: their anchors; each [N], summing to 1.
    """

    images: int
    real: list[float]
    fake: list[float]
    a1: list[float]
    a0: list[float]


def append_realness(path: Path, realness: Realness) -> None:
    """Append a line to the file. Raises OSError if the disk is full."""
    rounded = {
        key: [float(f"{share:.{DIGITS}g}") for share in value] if key != "images" else value
        for key, value in asdict(realness).items()
    }
    with path.open("ab") as file:
        file.write(json.dumps(rounded).encode() + b"\n")


def read_realness(path: Path) -> list[Realness]:
    """The lines of a file, oldest first; empty if it is missing. Invalid lines are skipped.

    Of more than MAX_MOMENTS, evenly spaced ones are returned, and the last one.
    """
    found: Thinned[Realness] = Thinned(MAX_MOMENTS)
    for record in iterate_stats(path):
        if (item := _parse(record)) is not None:
            found.add(item)
    return sorted(found.items(), key=lambda item: item.images)


def _parse(record: Mapping[str, Any]) -> Realness | None:
    images, parts = record.get("images"), [record.get(key) for key in ("real", "fake", "a1", "a0")]
    if not isinstance(images, int) or isinstance(images, bool):
        return None
    if not all(_is_distribution(part) for part in parts) or len({len(p) for p in parts if p}) != 1:
        return None
    real, fake, a1, a0 = ([float(share) for share in part or ()] for part in parts)
    return Realness(images, real, fake, a1, a0)


def _is_distribution(values: Any) -> bool:
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) < 2:
        return False
    if not all(isinstance(v, (int, float)) and math.isfinite(v) and v >= 0 for v in values):
        return False
    return abs(sum(values) - 1) < SUM_TOLERANCE
