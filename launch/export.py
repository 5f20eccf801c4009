"""Export what a run has trained: `python launch/export.py RUN OUT`.

Writes the moving average of G (or G itself), and D, as safetensors with config.json (read back by
`realness.trainer.export.load`), as ONNX and torch.export graphs that are checked against the
networks, and a model card. Runs in a single process without DeepSpeed. Exit codes: 0 done, 1 a
graph does not compute what its network does or OUT cannot be written (disk full), 2 invalid input.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from realness.launch.command_line import read_command_line
from realness.launch.exit_status import run_and_report, run_as_script
from realness.launch.load_networks import load_networks


@dataclass(frozen=True)
class Command:
    """The arguments of the command."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run (its --run-dir)."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder for the export; created if it does not exist, must be empty otherwise."""
    checkpoint: str = "latest"
    """latest, best, or the number of images seen by one of the run's checkpoints. best is the one
    that training kept as the best by the first of its --metrics; without metrics during training,
    the best in metrics.csv: by FID if present, else KID, else SWD."""
    formats: str = "onnx,pt2"
    """Graphs to write in addition to the safetensors, comma-separated: onnx (needs the extra
    `export`), pt2 (torch.export); empty for none."""
    weights: Literal["ema", "raw"] = "ema"
    """Weights of G: ema, their moving average, or raw, as the last update left them."""
    ema_width: str = ""
    """A moving average of this width, such as 0.12, computed from a run with --ema power or both.
    By default the average that training used."""
    plugin: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Plugin that the run was trained with; may be given several times. THE FILE IS EXECUTED."""
    licence: str = ""
    """Licence of the weights, stated in the model card; by default that of a converted model."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    command = read_command_line(Command, arguments, description=__doc__)
    from realness import kernels
    from realness.trainer.export import ExportError

    # ONNX has no fused operators; the reference computes the same function.
    with kernels.implementation("reference"):
        return run_and_report(lambda: _export(command), command.out, ExportError)


def _export(command: Command) -> str:
    """Write everything or nothing; returns the message for the user."""
    import torch

    from realness.trainer.config import ConfigError
    from realness.trainer.config.plugins import load_plugins
    from realness.trainer.export import check_formats, write_networks
    from realness.trainer.storage.run_folder import claim_empty_folder

    load_plugins(command.plugin)
    formats = check_formats(command.formats)
    if command.checkpoint == "all":
        raise ConfigError("--checkpoint=all: name one checkpoint, latest or best")
    generator, discriminator = load_networks(command, torch.device("cpu"))
    claim_empty_folder(command.out)
    out = command.out
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as made:
        staged = Path(made) / out.name
        staged.mkdir()
        _print_message(f"writing the networks of {generator.images_seen:,} images of training")
        write_networks(generator, discriminator, staged)
        _write_rest(command, staged, formats)
        staged.rename(out)
    return f"{out}: see {out / 'README.md'}"


def _write_rest(command: Command, staged: Path, formats: Sequence[str]) -> None:
    """Write graphs and model card from the saved safetensors, which are what users will load."""
    from realness.trainer.export import (
        discriminator_graph,
        generator_graph,
        load,
        write_card,
        write_graph,
    )
    from realness.trainer.storage.origin import NO_LICENCE
    from realness.trainer.storage.scores import read_records

    # It logs at every export which optional packages are missing.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    exported = load(staged, impl="reference")
    differences: dict[str, float] = {}
    graphs = (
        generator_graph(exported.generator),
        discriminator_graph(exported.discriminator, exported.generator),
    )
    for graph in graphs if formats else ():
        _print_message(f"writing and checking {graph.name}: {', '.join(formats)}")
        differences |= write_graph(graph, staged, formats)
    for name, difference in differences.items():
        _print_message(
            f"{name} differs from the network by {difference:.1e} of the network's largest output"
        )
    kept = exported.generator.kept
    licence = command.licence or (kept.origin.licence if kept else NO_LICENCE)
    write_card(exported, read_records(command.run), differences, staged, licence=licence)


def _print_message(message: str) -> None:
    print(message, file=sys.stderr)


if __name__ == "__main__":
    run_as_script(main)
