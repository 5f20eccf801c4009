"""Class numbers of images, from StyleGAN's dataset.json.

Most runs need no labels, so labels that cannot be read end none of them: the catalog then has no
labels, and a note says why. Training with `--conditional` then ends with that note.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from realness.data_pipeline.errors import BadImage, MachineError

Labels = npt.NDArray[np.int32]
LABELS_FILE = "dataset.json"
MAX_CLASSES = 1_000_000


def read_labels(
    files: Sequence[str], names: Sequence[str], read: Callable[[str], bytes]
) -> tuple[Labels | None, list[str]]:
    """Labels int32 [len(names)], or None, and notes for the user.

    files: the paths of all dataset.json in the source. The one at the top is used or, if all images
    lie in one folder (as in the zips that macOS makes), one in that folder or between; the names in
    it are relative to it. read: reads a file; raises BadImage if it cannot.
    """
    # All names begin with a folder if the first and the last one in sorted order do.
    first, last = min(names, default=""), max(names, default="")
    above = [
        file for file in files if first.startswith(_folder(file)) and last.startswith(_folder(file))
    ]
    used = min(above, key=len, default=None)
    unused = [file for file in files if file != used]
    notes = []
    if unused:
        why = f"{used} is" if unused[0] in above else "not all images lie in its folder"
        others = f" (nor in {len(unused) - 1:,} more)" if len(unused) > 1 else ""
        notes.append(f"the labels in {unused[0]} are not used{others}: {why}")
    if used is None:
        return None, notes
    try:
        return _parse(read(used), [name[len(_folder(used)) :] for name in names]), notes
    except MachineError:
        raise
    except (BadImage, ValueError, TypeError, AttributeError, RecursionError) as error:
        return None, [*notes, f"the labels in {used} are ignored: {error}"]


def _folder(file: str) -> str:
    return file[: -len(LABELS_FILE)]


def _parse(text: bytes, names: Sequence[str]) -> Labels | None:
    """Labels from {"labels": [[name, class], ...] or null}. Raises ValueError if malformed."""
    try:
        pairs = json.loads(text).get("labels")
        pairs = None if pairs is None else [(str(name), label) for name, label in pairs]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f'it is not StyleGAN\'s {{"labels": [[name, class number], ...]}} ({error})'
        ) from error
    if pairs is None:
        return None
    by_name = {name: _class_number(label) for name, label in pairs}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise ValueError(
            f"it has no label for {len(missing):,} of {len(names):,} images; the first is "
            f"{missing[0]!r}"
        )
    return np.array([by_name[name] for name in names], np.int32)


def _class_number(label: object) -> int:
    if isinstance(label, list) and len(label) > 1:
        raise ValueError(f"they are lists of {len(label)} numbers, not class numbers")
    if type(label) is not int or not 0 <= label < MAX_CLASSES:
        raise ValueError(
            f"{reprlib.repr(label)} is not a whole number from 0 to {MAX_CLASSES - 1:,}"
        )
    return label
