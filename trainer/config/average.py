"""The moving averages of the generator: which ones a run keeps, and their snapshots."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from realness.trainer.config.base import ConfigError, not_negative, positive, require, resumable

WIDEST = 1 / math.sqrt(12)
"""The width of a plain mean over all of training, i.e. of the power function with exponent 0."""


@dataclass(frozen=True)
class AverageConfig:
    """Moving averages of G: exponential ones, and power-function ones (Karras et al., 2024)."""

    ema: Literal["exponential", "power", "both"] = "exponential"
    """Moving average of G's weights. exponential has a half-life. power keeps one power-function
    average for each of --ema-widths, and snapshots of them, from which an average of any width is
    computed after training (--ema-width of generate, evaluate and export); samples and metrics use
    the first width. both keeps all of them; samples and metrics use the exponential one."""
    ema_widths: str = "0.05,0.1"
    """Widths of the power-function averages, comma-separated: two or three. A width is the standard
    deviation of an average's weights over training, as a fraction of the images seen."""
    ema_snapshot_kimg: float = resumable(500.0)
    """Write a snapshot of the power-function averages every N thousand images."""
    keep_ema_snapshots: int = resumable(0)
    """Number of newest snapshots to keep; 0 keeps all. --keep-checkpoints does not apply to
    them."""

    def __post_init__(self) -> None:
        positive(self, "ema_snapshot_kimg")
        not_negative(self, "keep_ema_snapshots")
        widths = parse_widths("--ema-widths", self.ema_widths)
        require(
            len(widths) > 1,
            f"--ema-widths={self.ema_widths}: other widths cannot be computed from a single one; "
            "use two or three, such as 0.05,0.1",
        )
        # "0.10" and "0.1" must be the same run.
        object.__setattr__(self, "ema_widths", ",".join(map(width_name, widths)))

    @property
    def widths(self) -> tuple[float, ...]:
        """The widths of the power-function averages that the run keeps; empty if it keeps none."""
        if self.ema == "exponential":
            return ()
        return parse_widths("--ema-widths", self.ema_widths)

    @property
    def names(self) -> dict[float, str]:
        """The name of each power-function average in a checkpoint, by its width.

        The average that samples and metrics use is always "EMA".
        """
        names = {width: snapshot_name(width) for width in self.widths}
        return names | ({self.widths[0]: "EMA"} if self.ema == "power" else {})

    @property
    def num_averages(self) -> int:
        """How many copies of G the averages are."""
        return len(self.widths) + (self.ema != "power")


def snapshot_name(width: float) -> str:
    """The name of the average of this width in a snapshot: "EMA-0.05"."""
    return f"EMA-{width_name(width)}"


def width_name(width: float) -> str:
    """A width as text: 0.10 is "0.1"."""
    return f"{width:.6g}"


def parse_widths(flag: str, text: str) -> tuple[float, ...]:
    """Widths separated by commas.

    Raises ConfigError, naming `flag`, unless each lies between 0 and WIDEST and is given once.
    """
    try:
        widths = tuple(float(f"{float(part):.6g}") for part in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"{flag}={text} is not a list of numbers; separate widths with commas: 0.05,0.1"
        ) from error
    for width in widths:
        require(
            0 < width < WIDEST,
            f"{flag}={text}: {width:g} must be greater than 0 and less than {WIDEST:.4f}, the "
            "width of a plain mean over all of training; common widths are 0.01 to 0.2",
        )
    require(len(set(widths)) == len(widths), f"{flag}={text} names a width twice; remove one")
    return widths
