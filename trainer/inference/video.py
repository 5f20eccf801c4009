"""Frames as an MP4 film."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from realness.trainer.config import ConfigError

CODEC, PIXELS = "libx264", "yuv420p"
"""H.264 with halved chroma: what every browser and player takes."""
QUALITY = "16"
"""x264's constant rate factor; 18 is what the eye takes for lossless."""


def check_video() -> None:
    """Raises ConfigError where PyAV, which writes films, is not installed."""
    if importlib.util.find_spec("av") is None:
        raise ConfigError(
            "MP4 needs the package av, which the extra `video` installs: "
            'pip install -e ".[video]"; without it, --animation gif'
        )


def write_mp4(frames: Iterable[NDArray[np.uint8]], path: Path, *, side: int, frame_ms: int) -> None:
    """Write frames uint8 [side, side, 3], each shown `frame_ms` milliseconds; `side` is even.

    They are encoded as they come, so that memory does not depend on their number.
    """
    import av

    with av.open(path, "w") as film:
        stream = film.add_stream(CODEC, rate=Fraction(1000, frame_ms), options={"crf": QUALITY})
        stream.pix_fmt, stream.height, stream.width = PIXELS, side, side
        for pixels in frames:
            film.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        film.mux(stream.encode())
