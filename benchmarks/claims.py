"""Verdicts on a paper's claims from a few seeds, by rules that are the same for all claims.

A claim says that a value is smaller in one arm than in another, or that it changes in one direction
during training. It is supported if this is so for every seed (for every pair of seeds between two
arms, so that their ranges are apart), contradicted if the opposite is, and otherwise open: the
spread between seeds is larger than the difference. With one seed everything is open. By chance
alone, two arms of two seeds are apart in one of three cases, of three seeds in one of ten, of five
in one of 126.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RULE = """\
A claim is supported if it holds between all pairs of seeds (or in all seeds, for a change during
training), contradicted if its opposite does, and open otherwise, or with a single seed.
"""


@dataclass(frozen=True)
class Claim:
    """What a paper says, its verdict here, and the numbers behind it."""

    text: str
    verdict: str
    numbers: str

    def line(self) -> str:
        """The claim as an item of a list."""
        return f"- **{self.verdict}**: {self.text} ({self.numbers})"


def judged(gains: np.ndarray, num_seeds: int) -> str:
    """The verdict on differences of which all are positive if the claim holds."""
    if num_seeds < 2 or np.isnan(gains).any():
        return "open"
    if (gains > 0).all():
        return "supported"
    return "contradicted" if (gains < 0).all() else "open"


def smaller(text: str, low: np.ndarray, high: np.ndarray, form: str = ".3g") -> Claim:
    """The claim that values `low` [seeds] of one arm are smaller than `high` [seeds] of another."""
    verdict = judged(high[None, :] - low[:, None], min(len(low), len(high)))
    return Claim(text, verdict, f"{_values(low, form)} against {_values(high, form)}")


def larger(text: str, high: np.ndarray, low: np.ndarray, form: str = ".3g") -> Claim:
    """The claim that values `high` [seeds] of one arm are larger than `low` [seeds] of another."""
    verdict = judged(high[:, None] - low[None, :], min(len(low), len(high)))
    return Claim(text, verdict, f"{_values(high, form)} against {_values(low, form)}")


def falls(text: str, early: np.ndarray, late: np.ndarray, form: str = ".3g") -> Claim:
    """The claim that a value falls from `early` [seeds] to `late` [seeds] in every seed."""
    verdict = judged(early - late, len(early))
    return Claim(text, verdict, f"from {_values(early, form)} to {_values(late, form)}")


def rises(text: str, early: np.ndarray, late: np.ndarray, form: str = ".3g") -> Claim:
    """The claim that a value rises from `early` [seeds] to `late` [seeds] in every seed."""
    verdict = judged(late - early, len(early))
    return Claim(text, verdict, f"from {_values(early, form)} to {_values(late, form)}")


def at_least(text: str, values: np.ndarray, bound: float, form: str = ".3g") -> Claim:
    """The claim that a value [seeds] is at least `bound` in every seed."""
    gains = np.where(values >= bound, 1.0, -1.0)
    numbers = f"{_values(values, form)}; {bound:{form}} claimed"
    return Claim(text, judged(gains, len(values)), numbers)


def _values(values: np.ndarray, form: str) -> str:
    return ", ".join(f"{value:{form}}" for value in values)
