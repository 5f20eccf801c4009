"""Public models: NVIDIA's and rosinality's StyleGAN2 files, read without executing them.

`read_public` recognises and reads a file, `configuration` and `read_networks` turn it into this
program's networks, and `write_run` makes a run folder of them.
"""

from __future__ import annotations

from realness.trainer.inference.public.convert import (
    NO_UPDATES,
    configuration,
    fixed_noise,
    read_networks,
    write_run,
)
from realness.trainer.inference.public.model import WHAT_WORKS, PublicModel
from realness.trainer.inference.public.pickles import ModelFileError
from realness.trainer.inference.public.recognise import read_public

__all__ = [
    "NO_UPDATES",
    "WHAT_WORKS",
    "ModelFileError",
    "PublicModel",
    "configuration",
    "fixed_noise",
    "read_networks",
    "read_public",
    "write_run",
]
