"""The arguments of `generate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Command:
    """The arguments of the command."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run (its --run-dir)."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder for the images; created if it does not exist, must be empty otherwise."""
    num: int = 16
    """Number of images to draw; with --classes, of each of them."""
    classes: str = ""
    """Classes to draw, for a conditional run: their numbers or names with commas between them, such
    as 3,7. Image i of each class has the same latent, and grid.png has a row per class. By default
    classes are drawn as often as the data has them."""
    seed: int = 0
    """Seed of the latents."""
    latents: Path | None = None
    """File of latents to render instead of drawn ones: latents.npz of `invert`, or another .npz
    file with z or w. --num is then their number."""
    checkpoint: str = "latest"
    """latest, best, or the number of images seen by one of the run's checkpoints. best is the one
    that training kept as the best by the first of its --metrics; without metrics during training,
    the best in metrics.csv: by FID if present, else KID, else SWD."""
    weights: Literal["ema", "raw"] = "ema"
    """Weights of G: ema, their moving average, or raw, as the last update left them."""
    ema_width: str = ""
    """A moving average of another width, such as 0.12, of a run with --ema power or both."""
    plugin: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Plugin that the run was trained with; may be given several times. THE FILE IS EXECUTED."""
    top: float = 1.0
    """Keep this share of the images: those that D scores as most realistic, best first."""
    grid: int = 64
    """Images in grid.png; 0 for none."""
    truncation: float = 1.0
    """StyleGAN's psi: pulls styles towards their mean, for more typical but less diverse images."""
    truncation_sweep: str = ""
    """Values of psi from -1 to 1 with commas between them, such as 1,0.7,0.5,0,-0.5,-1:
    truncation.png has a row per value, of the first 8 images."""
    mix: str = ""
    """Rows and columns, such as 4,6: mixing-coarse.png, -middle.png and -fine.png are tables of the
    first images. Each image has the styles of its column at sides of 4 to 8, 16 to 32, or 64 and
    more pixels, and those of its row elsewhere (StyleGAN, figure 3)."""
    noise: Literal["random", "fixed"] = "random"
    """Noise of StyleGAN2's convolutions: drawn per image, or the fixed one of a converted model."""
    interpolate: int = 0
    """Interpolation steps from each image to the next, on the sphere between their latents:
    interpolation.png has one row per pair, interpolation.gif or .mp4 shows them all. 0 for none."""
    loop: bool = False
    """Interpolate from the last image back to the first, too."""
    easing: Literal["linear", "smooth"] = "linear"
    """Speed of the interpolation: the same everywhere, or slow near the images."""
    animation: Literal["gif", "mp4"] = "gif"
    """Format of the animation; mp4 needs the extra `video`."""
    batch_size: int = 32
    """Images per batch; memory use does not depend on --num."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto uses CUDA if a device is available."""
