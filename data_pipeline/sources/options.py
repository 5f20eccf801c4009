"""How a source is read, where its path alone does not decide it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

SourceKind = Literal["auto", "folder", "zip", "tar", "tfrecord", "cifar", "idx", "lmdb", "prepared"]


@dataclass(frozen=True)
class SourceOptions:
    """Choices of the user for open_catalog.

    kind: what the path is; "auto" finds out. wds_image: the extensions of the pictures to take from
    tar shards, see PictureChoice. follow_links: whether symbolic links may leave a folder. labels:
    where classes come from: "auto" (what the source itself holds), "folders", "none", or the path
    of a CSV of names and classes.

    Raises ValueError for an unknown kind.
    """

    kind: SourceKind = "auto"
    wds_image: str = ""
    follow_links: bool = False
    labels: str = "auto"

    @property
    def flags(self) -> list[str]:
        """The choices that differ from the defaults, as flags of the command line."""
        kind = [] if self.kind == "auto" else ["--source-kind", self.kind]
        pictures = ["--wds-image", self.wds_image] if self.wds_image else []
        links = ["--follow-links"] if self.follow_links else []
        labels = [] if self.labels == "auto" else ["--labels", self.labels]
        return [*kind, *pictures, *links, *labels]

    def __post_init__(self) -> None:
        if self.kind not in get_args(SourceKind):
            known = ", ".join(get_args(SourceKind))
            raise ValueError(f"source_kind={self.kind!r} is unknown; use one of {known}")
