"""The report's curves show the logged numbers; its grids are thinned evenly."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from realness.trainer.reporting import load_run
from realness.trainer.reporting.page.charts import compact, reduce, ticks
from realness.trainer.reporting.page.panels import Series
from realness.trainer.reporting.page.previews import MAX_SIDE, embed, thin
from realness.trainer.reporting.page.runs import Frame
from tests.helpers.reporting_runs import Page, add_grids, make_run, page_of, records


def curve_points(page: Page, chart: int, curve: int) -> np.ndarray:
    """[n, 2]: (images, value) of a drawn line, from its SVG path and its axis' frame."""
    paths = [
        attributes["d"] or ""
        for _, attributes in _elements_of_chart(page, chart)
        if (attributes.get("class") or "").startswith("line ") and attributes["d"]
    ]
    figure = page.all("figure", "chart")[chart]
    left, width, top, height, x_end, low, high = json.loads(figure["data-chart"] or "")["frame"]
    drawn = np.array([[float(v) for v in p.split()] for p in re.split("[ML]", paths[curve])[1:]])
    images = (drawn[:, 0] - left) / width * x_end
    return np.stack([images, high - (drawn[:, 1] - top) / height * (high - low)], axis=1)


def _elements_of_chart(page: Page, chart: int) -> list[tuple[str, dict[str, str | None]]]:
    starts = [
        i for i, (tag, a) in enumerate(page.elements) if tag == "figure" and "data-chart" in a
    ]
    return page.elements[starts[chart] : [*starts, len(page.elements)][chart + 1]]


def test_curves_are_the_logged_numbers(tmp_path: Path) -> None:
    stats = records(50, 10016)
    page = page_of(make_run(tmp_path / "faces", stats))
    for curve, key in enumerate(("loss_d", "loss_g")):
        points = curve_points(page, 0, curve)
        expected = np.array([[record["images"], record[key]] for record in stats])
        # The drawing is rounded to 0.1 of its 464 x 188 units.
        assert np.abs(points - expected).max(axis=0) == pytest.approx([0, 0], abs=12)
        assert np.abs(points[:, 1] - expected[:, 1]).max() < 0.01


def test_what_is_not_finite_is_a_gap(tmp_path: Path) -> None:
    stats: list[dict[str, Any]] = records(20, 10016)
    stats[7]["loss_d"] = None
    page = page_of(make_run(tmp_path / "faces", stats))
    path = next(a["d"] or "" for _, a in _elements_of_chart(page, 0) if a.get("class") == "line d")
    assert [len(part.split("L")) for part in path.split("M")[1:]] == [7, 12]


def test_a_spike_does_not_flatten_the_rest(tmp_path: Path) -> None:
    stats = records(200, 10016)
    stats[3]["loss_d"] = 1e6
    page = page_of(make_run(tmp_path / "faces", stats))
    frame = json.loads(page.all("figure", "chart")[0]["data-chart"] or "")["frame"]
    assert -8 < frame[5] < -5.9
    assert 5.9 < frame[6] < 8
    assert "Beyond the axis: 1M." in page.text


def test_what_is_off_gets_no_chart(tmp_path: Path) -> None:
    stats = [{**record, "r1": 0, "lr_g": 2e-4, "own": 1.5} for record in records(5, 160)]
    page = page_of(make_run(tmp_path / "faces", stats))
    labels = [a["aria-label"] for a in page.all("svg") if "aria-label" in a]
    assert labels == [
        "Losses over images: D, G",
        "Scores over images: real, fake",
        "Throughput over images: img/s",
        "own over images: own",
    ]


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=700),
    st.integers(2, 300),
)
def test_reduction_keeps_extremes_and_the_mean(values: list[float], max_points: int) -> None:
    x = [64.0 * (index + 1) for index in range(len(values))]
    curve = reduce(Series("a", "a", x, list(values)), max_points)
    assert len(curve.x) <= max(max_points, 1)
    assert curve.low.min() == min(values)
    assert curve.high.max() == max(values)
    assert (curve.low <= curve.mean + 1e-6).all()
    assert (curve.mean <= curve.high + 1e-6).all()
    assert (np.diff(curve.x) > 0).all()


