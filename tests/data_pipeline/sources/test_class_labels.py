"""Classes from folders and from a CSV, and their way through a prepared set."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from realness.data_pipeline import (
    Catalog,
    DataError,
    SourceOptions,
    class_counts,
    describe_classes,
    open_catalog,
)
from realness.launch.prepare import main
from tests.helpers.data_images import write_folder
from tests.helpers.odd_folders import WRITERS, png

ZOO = {"dog/1.png": "dog", "cat/a/1.png": "cat", "cat/2.png": "cat", "emu/1.png": "emu"}


def files(prefix: str = "") -> dict[str, bytes]:
    return {prefix + name: png(number) for number, name in enumerate(ZOO)}


def named(catalog: Catalog) -> dict[str, str]:
    """The class name of each image."""
    assert catalog.labels is not None
    return {
        catalog.name(index): catalog.class_names[int(catalog.labels[index])]
        for index in range(len(catalog))
    }


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("prefix", ["", "train/", "imagenet/train/"])
def test_folders_are_classes(writer: str, prefix: str, tmp_path: Path) -> None:
    source = WRITERS[writer](tmp_path / "set", files(prefix))
    catalog = open_catalog(source, SourceOptions(labels="folders"))
    assert named(catalog) == {prefix + name: label for name, label in ZOO.items()}
    assert catalog.class_names == ("cat", "dog", "emu")
    assert class_counts(catalog) == [2, 1, 1]
    assert catalog.digest != open_catalog(source).digest


def test_folders_that_are_no_classes(tmp_path: Path) -> None:
    options = SourceOptions(labels="folders")
    split = write_folder(tmp_path / "a", files("train/") | files("val/"))
    with pytest.raises(DataError, match="the parts train, val of a set, not classes; give one"):
        open_catalog(split, options)
    loose = write_folder(tmp_path / "b", files() | {"5.png": png(5)})
    with pytest.raises(DataError, match=r"1 of the 5 images.* no folder of a class.* '5.png'"):
        open_catalog(loose, options)
    single = open_catalog(write_folder(tmp_path / "c", {"x/cat/1.png": png(0)}), options)
    assert named(single) == {"x/cat/1.png": "cat"}
    assert describe_classes(single) == "1 class, cat, of all 1 images"


def test_a_csv_names_classes(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "set", files("set/"))
    table = tmp_path / "classes.csv"
    rows = [f"{name},{label}" for name, label in ZOO.items()]
    table.write_text("\n".join(["file,species", *rows, "gone.png,cat"]), encoding="utf-8-sig")
    catalog = open_catalog(source, SourceOptions(labels=str(table)))
    assert named(catalog) == {"set/" + name: label for name, label in ZOO.items()}
    assert catalog.notes == [f"1 rows of {table} name no image of {source}; the first is gone.png"]


def test_a_csv_numbers_classes(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "set", files())
    table = tmp_path / "classes.csv"
    table.write_text("\n".join(f"{name},{3 * len(label) - 5}" for name, label in ZOO.items()))
    catalog = open_catalog(source, SourceOptions(labels=str(table)))
    assert (catalog.num_classes, list(catalog.class_names)) == (5, [])
    assert class_counts(catalog) == [0, 0, 0, 0, 4]
    assert describe_classes(catalog) == (
        "5 classes of 4 images each; 4 without images (class 0, ...)"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("dog/1.png,1\n", "no class for 3 of the 4 images.* the first is 'cat/2.png'"),
        ("dog/1.png,1\ndog/1.png,2\n", "gives 'dog/1.png' the classes 1 and 2"),
        ("dog/1.png,1,2\n", "a row of 3 columns"),
        ("dog/1.png\n", "a row of 1 columns"),
        ('"' + "a" * 200_000, "not a CSV in UTF-8"),
        ("\udcff", "not a CSV in UTF-8"),
    ],
)
def test_a_csv_that_does_not_fit_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "set", files())
    table = tmp_path / "classes.csv"
    table.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=problem):
        open_catalog(source, SourceOptions(labels=str(table)))
    with pytest.raises(DataError, match="give auto, folders, none, or a CSV"):
        open_catalog(source, SourceOptions(labels="folder"))


def test_unequal_classes_are_described() -> None:
    labels = np.repeat(np.arange(4), [100, 90, 2, 110])
    catalog = Catalog("s", "zip", None, labels, None)  # type: ignore[arg-type]
    catalog.names = labels  # type: ignore[assignment]
    catalog.relabel(labels, ("a", "b", "c", "d"))
    assert describe_classes(catalog) == (
        "4 classes of 2 (c) to 110 (d) images; 1 of them rare, with less than 1/10 of the median"
    )


def test_a_prepared_set_keeps_classes_and_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_folder(tmp_path / "set", files())
    out = tmp_path / "out"
    size = ("--resolution", "16")
    assert main([str(source), str(out), *size, "--labels", "folders"]) == 0
    assert "3 classes of 1 (dog) to 2 (cat) images" in capsys.readouterr().out
    catalog = open_catalog(out)
    assert named(catalog) == ZOO
    assert named(open_catalog(out, SourceOptions(labels="folders"))) == ZOO
    assert open_catalog(out, SourceOptions(labels="none")).num_classes == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["class_names"] == ["cat", "dog", "emu"]
    manifest["class_names"] = ["cat", 3]
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert list(open_catalog(out).class_names) == []


@pytest.mark.parametrize("pickled", [False, True])
def test_names_of_cifar(pickled: bool, tmp_path: Path) -> None:
    names = [f"name{number}" for number in range(10)]
    record = bytes([9]) + bytes(3072)
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(record)
    if pickled:
        content = pickle.dumps({b"label_names": [name.encode() for name in names]})
        (tmp_path / "batches.meta").write_bytes(content)
    else:
        (tmp_path / "batches.meta.txt").write_text("\n".join([*names, "", ""]))
    assert list(open_catalog(tmp_path).class_names) == names
    (tmp_path / "batches.meta").write_bytes(b"damaged")
    (tmp_path / "batches.meta.txt").unlink(missing_ok=True)
    assert list(open_catalog(tmp_path).class_names) == []
