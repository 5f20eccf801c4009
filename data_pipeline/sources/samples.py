"""WebDataset's samples: files of a tar with one key, such as 0001.jpg, 0001.seg.png and 0001.json.

The key is the path up to the first dot of the file name, and the extension is what follows it
(the WebDataset format's specification).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from realness.data_pipeline.errors import DataError

ALL = "all"
# Of the samples. Fewer are stray copies, like photo.jpg.1 beside photo.jpg.
_MAX_STRAY_SHARE = 0.01
# Plain photographs have dots in their names too (2020.01.31.jpg), but then most extensions differ.
_MAX_EXTENSIONS_OF_FEW = 8


def key_of(name: str) -> str:
    """The key of a file's sample."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.split('.', 1)[0]}"


def extension_of(name: str) -> str:
    """The extension of a file in its sample, in lower case, without the first dot."""
    return name.rpartition("/")[2].partition(".")[2].lower()


class PictureChoice:
    """Chooses the pictures of samples by extension.

    wanted: extensions, separated by commas; "all" for every picture; "" if the user has not chosen,
    which is an error for samples with several pictures.
    """

    def __init__(self, wanted: str) -> None:
        self._wanted = [part.strip().lstrip(".").lower() for part in wanted.split(",")]
        self._flag = wanted
        self._extensions: Counter[str] = Counter()
        self._num_samples = self._num_several = 0

    def of_shard(self, names: Sequence[str]) -> list[bool]:
        """Whether each picture of a shard is taken. names: all of its pictures."""
        extensions = [extension_of(name) for name in names]
        pictures_of = Counter(map(key_of, names))
        self._extensions.update(extensions)
        self._num_samples += len(pictures_of)
        self._num_several += sum(number > 1 for number in pictures_of.values())
        if self._flag in ("", ALL):
            return [True] * len(names)
        return [extension in self._wanted for extension in extensions]

    def check(self, source: str, num_taken: int) -> list[str]:
        """What to tell the user about the choice, after all shards.

        Raises DataError if a choice is needed, or if it takes no picture.
        """
        ranked = sorted(self._extensions.items(), key=lambda pair: (-pair[1], pair[0]))
        held = ", ".join(f"{ext or 'no extension'} ({number:,})" for ext, number in ranked[:10])
        if len(ranked) > 10:
            held += f" and {len(ranked) - 10:,} more"
        if self._flag and not num_taken and self._extensions:
            raise DataError(
                f"--wds-image={self._flag} takes none of the pictures in {source}, whose "
                f"extensions are {held}"
            )
        looks_like_samples = len(self._extensions) <= max(self._num_samples, _MAX_EXTENSIONS_OF_FEW)
        if self._flag or not self._num_several or not looks_like_samples:
            return []
        described = (
            f"{self._num_several:,} of the {self._num_samples:,} samples in {source} have several "
            f"pictures, of the extensions {held}"
        )
        first = self._extensions.most_common(1)[0][0]
        if self._num_several <= _MAX_STRAY_SHARE * self._num_samples:
            return [f"{described}; all are taken, --wds-image {first} takes one extension"]
        raise DataError(
            f"{described}; choose with --wds-image {first} (several: --wds-image jpg,png), or take "
            f"every picture with --wds-image {ALL}"
        )
