"""The compiled realness_emd: shapes and its first derivative."""

from __future__ import annotations

from realness.kernels.anchor_distance import operators

OPERATORS = operators("realness_emd")
