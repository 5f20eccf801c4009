"""Colour profiles (ICC.1:2001-04, version 2) made for tests, and the colours they stand for.

The profiles hold published colorants, adapted to D50. The formulas use the published primaries and
the white D65 and need no adaptation, so they share no number with the profiles.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Curve = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
Colorants = tuple[tuple[float, float, float], ...]

# x and y of red, green and blue; the white of all is D65.
D65 = (0.3127, 0.3290)
PRIMARIES = {
    "sRGB": ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),  # IEC 61966-2-1
    "P3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # SMPTE EG 432-1
    "Adobe": ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)),  # Adobe RGB (1998), section 4.3.1
}
# X, Y and Z relative to D50, as the makers' profiles have them.
COLORANTS: dict[str, Colorants] = {
    "sRGB": ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)),
    "P3": ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)),
    "Adobe": (
        (0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457),
    ),
}  # fmt: skip


def srgb_decoded(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Linear light of sRGB values from 0 to 1."""
    v = np.asarray(values, np.float64)
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def srgb_encoded(light: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """sRGB values of linear light from 0 to 1; light beyond that is clipped."""
    v = np.clip(np.asarray(light, np.float64), 0, 1)
    return np.where(v <= 0.0031308, 12.92 * v, 1.055 * v ** (1 / 2.4) - 0.055)


def power(gamma: float) -> Curve:
    """The curve Y = X^gamma."""
    return lambda values: np.asarray(values, np.float64) ** gamma


def to_xyz(space: str) -> npt.NDArray[np.float64]:
    """The matrix from linear RGB to XYZ relative to D65: [3, 3]."""
    points = np.array([(x, y, 1 - x - y) for x, y in PRIMARIES[space]]).T
    white = np.array([D65[0], D65[1], 1 - sum(D65)]) / D65[1]
    return points * np.linalg.solve(points, white)


def in_srgb(pixels: npt.NDArray[np.uint8], space: str, curve: Curve) -> npt.NDArray[np.float64]:
    """uint8 [..., 3] of a colour space as sRGB levels from 0 to 255, not rounded."""
    matrix = np.linalg.solve(to_xyz("sRGB"), to_xyz(space))
    return 255 * srgb_encoded(curve(pixels / 255) @ matrix.T)


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _curve(curve: Curve, points: int) -> bytes:
    table = np.round(65535 * curve(np.linspace(0, 1, points))).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", points) + table.tobytes()


def _profile(name: str, kind: bytes, space: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = name.encode() + b"\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78)
    white = b"XYZ \0\0\0\0" + _fixed(0.9642, 1, 0.8249)
    tags = {b"desc": description, b"cprt": b"text\0\0\0\0none\0", b"wtpt": white, **tags}
    start, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for signature, content in tags.items():
        table += signature + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size = start + len(body)
    head = struct.pack(">I4sI4s4s4s6H4s", size, b"", 0x02400000, kind, space, pcs,
                       2020, 1, 1, 0, 0, 0, b"acsp")  # fmt: skip
    return head.ljust(68, b"\0") + _fixed(0.9642, 1, 0.8249).ljust(60, b"\0") + table + body


def rgb_profile(space: str, curve: Curve, name: str = "", points: int = 4096) -> bytes:
    """A display's profile with the colorants of a space and a sampled curve."""
    tags = {letter + b"TRC": _curve(curve, points) for letter in (b"r", b"g", b"b")}
    for letter, colorant in zip((b"r", b"g", b"b"), COLORANTS[space], strict=True):
        tags[letter + b"XYZ"] = b"XYZ \0\0\0\0" + _fixed(*colorant)
    return _profile(name or space, b"mntr", b"RGB ", b"XYZ ", tags)


def grey_profile(curve: Curve, points: int = 4096) -> bytes:
    """A display's profile for grey."""
    return _profile("grey", b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _curve(curve, points)})


# L*, a* and b* of a made-up printer are linear in its inks: paper, and the change per ink.
PAPER = np.array([95.0, 0.0, 0.0])
INKS = np.array([[-15.0, -20.0, -25.0], [-20.0, 30.0, -5.0], [-5.0, -5.0, 35.0], [-30.0, 0.0, 0.0]])


def cmyk_profile() -> bytes:
    """A printer's profile (lut8Type) for the inks above; two points per ink define it."""
    grid = np.stack(np.meshgrid(*[[0.0, 1.0]] * 4, indexing="ij"), -1).reshape(-1, 4)
    lab = PAPER + grid @ INKS
    levels = np.round(np.stack([lab[:, 0] * 2.55, lab[:, 1] + 128, lab[:, 2] + 128], -1))
    ramp = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table += 4 * ramp + levels.astype(np.uint8).tobytes() + 3 * ramp
    return _profile("inks", b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})


def inks_in_srgb(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """uint8 [..., 4] of the printer as sRGB levels, not rounded."""
    return lab_in_srgb(PAPER + pixels / 255 @ INKS)


def lab_in_srgb(lab: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """L*, a*, b* relative to D50, [..., 3], as sRGB levels (CIE 15:2004, section 8.2.1)."""
    fy = (lab[..., 0] + 16) / 116
    f = np.stack([fy + lab[..., 1] / 500, fy, fy - lab[..., 2] / 200], -1)
    relative = np.where(f > 6 / 29, f**3, (f - 4 / 29) * 3 * (6 / 29) ** 2)
    # The colorants of sRGB relative to D50 take XYZ back to linear RGB.
    light = (relative * [0.9642, 1, 0.8249]) @ np.linalg.inv(np.array(COLORANTS["sRGB"]))
    return 255 * srgb_encoded(light)
