"""Starting from trained networks, and layers that do not learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from realness.trainer.config.base import expand_paths, not_negative, resumable


@dataclass(frozen=True)
class TransferConfig:
    """Starting from other networks."""

    init_from: str = resumable("")
    """Start from the weights of this run or export, with new optimisers: RUN, RUN:latest, RUN:best,
    RUN:IMAGES_SEEN, or the folder of an export. Tensors of the same name and shape are taken; the
    log lists the others. A run that has a checkpoint of its own resumes from that instead."""
    freeze_d: int = 0
    """Layers of D that do not learn, counted from the image (Freeze-D); StyleGAN2 has the layer
    from the image, and three layers per block."""
    freeze_g: Literal["none", "mapping"] = "none"
    """Part of G that does not learn: mapping is the network from z to w."""

    def __post_init__(self) -> None:
        expand_paths(self, "init_from")
        not_negative(self, "freeze_d")
