"""`origin.json`: where the weights of a run come from, if it did not start from random ones."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from realness.trainer.config import ConfigError
from realness.trainer.storage.files import write_text

ORIGIN_FILE = "origin.json"
NO_LICENCE = "not stated"


@dataclass(frozen=True)
class Origin:
    """Where weights come from.

    source: the file, or the address that the user gave; sha256: of the file; kind: what it is;
    non_commercial: whether the licence forbids commercial use; missing: the networks that the file
    did not hold, which are random.
    """

    source: str
    sha256: str
    kind: str
    licence: str
    non_commercial: bool
    missing: str = ""

    @property
    def notice(self) -> str:
        """What is said whenever the weights are used; empty for no restriction that is known."""
        if not self.non_commercial:
            return ""
        return (
            f"NOT FOR COMMERCIAL USE: the weights come from {self.source} ({self.kind}); licence: "
            f"{self.licence}. This holds for networks trained from them too"
        )


def write_origin(folder: Path, origin: Origin) -> None:
    """Write the file into a run folder or an export."""
    write_text(folder / ORIGIN_FILE, json.dumps(asdict(origin), indent=2) + "\n")


def read_origin(folder: Path) -> Origin | None:
    """The origin of the weights in a folder; None if it has none.

    Raises ConfigError for a file that is not valid: a licence must not get lost.
    """
    path = folder / ORIGIN_FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text())
        origin = Origin(**{item.name: values[item.name] for item in fields(Origin)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} does not state the origin of the weights: {error!r}") from error
    if not all(isinstance(getattr(origin, item.name), str | bool) for item in fields(Origin)):
        raise ConfigError(f"{path} does not state the origin of the weights: it is damaged")
    return origin
