"""Errors of the machine are never taken for bad images: they are waited out, or end the work."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from realness.data_pipeline import (
    BadImage,
    DataError,
    MachineError,
    check_images,
    check_shards,
    machine,
    open_catalog,
)
from realness.data_pipeline.prepare import prepare as pack
from realness.data_pipeline.prepare.convert import Conversion
from realness.data_pipeline.prepare.prepare import prepare
from realness.data_pipeline.sources.descriptors import Descriptors
from tests.helpers import ROOT
from tests.helpers.data_images import image_files, write_folder, write_tar, write_zip
from tests.helpers.machine_errors import fail
from tests.helpers.streams import stream_of

NUM_SHARDS = 60
PASSING = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ENOMEM, errno.ETIMEDOUT)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PAUSES", (0.0,) * 5)
    monkeypatch.setattr(machine, "_logged", set())


def write_shards(folder: Path, count: int = NUM_SHARDS) -> Path:
    """`count` tars of two PNGs each."""
    folder.mkdir()
    files = list(image_files(2 * count, 16, "PNG").items())
    for shard in range(count):
        write_tar(folder / f"{shard:05d}.tar", dict(files[2 * shard : 2 * shard + 2]))
    return folder


def write_source(kind: str, folder: Path, files: dict[str, bytes]) -> Path:
    """The files as a source of a kind, named `in`."""
    if kind == "zip":
        return write_zip(folder / "in.zip", files)
    if kind == "tar":
        return write_tar(folder / "in.tar", files)
    if kind == "folder":
        return write_folder(folder / "in", files)
    return prepare(write_folder(folder / "files", files), folder / "in", Conversion(16)).out


# --- descriptors


def limited(
    code: str, soft: int, hard: int, *arguments: object
) -> subprocess.CompletedProcess[str]:
    """Runs code under a limit of open files."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
    )


PREPARE = "import sys\nfrom realness.launch.prepare import main\nsys.exit(main(sys.argv[1:]))"
TRAIN = """
import sys, torch
from pathlib import Path
from realness.data_pipeline import BatchShare, ImageStream, StreamSettings
from realness.data_pipeline import check_images, open_catalog
catalog = open_catalog(Path(sys.argv[1]))
check_images(catalog, 16, max_bad_images=0)
settings = StreamSettings(16, False, decoder="threads", max_bad_images=0)
with ImageStream(catalog, settings, BatchShare(20), seed=1, purpose=1) as stream:
    seen = [index for _ in range(6) for index in (next(stream), stream.indices)[1].tolist()]
assert sorted(seen) == list(range(len(catalog))), seen
"""


@pytest.mark.slow
@pytest.mark.parametrize(("soft", "hard"), [(40, 40), (40, 400)])
def test_more_shards_than_descriptors(tmp_path: Path, soft: int, hard: int) -> None:
    source = write_shards(tmp_path / "in")
    done = limited(PREPARE, soft, hard, source, tmp_path / "out", "--resolution", 16)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "rejects.csv").read_text() == "name,reason\n"
    assert len(open_catalog(tmp_path / "out")) == 2 * NUM_SHARDS
    done = limited(TRAIN, soft, hard, source)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_more_parts_than_descriptors_are_refused_with_the_number(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", image_files(40, 16))
    arguments = (tmp_path / "in", tmp_path / "out", "--resolution", 16, "--parts", 30)
    done = limited(PREPARE, 40, 40, *arguments)
    assert done.returncode == 2
    assert "use --parts 20 or fewer" in done.stderr
    assert limited(PREPARE, 40, 100, *arguments).returncode == 0


def test_descriptors_are_bounded_and_never_mixed_up(tmp_path: Path) -> None:
    """Each file holds its own number, so a descriptor closed under a reader would show."""
    paths = [tmp_path / str(number) for number in range(30)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 1000)
    descriptors = Descriptors(paths, most=3)
    most = 0

    def read(draw: int) -> bool:
        nonlocal most
        number = draw * 7 % 30
        data = descriptors.read(number, 700, 100)
        most = max(most, descriptors.num_open)
        return data == bytes([number]) * 700

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(3000)))
    assert descriptors.num_open <= 3
    assert most <= 3
    assert descriptors.read(2, 5000, 990) == bytes([2]) * 10
    descriptors.close()
    assert descriptors.num_open == 0
    assert not [link for link in Path("/proc/self/fd").iterdir() if _target(link) in paths]


