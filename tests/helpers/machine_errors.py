"""Errors of the machine, made by replacing a function of os."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


def fail(
    monkeypatch: pytest.MonkeyPatch, name: str, number: int, path: str, times: float = 1
) -> list[str]:
    """Makes os.NAME fail `times` times with an errno for paths or descriptors that match."""
    real: Callable[..., object] = getattr(os, name)
    failures: list[str] = []

    def faulty(target: str | Path | int, *arguments: object, **options: object) -> object:
        opened = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else target
        if path in str(opened) and len(failures) < times:
            failures.append(str(opened))
            raise OSError(number, os.strerror(number), str(opened))
        return real(target, *arguments, **options)

    monkeypatch.setattr(os, name, faulty)
    return failures
