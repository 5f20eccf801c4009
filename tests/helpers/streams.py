"""Image streams opened with flat keywords, which tests vary one at a time."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from realness.data_pipeline import BatchShare, Catalog, ImageStream, StreamSettings

SETTINGS = {field.name for field in fields(StreamSettings)}
SHARE = {field.name for field in fields(BatchShare)}
DEFAULTS: dict[str, Any] = {"seed": 1, "purpose": 1, "mirror": True}


def stream_of(catalog: Catalog, **keywords: Any) -> ImageStream:
    """ImageStream with its settings and share built from `keywords`, which may name any field."""
    given = DEFAULTS | keywords
    settings = {name: given.pop(name) for name in SETTINGS & given.keys()}
    share = {name: given.pop(name) for name in SHARE & given.keys()}
    return ImageStream(catalog, StreamSettings(**settings), BatchShare(**share), **given)
