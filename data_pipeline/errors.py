"""The errors of the data path."""

from __future__ import annotations


class DataError(ValueError):
    """The data set cannot be used as it is; the message names the value and how to fix it."""


class MachineError(DataError):
    """A disk, a file server, a limit or the memory failed, whatever the images are like."""


class BadImage(ValueError):
    """One image cannot be used; the message says why. A stream replaces such an image."""
