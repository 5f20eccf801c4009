"""Writing frames as an MP4 video."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from realness.trainer.config import ConfigError

CODEC, PIXELS = "libx264", "yuv420p"
"""H.264 with subsampled chroma, which every browser and player supports."""
QUALITY = "16"
"""x264's constant rate factor; 18 is already visually lossless."""


def check_video() -> None:
    """Raise ConfigError if PyAV, which writes videos, is not installed."""
    if importlib.util.find_spec("av") is None:
        raise ConfigError(
            "MP4 needs the package av, which the extra `video` installs: "
            'pip install -e ".[video]"; without it, --animation gif'
        )


def write_mp4(frames: Iterable[NDArray[np.uint8]], path: Path, *, side: int, frame_ms: int) -> None:
    """Write frames uint8 [side, side, 3], each shown `frame_ms` milliseconds; `side` is even.

    Frames are encoded as they arrive, so that memory use does not depend on their number.
    """
    import av

    with av.open(path, "w") as film:
        stream = film.add_stream(CODEC, rate=Fraction(1000, frame_ms), options={"crf": QUALITY})
        stream.pix_fmt, stream.height, stream.width = PIXELS, side, side
        for pixels in frames:
            film.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        film.mux(stream.encode())
