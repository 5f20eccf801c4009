"""The names of what an augmentation consists of, and reading them from text."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from realness.trainer.config import ConfigError

GROUPS = {
    "b": "blit",
    "g": "geom",
    "c": "color",
    "f": "filter",
    "n": "noise",
    "x": "cutout",
}
"""ADA's groups of transforms by letter, in the order in which they are applied."""

PIPELINES = {
    "blit": "b",
    "geom": "g",
    "filter": "f",
    "noise": "n",
    "bgcfnc": "bgcfnx",
}
"""Names that stylegan2-ada-pytorch uses for groups, where they differ from our letters. Its `color`
and `cutout` are DiffAugment's policies here; ADA's are `c` and `x`."""

POLICY_NAMES = ("color", "translation", "cutout")
"""DiffAugment's policies."""

Groups = tuple[tuple[str, float], ...]
"""Letters of `GROUPS`, each with the factor by which its probability differs from p."""

_LETTER = re.compile(r"([a-z])(\d+\.?\d*|\.\d+)?")


def read_ops(text: str) -> tuple[Groups, tuple[str, ...]]:
    """ADA's groups, or else DiffAugment's policies, that the text names.

    Groups are letters: `bgc` is blit, geom and color. A number after a letter is its factor of p,
    in (0, 1]: in `bgc0.5x` colour transforms have half the probability of the others. Groups are
    returned in the order of `GROUPS`. Policies are separated by commas, and applied in this order.

    Raises:
        ConfigError: for an unknown or repeated group or policy, or a factor out of range.
    """
    words = [word.strip() for word in text.split(",")]
    if len(words) > 1 or text in POLICY_NAMES:
        return (), _policies(text, words)
    return _groups(text), ()


def _policies(text: str, words: list[str]) -> tuple[str, ...]:
    for word in words:
        if word not in POLICY_NAMES:
            raise _unknown(text, f"{word!r} is not a policy", word, POLICY_NAMES)
    _check_once(text, words)
    return tuple(words)


def _groups(text: str) -> Groups:
    letters = PIPELINES.get(text, text)
    found = _LETTER.findall(letters)
    unknown = [letter for letter, _ in found if letter not in GROUPS]
    if unknown or not found or "".join(map("".join, found)) != letters:
        names = [*PIPELINES, *POLICY_NAMES, "bg", "bgc", "bgcf", "bgcfn", "bgcfnx"]
        what = f"{unknown[0]!r} is not a group" if unknown else "it is not a list of groups"
        raise _unknown(text, what, text, names)
    _check_once(text, [letter for letter, _ in found])
    factors = {letter: float(number or 1) for letter, number in found}
    for letter, factor in factors.items():
        if not 0 < factor <= 1:
            raise ConfigError(
                f"--augment-ops={text}: the factor of {letter!r} is {factor:g}; "
                "use a number above 0 and at most 1"
            )
    return tuple((letter, factors[letter]) for letter in GROUPS if letter in factors)


def _check_once(text: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--augment-ops={text} names {name!r} twice; name it once")


def _unknown(text: str, what: str, word: str, names: Sequence[str]) -> ConfigError:
    close = difflib.get_close_matches(word, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    letters = ", ".join(f"{letter} ({name})" for letter, name in GROUPS.items())
    return ConfigError(
        f"--augment-ops={text}: {what}{hint} Use letters of ADA's groups, {letters}, for example "
        f"bgc, or DiffAugment's policies with commas: {','.join(POLICY_NAMES)}"
    )
