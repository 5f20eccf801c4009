"""Writing frames as a GIF or an MP4 video."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path

from PIL import Image

from realness.trainer.config import ConfigError
from realness.trainer.storage.files import staged_path

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


def write_animation(frames: Iterable[Image.Image], path: Path, *, frame_ms: int) -> None:
    """Write RGB frames of one size as a GIF that repeats, or an MP4 if the name ends in .mp4.

    Each is shown for `frame_ms` milliseconds. The sides of an MP4 must be even. An MP4 is encoded
    as the frames arrive, so that memory use does not depend on their number; Pillow holds all
    frames of a GIF. `path` is replaced when the animation is complete. Raises ValueError for no
    frames, OSError if the disk is full.
    """
    remaining = iter(frames)
    first = next(remaining, None)
    if first is None:
        raise ValueError("an animation needs at least one frame")
    with staged_path(path) as staged:
        if path.suffix == ".mp4":
            _write_mp4(chain([first], remaining), staged, size=first.size, frame_ms=frame_ms)
        else:
            options = dict(save_all=True, append_images=remaining, duration=frame_ms, loop=0)
            first.save(staged, "GIF", **options)


def _write_mp4(
    frames: Iterable[Image.Image], path: Path, *, size: tuple[int, int], frame_ms: int
) -> None:
    import av

    with av.open(path, "w", format="mp4") as film:
        stream = film.add_stream(CODEC, rate=Fraction(1000, frame_ms), options={"crf": QUALITY})
        stream.pix_fmt, (stream.width, stream.height) = PIXELS, size
        for frame in frames:
            film.mux(stream.encode(av.VideoFrame.from_image(frame)))
        film.mux(stream.encode())
