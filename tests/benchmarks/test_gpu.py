"""benchmarks/gpu.py: the whole chain on a CPU, limits, and what a summary says."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT


@pytest.fixture(scope="module", autouse=True)
def _scripts() -> Iterator[None]:
    """The benchmarks import each other as scripts do."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.mark.slow
def test_the_whole_chain_on_a_cpu(tmp_path: Path) -> None:
    """Every stage passes at tiny sizes, and leaves what it should in the one archive."""
    out = tmp_path / "gpu"
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", "cpu"]
    result = subprocess.run(
        [*command, "--out", str(out)], capture_output=True, text=True, check=False
    )
    records = json.loads((out / "stages.json").read_text())
    logs = {name: (out / f"{name}.log").read_text()[-3000:] for name in records}
    assert {name: r["code"] for name, r in records.items()} == dict.fromkeys(records, 0), logs
    assert result.returncode == 0, result.stderr
    names = ["kernels-ready", "probe", "tests", "steps", "kernels", "failures", "sanitizers"]
    assert list(records) == [*names, "counters", "compile", "run"]
    with tarfile.open(tmp_path / "gpu.tar.gz") as archive:
        held = {name.removeprefix("gpu/") for name in archive.getnames()}
    assert held >= {*(f"{name}.log" for name in records), "kernels.csv", "train_step.csv"}
    assert held >= {"traces/DCGAN-1/bf16.json.gz", "traces/DCGAN-1/bf16.txt", "summary.txt"}
    assert held >= {"real_run.jsonl", "real_run.json", "real_run.png"}
    assert not any(name.startswith(("images", "run/")) for name in held)
    text = (tmp_path / "gpu.txt").read_text()
    assert text == (out / "summary.txt").read_text()
    assert "DCGAN 32, bf16: " in text
    assert "killed after" in logs["run"]
    # All have passed: nothing is left to do.
    again = subprocess.run(
        [*command, "--out", str(out)], capture_output=True, text=True, check=True
    )
    assert "==" not in again.stdout


def test_a_failure_stops_nothing_and_time_is_limited(tmp_path: Path) -> None:
    import gpu
    from gpu_stages import Command, Place, Stage

    place = Place(tmp_path, dry=False)
    commands = tuple(
        Command(("-c", f"import time; {code}")) for code in ("print(1)", "raise ValueError('bad')")
    )
    record = gpu.run_stage(Stage("wrong", 60, (*commands, commands[0])), place, 60)
    assert record["code"] == 1
    assert (tmp_path / "wrong.log").read_text().splitlines()[-1] == "1"
    endless = Command(("-c", "import time; time.sleep(60)"))
    assert gpu.run_stage(Stage("long", 60, (endless, *commands)), place, 0.5)["code"] == 124
    missing = Command((), under=("no-such-program",))
    record = gpu.run_stage(Stage("missing", 60, (missing,)), place, 60)
    assert record == record | {"code": 127, "last": "no-such-program is not installed here"}


def test_stages_are_chosen_by_name_and_by_what_has_passed(tmp_path: Path) -> None:
    from gpu import chosen
    from gpu_stages import GROUPS, Place, stages

    known = stages(Place(tmp_path, dry=False))
    assert [stage.name for stage in known] == [name for group in GROUPS.values() for name in group]
    # Two calls of ten minutes on a machine that is lent for a while, if kernels are carried there.
    for group in ("first", "second"):
        limits = [stage.seconds for stage in known if stage.name in GROUPS[group]]
        assert sum(limits) - 300 * (group == "first") <= 570

    def names(*wanted: str, **codes: int) -> list[str]:
        records = {name: {"code": code} for name, code in codes.items()}
        return [stage.name for stage in chosen(list(wanted), known, records)]

    assert names(probe=0, tests=1)[:2] == ["kernels-ready", "tests"]
    assert set(names()) == {*GROUPS["first"], *GROUPS["second"]}
    assert names("run", "probe", probe=0) == ["probe", "run"]
    assert names("second") == list(GROUPS["second"])
    with pytest.raises(SystemExit, match="no stage is called steep; there are first, "):
        names("steep")


def test_a_summary_fits_a_screen(tmp_path: Path) -> None:
    from gpu_summary import summary

    columns = ("op", "shape", "dtype", "layout", "pass", "impl", "median_ms", "share_of_copy")
    with (tmp_path / "kernels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for op in range(30):
            for impl, ms, share in (("eager", 9, 0.1), ("ours", 2 + op % 2, 0.8)):
                case = (f"op{op // 2} one", op % 2, "bf16", "contiguous", "forward")
                writer.writerow((*case, impl, ms, share))
    records = {f"stage{i}": {"code": i % 3, "seconds": 9.0, "last": 200 * "x"} for i in range(14)}
    records["late"] = {"code": None, "seconds": 0.0, "last": "not reached"}
    lines = summary(tmp_path, records).splitlines()
    assert len(lines) <= 35
    assert max(map(len, lines)) <= 100
    assert "late          not reached after 0 s" in lines
    # The worst of both shapes counts.
    assert "op0 bf16: at least 80 % of a copy's bandwidth, 3.0 x eager" in lines
    assert lines[-1] == "... 5 more in the archive"
