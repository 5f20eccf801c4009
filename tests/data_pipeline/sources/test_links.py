"""Symbolic links that leave a folder are refused, or followed with --follow-links."""

from __future__ import annotations

from pathlib import Path

import pytest

from realness.data_pipeline import Catalog, DataError, SourceOptions, open_catalog
from realness.launch.prepare import main
from tests.helpers.data_images import write_folder
from tests.helpers.odd_folders import jpeg, png


def names(catalog: Catalog) -> list[str]:
    return [catalog.name(index) for index in range(len(catalog))]


def followed(path: Path) -> Catalog:
    return open_catalog(path, SourceOptions(follow_links=True))


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A subset made of links to files elsewhere, as caches and file managers make it."""
    store = write_folder(tmp_path / "store", {"0f": png(0), "1a.png": png(1), "2b.txt": b""})
    root = tmp_path / "linked"
    root.mkdir()
    for link, target in (("a.png", "0f"), ("b", "1a.png"), ("c.txt", "2b.txt"), ("d.jpg", "gone")):
        (root / link).symlink_to(store / target)
    return root


def test_a_set_of_links_names_the_remedy(linked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"no images in .*: 3 refused .* \(--follow-links takes"):
        open_catalog(linked)
    catalog = followed(linked)
    assert names(catalog) == ["a.png", "b"]
    assert catalog.read(0) == png(0)
    assert catalog.refused == [("d.jpg", "it is a symbolic link whose target does not exist")]
    assert dict(catalog.others) == {".txt": 1}
    arguments = [str(linked), str(linked.parent / "out"), "--resolution", "32"]
    assert main(arguments) == 2
    assert "--follow-links" in capsys.readouterr().err
    assert main([*arguments, "--follow-links"]) == 0


def test_links_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.png": png(0)})
    for link, target in (("b", "gone"), ("c.png", "c.png"), ("d.png", "a.png/x")):
        (tmp_path / link).symlink_to(tmp_path / target)
    assert open_catalog(tmp_path).refused == [
        ("b", "it is a symbolic link whose target does not exist"),
        ("c.png", "it is a symbolic link that leads back to itself"),
        ("d.png", "it is a symbolic link that cannot be followed (Not a directory)"),
    ]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    """Not in circles, and not to what is found under another name, in a fixed order."""
    elsewhere = write_folder(tmp_path / "elsewhere", {"x.png": png(0), "deep/y.png": png(1)})
    root = write_folder(tmp_path / "root", {"a.png": png(2), "sub/b.png": png(3)})
    (root / "again").symlink_to(root / "sub")
    (root / "more").symlink_to(elsewhere)
    (root / "most").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    (elsewhere / "up").symlink_to(tmp_path)
    write_folder(tmp_path, {"top.png": png(4)})
    expected = ["a.png", "more/deep/y.png", "more/up/top.png", "more/x.png", "sub/b.png"]
    assert names(followed(root)) == expected
    catalog = open_catalog(root)
    assert names(catalog) == ["a.png", "sub/b.png"]
    assert [name for name, _ in catalog.refused] == ["more", "most"]


def test_a_link_into_a_hidden_folder_of_the_set_is_followed(tmp_path: Path) -> None:
    """As git-annex and package managers store files; nothing else finds what lies there."""
    root = write_folder(
        tmp_path, {".store/v1/a.png": png(0), ".store/k1": jpeg(1), "c.png": png(2)}
    )
    (root / "current").symlink_to(root / ".store" / "v1")
    (root / "b.jpg").symlink_to(root / ".store" / "k1")
    catalog = open_catalog(root)
    assert names(catalog) == ["b.jpg", "c.png", "current/a.png"]
    assert dict(catalog.hidden) == {".store": 2}
