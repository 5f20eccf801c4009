"""The command `realness`: the scripts of this folder as subcommands, from an installed package.

`python -m realness.launch` is the same; launchers take it as a module:
`torchrun -m realness.launch train ...` and `deepspeed --module realness.launch train ...`.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

import realness
from realness.launch.exit_status import until_interrupted
from realness.launch.standard_streams import tolerate_lost_output
from realness.trainer.distributed.exit_codes import EXIT_OK, EXIT_USAGE

COMMANDS = {
    "train": ("train_ffhq", "train a GAN, or resume a run"),
    "toy": ("train_toy", "train GANs on points in the plane: the papers' 2-D experiments"),
    "prepare": ("prepare", "turn any image collection into validated, packed shards"),
    "evaluate": ("evaluate", "measure a run's generator against its real images"),
    "generate": ("generate", "make images with a trained generator"),
    "invert": ("invert", "find latents of given images"),
    "export": ("export", "export a trained model: safetensors, ONNX, torch.export"),
    "convert": ("convert", "make a run folder of a public StyleGAN2 or R3GAN, or of an export"),
    "consolidate": ("consolidate", "merge a sharded checkpoint into one file per network"),
    "report": ("report", "build the HTML report of one or more runs"),
    "film": ("film", "make a film of a run's sample grids"),
    "fetch-faces": ("fetch_faces", "fetch 400 photographs of faces to try the system on"),
}
"""Module and description of each subcommand."""


def usage() -> str:
    """The text of `realness --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    head = "usage: realness COMMAND [ARGUMENTS]\n\nDistributed training of GANs at high resolution."
    tail = "`realness COMMAND --help` lists the arguments of a command."
    return "\n".join([head, "", *lines, "", tail])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code; `arguments` default to those of the process."""
    tolerate_lost_output()
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return EXIT_OK
    if name == "--version":
        print(f"realness {realness.__version__}")
        return EXIT_OK
    # The DeepSpeed launcher puts --local_rank=N first; move it behind the subcommand's name.
    if name.startswith("--local_rank") and rest:
        name, rest = rest[0], [*rest[1:], name]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        print(f"error: {name!r} is not a command{hint}\n\n{usage()}", file=sys.stderr)
        return EXIT_USAGE
    # The program name in the subcommand's help and errors.
    sys.argv = [f"realness {name}", *rest]
    module = f"realness.launch.{COMMANDS[name][0]}"
    return until_interrupted(lambda: importlib.import_module(module).main(rest))
