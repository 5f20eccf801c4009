"""report.html in a real browser: script, sliders and charts work."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from realness.trainer.objectives.anchors import skewnorm_pair
from realness.trainer.reporting import write_comparison, write_report
from realness.trainer.reporting.realness import REALNESS_FILE, Realness, append_realness
from realness.trainer.storage.scores import Record, append_records
from tests.helpers.reporting_runs import add_grids, make_run, records

BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome is on PATH"),
]

WATCH = "window.faults = []; window.onerror = (message) => { window.faults.push(message); };"
# Moves the first slider to its start, points at the first chart, and reports what is shown.
USE = """
const seen = (figure) => [...figure.querySelectorAll(".frame")]
  .filter((frame) => getComputedStyle(frame).display !== "none")
  .map((frame) => frame.dataset.label);
const figures = [...document.querySelectorAll(".frames")];
const before = figures.map(seen);
const slider = figures[0].querySelector("input");
slider.value = 0;
slider.dispatchEvent(new Event("input"));
const chart = document.querySelector(".chart svg");
const box = chart.getBoundingClientRect();
const legend = () => document.querySelector(".chart .legend b").textContent;
const value = legend();
chart.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width * 0.3}));
const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
document.body.dataset.told = JSON.stringify({
  faults: window.faults, before, after: figures.map(seen), value, pointed: legend(), wide,
  charts: [...document.querySelectorAll(".chart > svg")].map((svg) => svg.clientHeight),
});
"""


def full_run(folder: Path, seed: int = 0) -> Path:
    """A run with everything that a report can show."""
    run = make_run(folder, records(50, 5024 + seed))
    add_grids(run, 5)
    anchors = skewnorm_pair(51, 5.0, -5.0)
    for number in range(1, 6):
        share = 0.2 * number
        real = (1 - share) / 51 + share * anchors.real
        fake = (1 - share) / 51 + share * anchors.fake
        lists = [part.tolist() for part in (real, fake, anchors.real, anchors.fake)]
        append_realness(run / REALNESS_FILE, Realness(100 * number, *lists))
    row = Record("t", 1000, 31, "SWD", 30.0 - seed, 64, 64, "", "", 0, "digest", 1.0)
    append_records(run, [row, Record(**{**vars(row), "images": 4000, "value": 12.0})])
    return run


def browse(page: Path, *arguments: str) -> str:
    assert BROWSER is not None
    line = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    profile = f"--user-data-dir={page.parent / 'profile'}"
    done = subprocess.run(
        [*line, profile, "--window-size=1280,2400", *arguments, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def tell(page: Path) -> dict[str, Any]:
    """Open a copy of the page with a script that operates it; returns the script's observations."""
    html = page.read_text()
    html = html.replace("<style>", f"<script>{WATCH}</script><style>", 1)
    html = html.replace("</body>", f"<script>{USE}</script></body>", 1)
    copy = page.with_name("used.html")
    copy.write_text(html)
    told = re.search(r'data-told="([^"]*)"', browse(copy, "--dump-dom"))
    assert told, "the page's script did not come to its end"
    return json.loads(told[1].replace("&quot;", '"'))


def screenshot(page: Path, theme: int) -> np.ndarray:
    """Brightness [H, W] of the page as the browser paints it; theme: 0 dark, 1 light."""
    picture = page.with_suffix(f".{theme}.png")
    browse(page, f"--screenshot={picture}", f"--blink-settings=preferredColorScheme={theme}")
    return np.asarray(Image.open(picture).convert("L"), dtype=float)


def test_a_report_works_in_a_browser(tmp_path: Path) -> None:
    page = write_report(full_run(tmp_path / "faces"))
    told = tell(page)
    assert told["faults"] == []
    last, first = "after 500 images", "after 100 images"
    assert told["before"] == [[last], [last]]
    assert told["after"] == [[first], [first]]
    assert told["pointed"] != told["value"]
    assert min(map(float, told["charts"])) > 100
    assert not told["wide"]
    light, dark = screenshot(page, 1), screenshot(page, 0)
    assert np.median(light) > 200
    assert np.median(dark) < 60
    assert min(light.std(), dark.std()) > 5


def test_several_runs_work_in_a_browser(tmp_path: Path) -> None:
    runs = [full_run(tmp_path / name, seed) for seed, name in enumerate(("one", "two", "three"))]
    page = write_comparison(runs, tmp_path / "comparison.html")
    told = tell(page)
    assert told["faults"] == []
    assert told["before"] == [["after 500 images"]] * 6
    assert told["after"] == [["after 100 images"]] * 6
    assert not told["wide"]
