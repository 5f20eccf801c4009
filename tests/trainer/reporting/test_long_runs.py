"""Long runs: memory stays flat, and the report bounded."""

from __future__ import annotations

import gc
import io
import json
import shutil
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image
from rich.console import Console

from realness.trainer.reporting import Reporter, write_report
from realness.trainer.reporting.page import previews, runs
from realness.trainer.reporting.page.runs import load_run
from realness.trainer.reporting.realness import Realness, append_realness, read_realness
from realness.trainer.reporting.stats import Thinned
from tests.helpers.reporting_runs import add_grids, make_run, page_of, records

KIB = 2**10


@pytest.mark.slow
def test_memory_stays_flat_over_grids_records_and_reports(tmp_path: Path) -> None:
    """Resident memory rises by less than 20 KiB for each grid, record, score and report."""
    warm_up, rounds = 60, 150
    run = make_run(tmp_path / "run", [])
    console = Console(file=io.StringIO())
    reporter = Reporter(run, total_images=10**6, console=console)
    random = torch.Generator().manual_seed(0)
    shares = [0.02] * 50
    used = []
    for number in range(1, warm_up + rounds + 1):
        images = 100 * number
        interval = {"loss_d": 1.0, "loss_g": 2.0, "img_per_s": 300.0, "elapsed_s": float(number)}
        reporter.log({"images": images, **interval})
        reporter.log_scores(images, {"SWD": 1.0 / number}, 1.0)
        # Noise: the JPEG of such a grid takes about 50 KiB.
        grid = 2 * torch.rand(16, 3, 64, 64, generator=random) - 1
        reporter.save_grid(grid, f"{images:012d}", images_seen=images)
        reporter.save_realness(Realness(images, shares, shares, shares, shares))
        assert reporter.write_report() is not None
        if number in (warm_up, warm_up + rounds):
            gc.collect()
            used.append(psutil.Process().memory_info().rss)
    reporter.close()
    assert used[1] - used[0] < 20 * KIB * rounds


def test_previews_in_memory_are_those_on_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", records(5, 160))
    for count in (10, 100):
        add_grids(run, count)
        page = page_of(run)
        inside = [path for path in previews._jpegs if path.is_relative_to(run)]
        assert len(inside) == len(page.all("img")) <= previews.MAX_FRAMES


def test_frames_that_did_not_fit_are_not_encoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", records(5, 160))
    add_grids(run, 16)
    frames = next(iter(load_run(run).grids.values()))
    encoded: list[Path] = []
    encode = previews._jpeg
    monkeypatch.setattr(previews, "_jpeg", lambda path: encoded.append(path) or encode(path))
    first = previews.embed(frames, 48, 1)
    encoded.clear()
    assert previews.embed(frames, 48, 1) == first
    assert encoded == []


def test_2000_grids_make_no_larger_a_page_than_the_maximum(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", records(5, 160))
    (run / "samples").mkdir()
    picture = tmp_path / "picture.png"
    Image.effect_noise((64, 64), 50).convert("RGB").save(picture)
    sizes = {}
    for count in (10, 2000):
        for number in range(count):
            shutil.copyfile(picture, run / "samples" / f"{number:012d}.png")
        page = page_of(run)
        sizes[count] = len((run / "report.html").read_bytes())
        assert min(count, previews.MAX_FRAMES // 2) <= len(page.all("img"))
        assert len(page.all("img")) <= previews.MAX_FRAMES
    assert sizes[2000] < previews.MAX_FRAMES / 10 * sizes[10]


def test_100_000_records_make_no_larger_a_page_than_the_points_of_its_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {}
    for count in (100, 10_000, 100_000):
        run = make_run(tmp_path / str(count), records(count, 1_000_000))
        sizes[count] = len(write_report(run).read_bytes())
    assert sizes[100_000] < 1.02 * sizes[10_000]
    assert sizes[100_000] < 5 * sizes[100]


def test_records_are_thinned_evenly_each_kind_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "MAX_RECORDS", 8)
    made: list[dict[str, float]] = []
    for images in range(1, 101):
        made.append({"images": images, "loss_d": 1.0})
        if images % 50 == 0:
            made.append({"images": images, "metrics_s": 2.0})
    kept = load_run(make_run(tmp_path / "run", made)).records
    losses = [record["images"] for record in kept if "loss_d" in record]
    assert losses == [*range(1, 101, 8), 100]
    assert [record["images"] for record in kept if "metrics_s" in record] == [50, 100]


@pytest.mark.parametrize("count", range(40))
def test_thinning_one_at_a_time_is_even_and_keeps_both_ends(count: int) -> None:
    thinned: Thinned[int] = Thinned(8)
    for number in range(count):
        thinned.add(number)
    step = next(step for step in (1, 2, 4, 8) if len(range(0, count, step)) <= 8)
    assert thinned.items() == sorted({*range(0, count, step), *range(count)[-1:]})


def test_many_distributions_are_thinned(tmp_path: Path) -> None:
    for images in range(1000):
        append_realness(tmp_path / "r", Realness(images, *[[0.5, 0.5]] * 4))
    found = [item.images for item in read_realness(tmp_path / "r")]
    assert found == [*range(0, 1000, 8), 999]


def test_many_problems_are_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", records(5, 160))
    (run / "samples").mkdir()
    for number in range(100):
        (run / "samples" / f"{number}.png").write_text("no picture")
    assert "And 80 more problems" in page_of(run).text
    assert json.loads((run / "config.json").read_text())
