"""Distributed training of GANs at high resolution.

In the repository this folder stands for the installed package: links lead to its parts, which are
folders at the top. `PYTHONPATH=.typings` is enough to use them without an installation.
"""

from __future__ import annotations

import contextlib
import re
from importlib import metadata
from pathlib import Path

__all__ = ["__version__"]


def _version() -> str:
    """The version as installed; in a repository that is not installed, that of pyproject.toml."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("realness")
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    with contextlib.suppress(OSError):
        if found := re.search(r'^version = "(.+)"$', project.read_text(), re.MULTILINE):
            return found[1]
    return "unknown"


__version__ = _version()
