"""benchmarks/p2gan_ablations.py: its commands, what it reads from runs, its page, a tiny run."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from realness.launch.train_arguments import parse
from realness.trainer.config import flatten
from tests.helpers import ROOT


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("p2gan_ablations")


def test_arms_differ_only_in_what_they_leave_out(bench: ModuleType) -> None:
    found = {}
    for run in bench.runs(Path("images.zip"), bench.ARMS, 1, 200.0):
        settings = flatten(parse(run.command(Path("work"))[2:]).config)
        assert (settings["total_kimg"], settings["seed"]) == (200, 0)
        found[run.arm] = settings
    full = found.pop("full")
    assert full["pretrain_kimg"] == pytest.approx(33)
    changed = {
        arm: {
            name: value
            for name, value in settings.items()
            if value != full[name] and name != "run_dir"
        }
        for arm, settings in found.items()
    }
    assert changed == {
        "w/o P": {"pretrain_kimg": 0},
        "w/o L": {"code_weight": 0},
        "w/o M": {"posterior_modules": False},
        "w/o Z": {"code_source": "noise"},
        "w/o P, Z": {"pretrain_kimg": 0, "code_source": "noise"},
        "w/o M, L": {"posterior_modules": False, "code_weight": 0},
    }
    folders = [run.folder(Path()) for run in bench.runs(Path("z"), bench.ARMS, 2, 1.0)]
    assert len(set(folders)) == 2 * len(bench.ARMS)


def write_run(folder: Path, m_c: list[float], swd: list[float]) -> None:
    """Records of M_c and scores at equal distances over 100 images."""
    folder.mkdir(parents=True)
    records = [
        {"images": 100 * (k + 1) // len(m_c), "convergence": value} for k, value in enumerate(m_c)
    ]
    lines = [json.dumps(record) + "\n" for record in (*records, {"images": 100, "note": 1})]
    (folder / "stats.jsonl").write_text("".join(lines))
    scores = [f"{100 * (k + 1) // len(swd)},SWD,{value},raw\n" for k, value in enumerate(swd)]
    (folder / "metrics.csv").write_text("images,metric,value,weights\n" + "".join(scores))


def test_the_page_of_runs_made_up(bench: ModuleType, tmp_path: Path) -> None:
    """The full method falls smoothly from 10; the other goes up and down around 10."""
    rows = []
    for run in bench.runs(Path("z"), ["full", "w/o P"], 2, 0.1):
        falling = np.linspace(10, 5, 20) + run.seed / 100
        m_c = falling if run.arm == "full" else 10 + (-1.0) ** np.arange(20)
        write_run(run.folder(tmp_path), m_c.tolist(), [30.0 + run.seed, 20.0 + run.seed])
        rows += bench.rows_of(run, run.folder(tmp_path))
    assert len(rows) == 4 * (20 + 2)
    # Records at 5, 10, ... 100 images; 16.5 are pretraining, and 58.25 is the middle of the rest.
    early, late = bench.halves(rows, "full")
    records = np.linspace(10, 5, 20)
    assert early[0] == pytest.approx(records[3:11].mean(), rel=1e-3)
    assert late[0] == pytest.approx(records[11:].mean(), rel=1e-3)
    assert bench.roughness(rows, "w/o P").tolist() == pytest.approx([2 / late_mean(10)] * 2)
    text = bench.page(rows)
    assert "**supported**: Fig. 6: M_c keeps falling with all parts" in text
    assert "**supported**: Fig. 7: M_c is smoother with all parts than w/o P" in text
    assert "**open**: Table 5, FID 31.1 to 35.8: the lowest SWD is lower" in text
    assert "| full | 2 | 0.1 |" in text
    bench.draw(tmp_path / "figure.png", bench.panels(rows), bench.COLOURS)
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > image.height > 200


def late_mean(centre: float) -> float:
    """The mean of centre + 1 and - 1 in turn, over the 17 records after pretraining."""
    return centre + sum((-1.0) ** k for k in range(3, 20)) / 17


@pytest.mark.slow
def test_a_tiny_run(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One arm for two batches, scored with few images; the same command then trains nothing."""
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for k in range(40):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{k}.png")
    monkeypatch.setattr(bench, "NUM_SAMPLES", 40)
    monkeypatch.setattr(bench, "NUM_SCORES", 1)
    words = ["--cifar", str(images), "--arms", "w/o Z", "--kimg", "0.064", "--seeds", "1"]
    words += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert bench.main(words) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "p2gan_ablations.csv", "p2gan_ablations.md", "p2gan_ablations.png",
    ]  # fmt: skip
    assert (tmp_path / "work" / "w-o-z-seed0" / "metrics.csv").exists()