def _target(link: Path) -> Path | None:
    try:
        return link.readlink()
    except FileNotFoundError:
        return None


def test_reader_gets_by_with_fewer_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once others have used up the descriptors, half of the reader's are closed and reused."""
    paths = [tmp_path / str(number) for number in range(9)]
    for path in paths:
        path.write_bytes(b"x")
    descriptors = Descriptors(paths)
    for number in range(8):
        descriptors.read(number, 1, 0)
    fail(monkeypatch, "open", errno.EMFILE, str(paths[8]))
    assert descriptors.read(8, 1, 0) == b"x"
    assert descriptors.num_open == 4
    descriptors.close()


def test_a_stale_handle_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server's handle stays stale for good once the file has been replaced."""
    path = write_tar(tmp_path / "in.tar", image_files(2, 16))
    catalog = open_catalog(path)
    whole = catalog.read(0)
    real, stale = os.pread, set[int]()

    def pread(descriptor: int, length: int, offset: int) -> bytes:
        if not stale:
            stale.add(descriptor)
        if descriptor in stale:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(descriptor, length, offset)

    def reopened(path: Path, flags: int) -> int:
        descriptor = real_open(path, flags)
        os.dup2(descriptor, 900)
        os.close(descriptor)
        return 900

    real_open = os.open
    monkeypatch.setattr(os, "pread", pread)
    monkeypatch.setattr(os, "open", reopened)
    assert catalog.read(0) == whole
    monkeypatch.undo()
    catalog.close()


# --- errors that pass and errors that last


@pytest.mark.parametrize("number", PASSING)
@pytest.mark.parametrize("kind", ["folder", "tar", "zip", "prepared"])
def test_an_error_that_passes_costs_no_image(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    number: int,
) -> None:
    files = image_files(6, 16, "PNG")
    source = {
        "folder": lambda: write_folder(tmp_path / "in", files),
        "tar": lambda: write_tar(tmp_path / "in.tar", files),
        "zip": lambda: write_zip(tmp_path / "in.zip", files),
        "prepared": lambda: (
            prepare(write_folder(tmp_path / "files", files), tmp_path / "in", Conversion(16)).out
        ),
    }[kind]()
    catalog = open_catalog(source)
    part = "img00003" if kind == "folder" else str(source)
    failures = fail(monkeypatch, "open", number, part, times=2)
    failures += fail(monkeypatch, "pread", number, part, times=2)
    check_shards(catalog)
    check_images(catalog, 16, max_bad_images=0)
    assert sorted(map(catalog.read, range(6))) == sorted(files.values()) or kind == "prepared"
    assert catalog.num_bad_images == 0
    assert caplog.text.count(os.strerror(number)) == 1  # said once
    monkeypatch.undo()
    assert len(failures) <= 4


@pytest.mark.parametrize(
    ("kind", "module", "name"),
    [("folder", os, "scandir"), ("zip", zipfile, "ZipFile"), ("prepared", np, "load")],
)
def test_opening_a_source_is_repeated_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, module: object, name: str
) -> None:
    source = write_source(kind, tmp_path, image_files(4, 16, "PNG"))
    real, failures = getattr(module, name), [1, 1]

    def faulty(*arguments: object, **options: object) -> object:
        if failures and failures.pop():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, faulty)
    assert len(open_catalog(source)) == 4
    assert not failures
    failures += [1] * 100
    with pytest.raises(MachineError, match=r"in.* cannot be read: Input/output error; check"):
        open_catalog(source)