def test_reduction_averages_equal_stretches() -> None:
    values = list(np.random.default_rng(0).normal(size=1000))
    curve = reduce(Series("a", "a", [*range(1000)], values), max_points=100)
    assert curve.mean == pytest.approx(np.reshape(values, (100, 10)).mean(axis=1))


@given(st.floats(-1e7, 1e7), st.floats(1e-4, 1e7), st.integers(2, 10))
def test_ticks_are_round_and_inside(low: float, span: float, count: int) -> None:
    found = ticks(low, low + span, count)
    slack = 1e-6 * (abs(low) + span)
    assert all(low - slack <= tick <= low + span + slack for tick in found)
    assert len(found) <= count + 1
    if len(found) > 1:
        digits = f"{found[1] - found[0]:.3e}".split("e")[0]
        assert float(digits) == pytest.approx(round(float(digits))) or span < 1e-8 * abs(low)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0, "0"), (0.25, "0.25"), (-1.5, "−1.5"), (500, "500"), (12_000, "12k")],
        *[(1.5e6, "1.5M"), (2e-4, "2e-4"), (-3e-5, "−3e-5")],
    ],
)
def test_axis_labels(value: float, text: str) -> None:
    assert compact(value) == text


# --- grids over time


@given(st.integers(1, 500), st.integers(2, 64))
def test_thinning_is_even_and_keeps_both_ends(count: int, limit: int) -> None:
    frames = [Frame(Path(f"{i}.png"), i) for i in range(count)]
    chosen = [frame.images_seen or 0 for frame in thin(frames, limit)]
    assert len(chosen) <= limit
    assert (chosen[0], chosen[-1]) == (0, count - 1)
    gaps = set(np.diff(chosen[:-1]).tolist())
    assert len(gaps) <= 1
    assert len(chosen) == count or len(chosen) > limit // 2


def test_previews_are_small_whatever_was_written(tmp_path: Path) -> None:
    run = make_run(tmp_path / "faces", [])
    noise = np.random.default_rng(0).integers(0, 256, (1200, 3000, 3), dtype=np.uint8)
    (run / "samples").mkdir()
    for index in range(9):
        Image.fromarray(noise).save(run / "samples" / f"ema-{index}.png", compress_level=0)
    frames = load_run(run).grids["ema"]

    def decoded(max_bytes: int) -> list[bytes]:
        found = embed(frames, limit=9, max_bytes=max_bytes)
        assert found[-1][0] is frames[-1]
        return [data for _, data in found]

    data = decoded(2**40)
    assert len(data) == 9
    # 9 previews do not fit, nor do 5; every fourth frame makes 3.
    assert len(decoded(9 * len(data[0]) // 2)) == 3
    assert len(decoded(1)) == 1
    with Image.open(io.BytesIO(data[0])) as image:
        assert image.size == (MAX_SIDE, round(MAX_SIDE * 1200 / 3000))


def test_slider_runs_over_a_series_in_order(tmp_path: Path) -> None:
    run = make_run(tmp_path / "faces", records(5, 160))
    add_grids(run, 12, prefix="")
    add_grids(run, 1, prefix="reals")
    page = page_of(run)
    images = page.all("img")
    assert [image["alt"] for image in images[:12]] == [
        f"after {100 * index:,} images" for index in range(1, 13)
    ]
    assert ["hidden" in image for image in images] == [True] * 11 + [False, False]
    slider = page.all("input")
    assert len(slider) == 1
    assert (slider[0]["max"], slider[0]["value"]) == ("11", "11")
    assert len(page.all("button")) == 1
    assert "samples" in page.text
    assert "reals" in page.text
