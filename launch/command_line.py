"""Reading a command line: the same for every command."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import tyro

from realness.trainer.config.base import expand_user

_VALUE = re.compile(r"(--[\w-]+=)?(~.*)", re.DOTALL)


def read_command_line(command: Any, arguments: Sequence[str], **options: Any) -> Any:
    """The `command`, a dataclass or another type that tyro reads, that the arguments describe.

    A home folder is expanded in every value, as shells do only where a word begins with it: bash
    passes `--run-dir=~/x` on as it is. `options` go to `tyro.cli`, which prints what is wrong with
    invalid arguments and exits with code 2.
    """
    return tyro.cli(command, args=expanded(arguments), **options)


def expanded(arguments: Sequence[str]) -> list[str]:
    """The arguments with the home folder in the place of `~`."""
    return [
        (match[1] or "") + expand_user(match[2]) if (match := _VALUE.fullmatch(item)) else item
        for item in arguments
    ]
