"""WebDataset's shards: one picture per sample, chosen by its extension."""

from __future__ import annotations

from pathlib import Path

import pytest

from realness.data_pipeline import Catalog, DataError, SourceOptions, open_catalog
from realness.launch.prepare import main
from tests.helpers.data_images import write_folder, write_tar
from tests.helpers.odd_folders import jpeg, png


def names(catalog: Catalog) -> list[str]:
    return [catalog.name(index) for index in range(len(catalog))]


def chosen(path: Path, wds_image: str) -> Catalog:
    return open_catalog(path, SourceOptions(wds_image=wds_image))


def with_masks(path: Path, first: int = 0, count: int = 4) -> Path:
    """A photograph, a mask, a depth map and metadata per sample."""
    files: dict[str, bytes] = {}
    for number in range(first, first + count):
        files |= {f"{number:03d}.jpg": jpeg(number), f"{number:03d}.seg.png": png(number)}
        files |= {f"{number:03d}.depth.PNG": png(number), f"{number:03d}.json": b"{}"}
        files |= {f"{number:03d}.cls": b"%d" % (number % 2)}
    return write_tar(path, files)


def test_masks_are_refused_without_a_choice(tmp_path: Path) -> None:
    path = with_masks(tmp_path / "set.tar")
    with pytest.raises(DataError) as error:
        open_catalog(path)
    assert "4 of the 4 samples" in str(error.value)
    assert "extensions depth.png (4), jpg (4), seg.png (4)" in str(error.value)
    assert "--wds-image" in str(error.value)


def test_the_chosen_extension_is_taken(tmp_path: Path) -> None:
    """From all shards, with the labels of the samples; the others are counted."""
    (tmp_path / "set").mkdir()
    with_masks(tmp_path / "set" / "0.tar")
    with_masks(tmp_path / "set" / "1.tar", 4)
    catalog = chosen(tmp_path / "set", "jpg")
    shard_of = {number: number // 4 for number in range(8)}
    assert names(catalog) == [f"{shard_of[n]}.tar/{n:03d}.jpg" for n in range(8)]
    assert [catalog.label(index) for index in range(8)] == [0, 1] * 4
    skipped = {"not chosen: seg.png": 8, "not chosen: depth.png": 8}
    assert dict(catalog.others) == {".json": 8, ".cls": 8, **skipped}
    assert len(chosen(tmp_path / "set", "all")) == 24
    assert len(chosen(tmp_path / "set", ".JPG, depth.png")) == 16
    with pytest.raises(DataError, match=r"--wds-image=webp takes none .* depth\.png \(8\), jpg"):
        chosen(tmp_path / "set", "webp")


def test_prepare_takes_the_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(with_masks(tmp_path / "set.tar")), str(tmp_path / "out"), "--resolution", "32"]
    assert main(arguments) == 2
    assert "--wds-image" in capsys.readouterr().err
    assert main([*arguments, "--wds-image", "jpg"]) == 0
    assert names(open_catalog(tmp_path / "out")) == [f"{number:03d}.jpg" for number in range(4)]


@pytest.mark.parametrize(
    "stored",
    [
        [f"{n}.{'jpg' if n % 2 else 'png'}" for n in range(6)],
        [f"a/{n}.jpg" for n in range(3)] + [f"b/{n}.png" for n in range(3)],
        [f"{animal}.{n}.jpg" for animal in ("cat", "dog") for n in range(20)],
        [f"{year}.{month:02d}.{day:02d}.jpg"
         for year in (2019, 2020) for month in range(1, 4) for day in range(1, 9)],
    ],
    ids=["either", "folders", "numbered", "dates"],
)  # fmt: skip
def test_plain_photographs_need_no_choice(stored: list[str], tmp_path: Path) -> None:
    catalog = open_catalog(write_tar(tmp_path / "set.tar", dict.fromkeys(stored, png(0))))
    assert names(catalog) == stored
    assert catalog.notes == []


def test_stray_copies_are_taken_and_said(tmp_path: Path) -> None:
    stored = [f"{number}.jpg" for number in range(200)] + ["7.jpg.1"]
    catalog = open_catalog(write_tar(tmp_path / "set.tar", dict.fromkeys(stored, jpeg(0))))
    assert names(catalog) == stored
    (note,) = catalog.notes
    assert "1 of the 200 samples" in note
    assert "jpg (200), jpg.1 (1); all are taken" in note


def test_a_choice_without_effect_is_said(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.jpg": jpeg(0), "a.seg.png": png(0)})
    catalog = chosen(tmp_path, "jpg")
    assert len(catalog) == 2
    assert "--wds-image=jpg has no effect" in catalog.notes[0]
