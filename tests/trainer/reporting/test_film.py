"""Films of runs: which grids they show, in which order, and D's distributions next to them."""

from __future__ import annotations

import re
from pathlib import Path

import av
import pytest
import torch
from PIL import Image

from realness.launch import film as command
from realness.trainer.reporting import RunFolderError, load_run, write_grid
from realness.trainer.reporting.film import CAPTION, COLOURS, FILLED, MARGIN, film
from realness.trainer.reporting.grid import SAMPLES_FOLDER
from realness.trainer.reporting.realness import REALNESS_FILE, Realness, append_realness
from tests.helpers.reporting_runs import make_run, records

LEVELS = range(-8, 9, 2)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Nine grids of one grey level each, from black to white, and real images."""
    folder = make_run(tmp_path / "run", records(9, 9000))
    (folder / SAMPLES_FOLDER).mkdir()
    for number, level in enumerate(LEVELS, start=1):
        grid = torch.full((4, 3, 32, 32), level / 8)
        write_grid(grid, folder / SAMPLES_FOLDER / f"{number * 1000:012d}.png", number * 1000)
    write_grid(torch.zeros(4, 3, 32, 32), folder / SAMPLES_FOLDER / "reals.png", 0)
    return folder


def add_distributions(run: Path) -> None:
    for number in range(1, 10):
        real, fake = [0.1, 0.2, 0.7], [0.7, 0.2, 0.1]
        moment = Realness(number * 1000, real, fake, a1=[0.0, 0.4, 0.6], a0=[0.6, 0.4, 0.0])
        append_realness(run / REALNESS_FILE, moment)


def grey_levels(frames: list[Image.Image]) -> list[object]:
    return [frame.getpixel((MARGIN + 5, CAPTION + 5)) for frame in frames]


def test_all_grids_are_shown_in_order(run: Path) -> None:
    frames = list(film(load_run(run), 200))
    expected = [round((level / 8 + 1) * 127.5) for level in LEVELS]
    assert grey_levels(frames) == [(level, level, level) for level in expected]
    assert len({frame.size for frame in frames}) == 1
    assert all(side % 2 == 0 for side in frames[0].size)


def test_long_runs_are_thinned_evenly(run: Path) -> None:
    whole = grey_levels(list(film(load_run(run), 200)))
    assert grey_levels(list(film(load_run(run), 5))) == whole[::2]


def test_distributions_and_anchors_are_drawn_beside_the_grid(run: Path) -> None:
    """The outline of real images is above anchor A1 at the last outcome, and below it before."""
    narrow = next(iter(film(load_run(run), 1)))
    add_distributions(run)
    frame = next(iter(film(load_run(run), 1)))
    assert frame.width > 1.8 * narrow.width
    panel = frame.crop((narrow.width, CAPTION, frame.width - MARGIN, frame.height - MARGIN))
    colours = {colour for _, colour in panel.getcolors(panel.width * panel.height) or []}
    for wanted in [*COLOURS.values(), *FILLED.values()]:
        assert tuple(bytes.fromhex(wanted[1:])) in colours


@pytest.mark.parametrize("animation", ["gif", "mp4"])
def test_the_command_writes_the_film(
    run: Path, animation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    add_distributions(run)
    assert command.main([str(run), "--animation", animation]) == 0
    path = run / f"film.{animation}"
    assert capsys.readouterr().out.strip() == str(path)
    if animation == "gif":
        with Image.open(path) as image:
            # The last frame is shown for two seconds; equal neighbours are merged by Pillow.
            image.seek(8)
            assert image.info["duration"] >= 2000
    else:
        with av.open(path) as video:
            assert sum(1 for _ in video.decode(video=0)) == 8 + 2000 // 250


def test_what_cannot_be_filmed_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(tmp_path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert command.main([str(run), "--frame-ms", "5"]) == 2
    assert "--frame-ms=5" in capsys.readouterr().err
    for path in (run / SAMPLES_FOLDER).glob("0*.png"):
        path.unlink()
    with pytest.raises(RunFolderError, match=re.escape("no sample grids yet")):
        list(film(load_run(run), 5))
