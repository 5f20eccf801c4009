"""--impl holds for everything that a training process computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from realness.kernels import library
from tests.helpers.ranks import run_command, tiny_arguments, write_images


def forbid_the_library() -> None:
    """Any call that the compiled library could serve fails."""

    def status(*_: Any) -> Any:
        raise AssertionError("the compiled library was asked for")

    library.status = status  # type: ignore[assignment]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), 16)


@pytest.mark.parametrize("dry", [False, True])
def test_the_reference_does_without_the_library(dry: bool, data: Path, tmp_path: Path) -> None:
    """Networks, draws, losses, penalties, samples and, in a dry run, the estimates."""
    arguments = tiny_arguments(data, tmp_path / "run", "--total-kimg", "0.016", "--device", "cpu")
    arguments += ["--r1-gamma", "1", *(["--dry-run"] if dry else [])]
    assert run_command([*arguments, "--impl", "reference"], forbid_the_library) == 0
    # The same command uses the library if it may.
    with pytest.raises(AssertionError, match="process ended with 1"):
        run_command([*arguments, "--impl", "auto"], forbid_the_library)
