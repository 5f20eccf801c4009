"""The reference generator against the published test vectors of Random123 (kat_vectors)."""

from __future__ import annotations

import pytest
import torch

from realness.kernels.philox.reference import philox4x32

VECTORS = [
    ("0" * 32, "0" * 16, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("f" * 32, "f" * 16, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "243f6a8885a308d313198a2e03707344",
        "a4093822299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def words(text: str) -> list[int]:
    return [int(text[i : i + 8], 16) for i in range(0, len(text), 8)]


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_reference_matches_random123(counter: str, key: str, expected: str) -> None:
    c0, c1, c2, c3 = (torch.tensor([word]) for word in words(counter))
    k0, k1 = words(key)
    assert philox4x32((c0, c1, c2, c3), (k0, k1))[0].tolist() == words(expected.replace(" ", ""))
