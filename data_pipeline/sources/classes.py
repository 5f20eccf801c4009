"""The classes of a catalog: how many images each has, and what the user should know."""

from __future__ import annotations

import numpy as np

from realness.data_pipeline.catalog import Catalog

RARE = 10
"""A class with fewer than 1 / RARE of the images of the median class is called rare."""


def class_counts(catalog: Catalog) -> list[int]:
    """The number of images of each class, [num_classes]; empty without labels."""
    if catalog.labels is None:
        return []
    labels = catalog.labels[catalog.labels >= 0]
    return np.bincount(labels, minlength=catalog.num_classes).tolist()


def describe_classes(catalog: Catalog) -> str:
    """The classes on one line: their number, the smallest and the largest, empty and rare ones."""
    counts = np.array(class_counts(catalog), np.int64)
    if not len(counts):
        return "no classes"
    if len(counts) == 1:
        return f"1 class, {_named(catalog, 0)}, of all {counts[0]:,} images"
    present = np.flatnonzero(counts)
    low, high = present[counts[present].argmin()], present[counts[present].argmax()]
    if counts[low] == counts[high]:
        sizes = f"{counts[low]:,} images each"
    else:
        sizes = (
            f"{counts[low]:,} ({_named(catalog, low)}) to {counts[high]:,} "
            f"({_named(catalog, high)}) images"
        )
    parts = [f"{len(counts):,} classes of {sizes}"]
    if rare := int((RARE * counts[present] < np.median(counts[present])).sum()):
        parts.append(f"{rare:,} of them rare, with less than 1/{RARE} of the median")
    if empty := len(counts) - len(present):
        first = int(np.flatnonzero(counts == 0)[0])
        parts.append(
            f"{empty:,} without images ({_named(catalog, first)}{', ...' if empty > 1 else ''})"
        )
    return "; ".join(parts)


def _named(catalog: Catalog, number: int | np.integer) -> str:
    names = catalog.class_names
    return names[int(number)] if names else f"class {number}"
