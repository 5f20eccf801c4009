"""Messages suggest commands that can be pasted into a shell and open the same source."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from realness.data_pipeline import DataError, SourceOptions, check_images, open_catalog
from realness.data_pipeline.catalog import Catalog, NameTable
from realness.data_pipeline.decoding.starvation import starvation_remedy
from realness.launch.prepare import main
from tests.helpers import ROOT
from tests.helpers.data_images import encoded, image_files, picture, write_folder, write_tar
from tests.helpers.streams import stream_of

NAMES = (
    "my photos (2024) & co",
    "it's",
    '"$HOME"`id`;',
    "-rf",
    "*",
    "new\nline",
    "caf\udce9'\\ \t",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_shell_reads_back_the_source(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative to its folder, where a name may begin with a dash."""
    write_folder(tmp_path / name, image_files(2, 16))
    monkeypatch.chdir(tmp_path)
    command = open_catalog(name).prepare_command(32)
    assert command.isprintable()
    script = command.replace("python launch/prepare.py", "printf '%s\\0'")
    found = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
    source, *rest = os.fsdecode(found).split("\0")
    assert Path(source) == Path(name)
    assert not source.startswith("-")
    assert rest == ["OUT", "--resolution", "32", ""]


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        (SourceOptions(), []),
        (SourceOptions("tar"), ["--source-kind", "tar"]),
        (SourceOptions(wds_image="jpg,my png"), ["--wds-image", "jpg,my png"]),
        (SourceOptions(follow_links=True), ["--follow-links"]),
    ],
)
def test_the_flags_of_the_source_are_repeated(options: SourceOptions, flags: list[str]) -> None:
    empty = NameTable.of([])
    catalog = Catalog("in", "tar", empty, np.zeros(0, np.int64), reader=None)  # type: ignore[arg-type]
    catalog.flags = options.flags
    words = shlex.split(catalog.prepare_command(64, "--format", "raw"))
    assert words[2:] == ["in", "OUT", "--resolution", "64", *flags, "--format", "raw"]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder that opens only with --source-kind, of images of the wrong size."""
    root = write_folder(tmp_path / "it's mine", image_files(8, 48))
    write_tar(root / "more.tar", image_files(2, 16))
    return root


def suggested(message: str) -> list[str]:
    """The words of the command in a message."""
    found = re.search("`(python launch/prepare.py .*)`", message)
    assert found is not None, message
    return shlex.split(found[1])


def test_the_suggested_command_works(mixed: Path, tmp_path: Path) -> None:
    catalog = open_catalog(mixed, SourceOptions("folder"))
    with pytest.raises(DataError) as error:
        check_images(catalog, 32)
    words = suggested(str(error.value))
    arguments = [str(tmp_path / "out") if word == "OUT" else word for word in words[2:]]
    assert main(arguments) == 0
    check_images(open_catalog(tmp_path / "out"), 32)
    assert suggested(starvation_remedy(catalog, 32, 1))[:-2] == words


def test_a_stream_of_bad_images_suggests_it_too(mixed: Path) -> None:
    catalog = open_catalog(mixed, SourceOptions("folder"))
    stream = stream_of(catalog, resolution=32, global_batch=2, decoder="threads", max_bad_images=1)
    with stream, pytest.raises(DataError) as error:
        next(stream)
    assert suggested(str(error.value)) == shlex.split(catalog.prepare_command(32))


def test_messages_about_images_stay_on_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {"new\nline.png": b"spam", "caf\udce9.png": b"spam", **image_files(4, 32)}
    catalog = open_catalog(write_folder(tmp_path, files))
    with pytest.raises(DataError, match=r"first is caf\\udce9\.png") as error:
        check_images(catalog, 32, max_bad_images=1)
    assert str(error.value).isprintable()
    check_images(catalog, 32, max_bad_images=2)
    assert all(record.getMessage().isprintable() for record in caplog.records)
    assert "new\\nline.png" in caplog.text


def test_pillow_says_nothing_of_damaged_metadata(tmp_path: Path) -> None:
    """An EXIF block that is cut short, which Pillow warns of."""
    block = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0"
    files = {f"{n}.jpg": encoded(picture(n, 32), "JPEG", exif=block) for n in range(3)}
    source = write_folder(tmp_path / "in", files)
    check = (
        "import sys; from realness.data_pipeline import check_images, open_catalog; "
        "check_images(open_catalog(sys.argv[1]), 32)"
    )
    prepare = [str(ROOT / "launch" / "prepare.py"), str(source), str(tmp_path / "out")]
    for arguments in (["-c", check, str(source)], [*prepare, "--resolution", "32"]):
        done = subprocess.run([sys.executable, *arguments], capture_output=True, cwd=ROOT)
        assert done.returncode == 0
        assert not done.stderr
