"""Exporting trained networks to a separate folder, for use without the run they come from.

The folder holds safetensors and a configuration, which `load` reads back; ONNX and torch.export
graphs, which run without this package; and a model card.
"""

from __future__ import annotations

from realness.trainer.export.card import write_card
from realness.trainer.export.folder import Exported, load, write_networks
from realness.trainer.export.graphs import (
    FORMATS,
    MAX_DIFFERENCE,
    ONNX_OPSET,
    ExportError,
    Graph,
    check_formats,
    discriminator_graph,
    generator_graph,
    write_graph,
)

__all__ = [
    "FORMATS",
    "MAX_DIFFERENCE",
    "ONNX_OPSET",
    "ExportError",
    "Exported",
    "Graph",
    "check_formats",
    "discriminator_graph",
    "generator_graph",
    "load",
    "write_card",
    "write_graph",
    "write_networks",
]
