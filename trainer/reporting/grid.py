"""Sample grids: a batch of images as one PNG."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, PngImagePlugin

from realness.trainer.storage.files import atomic_writer

if TYPE_CHECKING:
    from torch import Tensor

SAMPLES_FOLDER = "samples"
IMAGES_SEEN = "images_seen"
"""Key of the PNG text chunk with the number of images G had been trained on."""

MAX_PIXELS = 2**25
"""32 images of 1024x1024: a canvas of 128 MiB, whatever the batch."""

_ASPECT = 1.6


def layout(num_images: int) -> tuple[int, int]:
    """(rows, columns) for `num_images`: first few empty cells, then a screen-like aspect ratio.

    64 -> 8x8, 32 -> 4x8, 16 -> 4x4, 7 -> 2x4, 1 -> 1x1.
    """

    def cost(columns: int) -> float:
        rows = -(-num_images // columns)
        empty = rows * columns - num_images
        holes = 0.5 + 4 * empty / num_images if empty else 0.0
        return holes + abs(math.log(columns / rows / _ASPECT))

    columns = min(range(1, num_images + 1), key=cost)
    return -(-num_images // columns), columns


def make_grid(images: Tensor, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Arrange images row by row, without gaps, so that tile k can be cut out again.

    images: [B, 3, H, W] floating point in [-1, 1] (values outside are clipped, NaN is black), on
    any device. They are converted one at a time and never scaled: if together they exceed
    `max_pixels`, only the first that fit are drawn. Raises ValueError for a wrong shape or B = 0.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[0] == 0:
        raise ValueError(f"a grid needs images of shape [B, 3, H, W], got {list(images.shape)}")
    height, width = images.shape[2:]
    num_drawn = min(images.shape[0], max(1, max_pixels // (height * width)))
    rows, columns = layout(num_drawn)
    canvas = Image.new("RGB", (columns * width, rows * height), (24, 24, 27))
    for index in range(num_drawn):
        levels = images[index].detach().float().nan_to_num(-1.0)
        levels.add_(1).mul_(127.5).round_().clamp_(0, 255)
        tile = levels.byte().permute(1, 2, 0).contiguous().cpu().numpy()
        canvas.paste(Image.fromarray(tile), (index % columns * width, index // columns * height))
    return canvas


def write_grid(images: Tensor, path: Path, images_seen: int) -> None:
    """Write `images` ([B, 3, H, W] in [-1, 1]) as a PNG grid that records the images seen.

    Raises ValueError as `make_grid` does, OSError if the disk is full; `path` is then unchanged.
    """
    note = PngImagePlugin.PngInfo()
    note.add_text(IMAGES_SEEN, str(images_seen))
    canvas = make_grid(images)
    with atomic_writer(path) as file:
        # On photographs, level 3 takes a third of the default's time and adds about 3 % in size.
        canvas.save(file, "PNG", compress_level=3, pnginfo=note)
