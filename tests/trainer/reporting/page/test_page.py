"""report.html: self-contained, safe, complete, and written even if a run folder is damaged."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from realness.trainer.config import ClassesConfig, TrainConfig
from realness.trainer.reporting import RunFolderError, load_run, write_grid, write_report
from realness.trainer.storage.scores import Record, append_records
from tests.helpers import ROOT
from tests.helpers.reporting_runs import CONFIG, add_grids, make_run, page_of, records, run_python


def test_page_needs_nothing_else(tmp_path: Path) -> None:
    run = make_run(tmp_path / "faces", records(50, 10016))
    add_grids(run, 3)
    page = page_of(run)
    html = (run / "report.html").read_text()
    assert not re.search(r"@import|url\(|<link|<iframe|fetch\(|XMLHttp", html)
    addresses = [a[k] or "" for _, a in page.elements for k in ("src", "href", "srcset") if k in a]
    assert len(addresses) == 3
    assert all(address.startswith("data:image/jpeg;base64,") for address in addresses)
    policy = page.all("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert (policy["content"] or "").startswith("default-src 'none'; img-src data:;")
    # The SVG name space is the one address a page may name.
    assert set(re.findall(r"https?://[^\"' ]+", html)) == {"http://www.w3.org/2000/svg"}


def test_header_says_what_and_how_far(tmp_path: Path) -> None:
    run = make_run(tmp_path / "faces", records(50, 5024))
    text = re.sub(r"\s+", " ", page_of(run).text)
    for part in ("faces", "demo", "RealnessGAN, 51 outcomes", "1024×1024", "batch of 32"):
        assert part in text
    for part in ("2 ranks", "5,024", "50.2% of 10,016", "380 img/s", "7m00s"):
        assert part in text


def test_configuration_and_environment_are_complete(tmp_path: Path) -> None:
    text = page_of(make_run(tmp_path / "faces", records(5, 160))).text
    for name in ("num_outcomes", "anchor.skew_real", "r1_gamma", "zero_g", "ema_halflife_kimg"):
        assert name in text
    assert "2.13.0" in text


def test_everything_from_outside_is_escaped(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>\"'</script><script>alert(1)</script>"
    stats = [{**record, evil: record["loss_d"]} for record in records(5, 160)]
    run = make_run(tmp_path / "<img src=x onerror=alert(1)>", stats)
    content = json.loads((run / "config.json").read_text())
    content.update({"preset": evil, evil: {evil: evil}, "objective": {"objective": evil}})
    (run / "config.json").write_text(json.dumps(content))
    (run / "environment.json").write_text(json.dumps({evil: [evil], "cpu": evil, "num_ranks": 2}))
    add_grids(run, 2, prefix="<b onclick=alert(1)>-")
    Image.new("RGB", (8, 8)).save(run / "samples" / 'x" onload="alert(1).png')
    page = page_of(run)
    assert 'x" onload="alert(1).png' in [image["alt"] for image in page.all("img")]
    assert len(page.all("script")) == 1
    assert page.all("b")
    assert all(set(a) <= {"class"} for a in page.all("b"))
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    assert all((a["src"] or "").startswith("data:") for a in page.all("img"))
    assert page.text.count(evil) >= 7


def test_a_report_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "faces", records(5, 160))
    before = write_report(run).read_bytes()

    def no_rename(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_rename)
    with pytest.raises(OSError, match="No space left"):
        write_report(run)
    assert (run / "report.html").read_bytes() == before
    assert [path.name for path in run.glob(".*")] == []


# --- classes


def conditional_run(folder: Path, names: tuple[str, ...], counts: tuple[int, ...]) -> Path:
    classes = ClassesConfig(True, counts, names)
    return make_run(folder, records(5, 160), replace(CONFIG, classes=classes))


def class_score(images: int, name: str, value: float) -> Record:
    metric = f"intra-FID/{name}"
    return Record("t", images, images // 32, metric, value, 50, 60, "net", "clean", 0, "d", 1.0)


def test_classes_are_listed_with_their_images_and_newest_scores(tmp_path: Path) -> None:
    run = conditional_run(tmp_path / "run", ("cat", "<b>", "newt"), (400, 100, 0))
    append_records(run, [class_score(80, "cat", 90.5), class_score(160, "cat", 70.25)])
    append_records(run, [class_score(160, "<b>", 33.5)])
    page = page_of(run)
    text = re.sub(r"\s+", " ", page.text)
    assert "Classes 3, 500 images, intra-FID after 160 images of training" in text
    assert "imagesintra-FIDcat40070.25<b>10033.5newt0–" in text
    widths = [a["style"] for a in page.all("div") if "width" in (a.get("style") or "")]
    assert widths[-3:] == ["width:100.0%", "width:25.0%", "width:0.0%"]


def test_many_classes_do_not_bury_the_page(tmp_path: Path) -> None:
    run = conditional_run(tmp_path / "run", (), tuple(range(1, 501)))
    text = page_of(run).text
    assert "Classes the first 100 of 500, 125,250 images" in text
    assert "99100" in text
    assert "100101" not in text
    assert "39, 40, … (500 in all)" in text
    assert "Classes " not in page_of(make_run(tmp_path / "other", records(5, 160))).text


def test_rows_of_sample_grids_are_named(tmp_path: Path) -> None:
    run = conditional_run(tmp_path / "run", ("cat", "naïve <i>"), (1, 1))
    (run / "samples").mkdir()
    write_grid(torch.zeros(4, 3, 8, 8), run / "samples" / "0160.png", 160, ["cat", "naïve <i>"])
    assert "Rows from top to bottom: cat, naïve <i>." in page_of(run).text


# --- states and damage


def test_states(tmp_path: Path) -> None:
    assert load_run(make_run(tmp_path / "a", [])).state == "not started"
    assert load_run(make_run(tmp_path / "b", records(5, 10016))).state == "finished"
    run = make_run(tmp_path / "c", records(5, 9984))
    assert load_run(run).state == "running"
    long_ago = time.time() - 3600
    os.utime(run / "stats.jsonl", (long_ago, long_ago))
    assert load_run(run).state == "interrupted"
    assert "interrupted" in page_of(run).text


@pytest.mark.parametrize(("total_kimg", "batch"), [(10.0, 32), (16640.0, 48), (0.001, 7)])
def test_length_agrees_with_the_trainer(tmp_path: Path, total_kimg: float, batch: int) -> None:
    config = TrainConfig(total_kimg=total_kimg, batch_size=batch)
    assert load_run(make_run(tmp_path / "a", [], config)).total_images == config.num_images


def test_time_is_summed_over_restarts(tmp_path: Path) -> None:
    stats = [{"images": i, "elapsed_s": s} for i, s in enumerate([10, 20, 5, 30, 2])]
    assert load_run(make_run(tmp_path / "a", stats)).seconds == 20 + 30 + 2


def test_damage_is_named_and_the_page_still_comes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "faces", records(5, 160))
    (run / "config.json").write_text('{"preset": ')
    (run / "environment.json").unlink()
    add_grids(run, 2)
    (run / "samples" / "ema-0003.png").write_bytes(b"\x89PNG but not really")
    with open(run / "stats.jsonl", "ab") as file:
        file.write(b'{"images": 99999, "lo')
    page = page_of(run)
    for part in ("config.json cannot be read", "environment.json is missing", "ema-0003.png"):
        assert part in page.text
    assert len(page.all("img")) == 2
    assert len(page.all("figure", "chart")) == 3


@pytest.mark.parametrize("stats", [[], [{"images": 0}], [{"images": 5, "loss_d": None}]])
def test_a_run_with_next_to_nothing(tmp_path: Path, stats: list[dict[str, Any]]) -> None:
    assert "faces" in page_of(make_run(tmp_path / "faces", stats)).text


def test_not_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="does not exist; give the folder of a run"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match=r"neither config\.json nor stats\.jsonl"):
        load_run(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="is a file"):
        load_run(tmp_path / "file")


@pytest.mark.slow
def test_command(tmp_path: Path) -> None:
    run = make_run(tmp_path / "faces", records(5, 160))

    def command(*arguments: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, ROOT / "launch" / "report.py", *arguments]
        return subprocess.run([*map(str, line)], capture_output=True, text=True, timeout=60)

    done = command(run)
    assert (done.returncode, done.stdout) == (0, f"{run / 'report.html'}\n")
    done = command(run, "--out", tmp_path / "page.html")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'page.html'}\n")
    done = command(tmp_path / "nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "does not exist" in done.stderr
    assert done.stderr.count("\n") == 1
    done = command(run, "--out", tmp_path / "no" / "folder.html")
    assert done.returncode == 1
    assert "cannot write the report" in done.stderr


def test_rebuilding_needs_no_torch(tmp_path: Path) -> None:
    run = make_run(tmp_path / "faces", records(5, 160))
    add_grids(run, 1)
    done = run_python(
        "import sys; from pathlib import Path\n"
        "from realness.trainer.reporting import write_report\n"
        "write_report(Path(sys.argv[1]))\n"
        "print([n for n in ('torch', 'matplotlib', 'tensorboard') if n in sys.modules])",
        run,
    )
    assert done.stdout.strip() == "[]", done.stderr
