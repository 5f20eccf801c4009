"""Sample grids: a batch of images as one PNG."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, PngImagePlugin

from realness.trainer.storage.files import atomic_writer

if TYPE_CHECKING:
    from torch import Tensor

SAMPLES_FOLDER = "samples"
IMAGES_SEEN = "images_seen"
"""Key of the PNG text chunk with the number of images G had been trained on."""
ROW_NAMES = "row_names"
"""Key of the PNG text chunk with the names of the rows, a JSON list."""

MAX_PIXELS = 2**25
"""32 images of 1024x1024: a canvas of 128 MiB, whatever the batch."""

_ASPECT = 1.6
_PADDING = 6
_NAME_LENGTH = 24


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


def make_grid(
    images: Tensor, max_pixels: int = MAX_PIXELS, row_names: Sequence[str] = ()
) -> Image.Image:
    """Arrange images row by row, without gaps, so that tile k can be cut out again.

    images: [B, 3, H, W] floating point in [-1, 1] (values outside are clipped, NaN is black), on
    any device. They are converted one at a time and never scaled: if together they exceed
    `max_pixels`, only the first that fit are drawn. Raises ValueError for a wrong shape or B = 0.

    With `row_names`, the images are as many rows of equal length, and the names of those that fit
    are in a margin on the left.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[0] == 0:
        raise ValueError(f"a grid needs images of shape [B, 3, H, W], got {list(images.shape)}")
    height, width = images.shape[2:]
    num_drawn = min(images.shape[0], max(1, max_pixels // (height * width)))
    rows, columns = layout(num_drawn)
    if row_names:
        columns = max(1, images.shape[0] // len(row_names))
        rows = max(1, num_drawn // columns)
        num_drawn = min(rows * columns, images.shape[0])
    margin = _margin(row_names)
    canvas = Image.new("RGB", (margin + columns * width, rows * height), (24, 24, 27))
    for row, name in enumerate(row_names[:rows]):
        place = (_PADDING, row * height + max(0, height // 2 - _PADDING))
        ImageDraw.Draw(canvas).text(place, _short(name), fill=(228, 228, 231))
    for index in range(num_drawn):
        levels = images[index].detach().float().nan_to_num(-1.0)
        levels.add_(1).mul_(127.5).round_().clamp_(0, 255)
        tile = levels.byte().permute(1, 2, 0).contiguous().cpu().numpy()
        place = (margin + index % columns * width, index // columns * height)
        canvas.paste(Image.fromarray(tile), place)
    return canvas


def _margin(names: Sequence[str]) -> int:
    """Width in pixels of the column that holds the names of rows; 0 without names."""
    if not names:
        return 0
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    return 2 * _PADDING + max(math.ceil(pen.textlength(_short(name))) for name in names)


def _short(name: str) -> str:
    """A name of a row, as the font can draw it."""
    printable = "".join(c if c.isprintable() and ord(c) < 256 else "?" for c in name)
    return printable if len(printable) <= _NAME_LENGTH else printable[: _NAME_LENGTH - 2] + ".."


def write_grid(images: Tensor, path: Path, images_seen: int, row_names: Sequence[str] = ()) -> None:
    """Write `images` ([B, 3, H, W] in [-1, 1]) as a PNG grid that records the images seen.

    row_names: as of `make_grid`; the file records them as well.

    Raises ValueError as `make_grid` does, OSError if the disk is full; `path` is then unchanged.
    """
    note = PngImagePlugin.PngInfo()
    note.add_text(IMAGES_SEEN, str(images_seen))
    if row_names:
        note.add_text(ROW_NAMES, json.dumps(list(row_names)))
    canvas = make_grid(images, row_names=row_names)
    with atomic_writer(path) as file:
        # On photographs, level 3 takes a third of the default's time and adds about 3 % in size.
        canvas.save(file, "PNG", compress_level=3, pnginfo=note)
