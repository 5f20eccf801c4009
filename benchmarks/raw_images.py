"""Make a set of raw images: `python benchmarks/raw_images.py FOLDER RESOLUTION COUNT`.

They hold noise, because reading raw pixels costs the same whatever they show. A folder that already
has them is left as it is.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from realness.data_pipeline.prepare.convert import Conversion
from realness.data_pipeline.prepare.prepare import prepare


def make_raw_images(folder: Path, resolution: int, count: int) -> Path:
    """A prepared set of `count` images; returns its folder."""
    if folder.exists():
        return folder
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as files:
        for number in range(count):
            pixels = rng.integers(0, 256, (resolution, resolution, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"{files}/{number:04d}.png", compress_level=0)
        prepare(files, folder, Conversion(resolution, format="raw"))
    return folder


if __name__ == "__main__":
    make_raw_images(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
