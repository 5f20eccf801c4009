"""Merging a sharded checkpoint into one file per network."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch

from realness.trainer import checkpoint
from realness.trainer.checkpoint.fragments import replicated
from realness.trainer.config import ConfigError
from realness.trainer.config.tree import portable_config
from realness.trainer.inference.kept import read_kept, write_kept
from realness.trainer.storage.run_folder import CONFIG_FILE, read_config, write_config
from realness.trainer.storage.weights import write_weights
from realness.trainer.updates.build import build_networks

NETWORK_FILES = {"G": "G.safetensors", "EMA": "G-ema.safetensors", "D": "D.safetensors"}
"""File of each network by its name in a checkpoint."""


def consolidate(run: Path, folder: Path, out: Path, *, overwrite: bool = False) -> list[Path]:
    """Write the networks of the checkpoint `folder` of `run` into `out`; returns the files.

    The checkpoint is verified first. Only one network is in memory at a time. Each file's header
    states how many images the network has seen; config.json, written last, is the run's
    configuration without its paths.

    Raises:
        ConfigError: for a run without a valid config.json, or if files exist already (unless
            `overwrite`).
        CheckpointRemoved: if the run has removed the checkpoint meanwhile.
        CheckpointError: for a damaged checkpoint, or one of a different architecture.
        OSError: if the disk of `out` is full; existing files are then unchanged.
    """
    config = read_config(run)
    files = [out / name for name in (*NETWORK_FILES.values(), CONFIG_FILE)]
    existing = [path.name for path in files if path.exists()]
    if existing and not overwrite:
        raise ConfigError(
            f"{out} already holds {', '.join(existing)}; use another folder, or --force"
        )
    with checkpoint.noticing_removal(folder):
        manifest, position = checkpoint.read_manifest(folder), checkpoint.load(folder, [])
    with torch.device("meta"):
        generator, discriminator, _ = build_networks(config)
    modules = {"G": generator, "EMA": generator, "D": discriminator}
    out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".staging-", dir=out) as made,
        checkpoint.noticing_removal(folder),
    ):
        for network, name in NETWORK_FILES.items():
            tensors = {
                key: torch.empty_like(value, device="cpu")
                for key, value in modules[network].state_dict().items()
            }
            checkpoint.read_tensors(folder, manifest, replicated(f"{network}.model", tensors))
            about = {
                "network": Path(name).stem,
                "images_seen": str(position.images),
                "data_digest": position.data_digest,
            }
            write_weights(Path(made) / name, tensors, about)
        kept = read_kept(run)
        if kept is not None:
            write_kept(out, kept)
        write_config(Path(made), portable_config(config))
        # A kill between these leaves no config.json, so an incomplete folder is recognised.
        (out / CONFIG_FILE).unlink(missing_ok=True)
        for path in files:
            os.replace(Path(made) / path.name, path)
    return files