@pytest.mark.parametrize("times", [6, float("inf")])
def test_an_error_that_lasts_ends_prepare_and_the_same_command_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: float
) -> None:
    write_folder(tmp_path / "in", image_files(9, 16, "PNG"))
    with monkeypatch.context() as patch:
        fail(patch, "pread", errno.EIO, "img00005", times)
        with pytest.raises(MachineError, match=r"img00005.*Input/output error.*dmesg.*continues"):
            prepare(tmp_path / "in", tmp_path / "out", Conversion(16))
    assert not (tmp_path / "out").exists()
    report = prepare(tmp_path / "in", tmp_path / "out", Conversion(16))
    assert (report.num_images, report.num_rejected) == (9, 0)


def test_an_error_that_lasts_ends_training_without_advice_to_prepare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = open_catalog(write_shards(tmp_path / "in", 4))
    stream = stream_of(catalog, resolution=16, global_batch=8, decoder="threads")
    next(stream)
    catalog.close()
    fail(monkeypatch, "open", errno.EMFILE, "00002.tar", float("inf"))
    expected = pytest.raises(MachineError, match=r"Too many open files.*ulimit -n")
    with stream, expected as failed:
        [next(stream) for _ in range(4)]
    assert isinstance(failed.value, DataError)
    assert "prepare" not in str(failed.value)
    assert stream.num_bad_images == 0


def test_a_file_that_was_readable_is_not_bad_when_permission_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = open_catalog(write_folder(tmp_path, image_files(3, 16)))
    catalog.read(1)
    fail(monkeypatch, "open", errno.EACCES, "img", float("inf"))
    with pytest.raises(MachineError, match=r"img00001.*Permission denied.*restore the permission"):
        catalog.read(1)
    with pytest.raises(BadImage, match="cannot be read: Permission denied"):
        catalog.read(2)


def test_a_folder_that_is_gone_is_no_matter_of_its_images(tmp_path: Path) -> None:
    files = image_files(3, 16)
    catalog = open_catalog(write_folder(tmp_path / "in", files))
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    with pytest.raises(MachineError, match=r"in cannot be read: No such file.*is mounted"):
        catalog.read(0)
    (tmp_path / "in").mkdir()  # as a mount point is left behind
    with pytest.raises(MachineError, match="is mounted"):
        catalog.read(0)


def test_lack_of_memory_is_no_bad_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_folder(tmp_path / "in", image_files(4, 16, "PNG"))
    load, failures = Image.Image.tobytes, [1, 1]

    def short(image: Image.Image, *arguments: object) -> bytes:
        if failures and failures.pop():
            raise MemoryError
        return load(image, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "tobytes", short)
    stream = stream_of(open_catalog(source), resolution=16, global_batch=4, decoder="threads")
    with stream:
        next(stream)
        assert stream.num_bad_images == 0
    assert not failures
    monkeypatch.setattr(pack, "convert", lambda *_: np.empty(2**50))
    with pytest.raises(MachineError, match=r"out of memory; use fewer threads"):
        prepare(source, tmp_path / "out", Conversion(16))


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "is full"), (errno.EIO, "cannot be written: Input/output error")],
)
def test_writing_that_fails_ends_with_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    source = write_folder(tmp_path / "in", image_files(4, 16))

    def faulty(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", faulty)
    with pytest.raises(MachineError, match=rf"out.*{words}.*run the same command again"):
        prepare(source, tmp_path / "out", Conversion(16))


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL])
def test_what_one_path_is_like_is_not_of_the_machine(number: int) -> None:
    calls = []

    def work() -> None:
        calls.append(1)
        raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=os.strerror(number)):
        machine.patiently(work, "x")
    assert len(calls) == 1


def test_the_limit_of_the_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    error = machine.machine_error(OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "a.tar")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert f"now {limit:,}" in str(error)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(MachineError):
        machine.patiently(lambda: (_ for _ in ()).throw(full), "x")


def test_parts_of_a_read_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server may return fewer bytes than asked for; only the end of the file returns 0."""
    (tmp_path / "x").write_bytes(bytes(range(200)))
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, at: real(fd, min(count, 7), at))
    with (tmp_path / "x").open("rb") as file:
        assert machine.read_fully(file.fileno(), 100, 30) == bytes(range(30, 130))
        assert machine.read_fully(file.fileno(), 100, 150) == bytes(range(150, 200))
