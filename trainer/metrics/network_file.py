"""The file of a feature network, given by path or URL; its hash is verified before it is used."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from realness.trainer.config.base import expand_user
from realness.trainer.storage.files import atomic_writer

DOWNLOAD_TIMEOUT_SECONDS = 30
HEX_DIGITS = 64


class FeatureNetworkError(ValueError):
    """A feature network is not available; the message says which file is needed where."""


@dataclass(frozen=True)
class NetworkFile:
    """`source` is a path or an http(s) URL, `sha256` the file's hash in hexadecimal digits."""

    source: str
    sha256: str

    def __post_init__(self) -> None:
        digits = self.sha256.lower()
        if len(digits) != HEX_DIGITS or set(digits) - set("0123456789abcdef"):
            raise FeatureNetworkError(
                f"sha256={self.sha256!r} is not a hash of {HEX_DIGITS} hexadecimal digits; "
                f"`sha256sum FILE` prints the one of a file you trust"
            )

    @property
    def is_url(self) -> bool:
        return self.source.startswith(("http://", "https://"))

    @property
    def file_name(self) -> str:
        return self.source.rstrip("/").rpartition("/")[2]

    def read(self) -> bytes:
        """The contents, with verified hash; a URL is downloaded once and kept in the cache.

        Raises:
            FeatureNetworkError: if the file is missing, cannot be downloaded, or has another hash.
        """
        path = self._download() if self.is_url else Path(self.source)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise FeatureNetworkError(
                f"the feature network {path} cannot be read: {error.strerror}"
            ) from error
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256.lower():
            raise FeatureNetworkError(
                f"{path} has the sha256 {found}, expected {self.sha256.lower()}; it is damaged or "
                "a different file, and is not loaded, because such a file is code: remove it"
            )
        return data

    def _download(self) -> Path:
        target = cache_folder() / "networks" / self.file_name
        if target.exists():
            return target
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with (
                urllib.request.urlopen(self.source, timeout=DOWNLOAD_TIMEOUT_SECONDS) as response,
                atomic_writer(target) as file,
            ):
                while block := response.read(1 << 20):
                    file.write(block)
        except (OSError, urllib.error.URLError) as error:
            raise FeatureNetworkError(
                f"the feature network {self.source} cannot be downloaded ({error}); on a machine "
                f"with internet fetch {self.file_name} (sha256 {self.sha256}) and place it at "
                f"{target}, or give a copy of it with --network-file; alternatively, "
                "--network efflite0 and --metrics swd need no download"
            ) from error
        return target


def cache_folder() -> Path:
    """The folder of cached downloads and statistics: REALNESS_CACHE, or in the user's cache."""
    if folder := os.environ.get("REALNESS_CACHE"):
        return Path(expand_user(folder))
    return Path(expand_user(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "realness"
