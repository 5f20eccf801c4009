"""realness.jsonl, its figure, and the page of several runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from realness.launch import report
from realness.trainer.config import TrainConfig
from realness.trainer.reporting import Reporter, RunFolderError, load_run, write_comparison
from realness.trainer.reporting.page.distributions import draw_distributions
from realness.trainer.reporting.page.html import render
from realness.trainer.reporting.page.panels import compared_panels, panels
from realness.trainer.reporting.realness import (
    REALNESS_FILE,
    Realness,
    append_realness,
    read_realness,
)
from realness.trainer.storage.scores import Record, append_records
from tests.helpers.reporting_runs import (
    Page,
    add_grids,
    captured_console,
    make_run,
    records,
    run_python,
)


def moment(images: int, share: float = 0.5) -> Realness:
    return Realness(images, [1 - share, share], [share, 1 - share], [0.25, 0.75], [0.75, 0.25])


def test_distributions_come_back_and_what_is_none_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / REALNESS_FILE
    for item in (moment(200, 0.75), moment(100)):
        append_realness(path, item)
    good = json.loads(path.read_text().splitlines()[0])
    for change in (
        {"real": [0.5, 0.6]}, {"real": [1.5, -0.5]}, {"a0": None}, {"fake": "11"},
        {"images": "x"}, {"real": [0.2, 0.3, 0.5]}, {"real": [None, 1]},
    ):  # fmt: skip
        with path.open("a") as file:
            file.write(json.dumps({**good, **change}) + "\n")
    with path.open("a") as file:
        file.write('{"images": 300, "re')
    assert read_realness(path) == [moment(100), moment(200, 0.75)]
    assert read_realness(tmp_path / "nowhere.jsonl") == []


def test_what_a_killed_run_recorded_past_its_checkpoint_goes(tmp_path: Path) -> None:
    console, _ = captured_console()
    first = Reporter(tmp_path, total_images=1000, console=console)
    for images in (100, 200, 300):
        first.save_realness(moment(images))
    first.close()
    Reporter(tmp_path, total_images=1000, start_images=200, console=console).close()
    assert [item.images for item in read_realness(tmp_path / REALNESS_FILE)] == [100, 200]


def test_the_figure_has_a_frame_a_moment_and_both_anchors() -> None:
    assert draw_distributions([], "nothing") == ""
    page = Page(draw_distributions([moment(100, 0.25), moment(200, 1.0)], "one & two"))
    frames = page.all("g", "frame")
    assert [frame["data-images"] for frame in frames] == ["100", "200"]
    assert ["hidden" in frame for frame in frames] == [True, False]
    for css in ("anchor anchor1", "anchor anchor0", "line real", "line fake"):
        assert len(page.all("path", css)) == 2
    (slider,) = page.all("input")
    assert (slider["max"], slider["value"]) == ("1", "1")
    # The highest share, 1, is drawn near the top; half of it half way up.
    heights = [
        float((p["d"] or "").split()[1].split("H")[0]) for p in page.all("path", "line real")
    ]
    assert heights[1] > heights[0]


def test_scores_are_drawn_by_metric_and_setting(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [{**r, "metric_SWD": 5.0} for r in records(3, 5000)])
    row = Record("t", 1000, 31, "SWD", 30.0, 64, 64, "", "", 0, "digest", 1.0)
    rows = [row, Record(**{**vars(row), "metric": "SWD-64", "value": 40.0})]
    rows += [Record(**{**vars(row), "images": 9000, "value": 12.0})]
    fid = {**vars(row), "metric": "FID", "network": "inception", "resize": "clean"}
    rows += [Record(**fid), Record(**{**fid, "num_images": 50_000, "value": 8.0})]
    rows += [Record(**{**fid, "metric": "KID-sd"})]
    append_records(run, rows)
    drawn = {panel.title: panel for panel in panels(load_run(run))}
    assert [series.label for series in drawn["SWD"].series] == ["SWD", "SWD-64"]
    assert (drawn["SWD"].series[0].x, drawn["SWD"].series[0].y) == ([1000, 9000], [30.0, 12.0])
    assert "64 generated" in drawn["SWD"].note
    assert [series.y for series in drawn["FID"].series] == [[30.0], [8.0]]
    assert "50,000 generated" in drawn["FID"].series[1].label
    assert not {"metric_SWD", "KID-sd"} & set(drawn)
    # The axis extends to the measurement after the last record.
    assert ">8k<" in "".join(render(load_run(run)))


def test_a_damaged_metrics_file_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", records(3, 160))
    (run / "metrics.csv").write_bytes(b"\x80\x04spam,eggs\n1,2\n")
    found = load_run(run)
    assert found.scores == []
    assert any("metrics.csv" in problem for problem in found.problems)


# --- several runs


def two_runs(folder: Path) -> list[Path]:
    runs = []
    for name, batch in (("one", 32), ("two", 64)):
        config = TrainConfig(preset="demo", total_kimg=10.0, batch_size=batch)
        runs.append(make_run(folder / name, records(20, 5000), config))
        add_grids(runs[-1], 3)
        append_realness(runs[-1] / REALNESS_FILE, moment(100))
    return runs


def test_several_runs_are_drawn_over_each_other(tmp_path: Path) -> None:
    runs = two_runs(tmp_path)
    loaded = [load_run(run) for run in runs]
    drawn = {panel.title: panel for panel in compared_panels(loaded, ["one", "two"])}
    assert [series.label for series in drawn["Losses: D"].series] == ["one", "two"]
    assert [series.colour for series in drawn["Losses: G"].series] == ["r0", "r1"]
    page = Page(write_comparison(runs, tmp_path / "page.html").read_text())
    assert len(page.all("figure", "frames")) == 4
    assert "batch_size" in page.text
    assert "ema_halflife_kimg" not in page.text
    assert "finished" not in page.text


def test_runs_of_one_name_are_told_apart_and_texts_are_escaped(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    runs = [make_run(tmp_path / name / evil, records(3, 160)) for name in ("a", "b")]
    page = Page(write_comparison(runs, tmp_path / "page.html").read_text())
    assert str(runs[0]) in page.text
    assert page.all("img") == []
    with pytest.raises(RunFolderError, match="9 runs are too many"):
        write_comparison([runs[0]] * 9, tmp_path / "page.html")


def test_the_command_takes_several_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = two_runs(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert report.main([*map(str, runs)]) == 0
    assert capsys.readouterr().out == "comparison.html\n"
    assert "2 runs" in (tmp_path / "comparison.html").read_text()
    assert report.main([str(runs[0]), str(tmp_path / "nowhere")]) == 2
    assert report.main([]) == 2
    assert "at least one run" in capsys.readouterr().err


def test_comparing_needs_no_torch(tmp_path: Path) -> None:
    done = run_python(
        "import sys; from pathlib import Path\n"
        "from realness.trainer.reporting import write_comparison\n"
        "write_comparison([Path(item) for item in sys.argv[1:]], Path(sys.argv[1]) / 'page.html')\n"
        "print([n for n in ('torch', 'matplotlib', 'tensorboard') if n in sys.modules])",
        *two_runs(tmp_path),
    )
    assert done.stdout.strip() == "[]", done.stderr
