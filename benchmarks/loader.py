"""Measure the data path against others: `python benchmarks/loader.py [--data SOURCE]`.

For 256 and 1024 pixels, stored as PNG, JPEG (quality 95, 4:4:4) and raw, on the same images in one
run: images/s, CPU-ms per image over all processes of the loader, memory (PSS); with --device cuda,
into the device's memory. Each case runs in a fresh process. Rounds are interleaved and the least
CPU time counts, so that load on the machine affects all cases alike. Writes
benchmarks/results/loader.csv and loader.png and prints a table.

Without --data the images are synthetic: coloured noise with the 1/f spectrum of photographs (Field,
1987), from a fixed seed, so that anyone can repeat the run without a data set.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from loader_candidates import LOADERS, Case, Figures
from PIL import Image

from realness.data_pipeline import open_catalog
from realness.data_pipeline.prepare.convert import Conversion
from realness.data_pipeline.prepare.prepare import prepare

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FORMATS = ("jpeg", "png", "raw")
NEEDS = {
    "ours, DALI": "nvidia.dali",
    "webdataset": "webdataset",
    "mosaicml-streaming": "streaming",
}
APPLIES = {
    "ours, DALI": {"jpeg", "png"},
    "DataLoader + Pillow": {"jpeg", "png"},
    "DataLoader + simplejpeg": {"jpeg"},
    "DataLoader + memory copy": {"raw"},
}


def make_images(folder: Path, count: int, side: int) -> Path:
    """`count` PNG files of coloured 1/f noise, side x side."""
    folder.mkdir()
    frequencies = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    frequencies[0, 0] = 1
    rng = np.random.default_rng(0)
    for number in range(count):
        noise = rng.standard_normal((3, side, side))
        shared = noise[:1] + 0.3 * noise  # photographs vary less in colour than in brightness
        fields = np.fft.irfft2(np.fft.rfft2(shared) / frequencies**1.2, (side, side))
        fields = 128 + 50 * (fields - fields.mean()) / fields.std()
        pixels = np.clip(fields, 0, 255).astype(np.uint8).transpose(1, 2, 0)
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{number:04d}.png")
    return folder


def make_sets(source: str, work: Path, resolutions: list[int]) -> dict[tuple[int, str], Path]:
    """The images prepared in every format, and for each set a folder with its images as files."""
    sets: dict[tuple[int, str], Path] = {}
    for resolution in resolutions:
        for image_format in FORMATS:
            out = work / f"{resolution}-{image_format}"
            prepare(source, out, Conversion(resolution, format=image_format))
            catalog = open_catalog(out)
            files = out.with_name(out.name + "-files")
            files.mkdir()
            for index in range(len(catalog)):
                (files / f"{index:06d}.{image_format}").write_bytes(catalog.read(index))
            sets[resolution, image_format] = out
    return sets


def available(loader: str, image_format: str) -> bool:
    """Whether a loader is installed and supports the format."""
    if image_format not in APPLIES.get(loader, FORMATS):
        return False
    module = NEEDS.get(loader, "numpy")
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def run_case(case: Case) -> Figures:
    """Measures one case in a fresh process."""
    script = Path(__file__).with_name("loader_candidates.py")
    command = [sys.executable, str(script), json.dumps(asdict(case))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{case.loader} failed:\n{result.stderr[-2000:]}")
    return Figures(**json.loads(result.stdout.strip().splitlines()[-1]))


def compare(
    packed: Path, resolution: int, image_format: str, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row per loader, for one set; ratio: its CPU-ms over the bare decoder's."""
    loaders = [name for name in LOADERS if available(name, image_format)]
    rounds: dict[str, list[Figures]] = {name: [] for name in loaders}
    for _ in range(options.rounds):
        for name in loaders:
            case = Case(
                name, str(packed), f"{packed}-files", resolution, image_format,
                options.batch, options.threads, options.seconds, options.device,
            )  # fmt: skip
            rounds[name].append(run_case(case))
    catalog = open_catalog(packed)
    bare = min(figures.cpu_ms for figures in rounds["bare decoder"])
    rows = []
    for name, figures in rounds.items():
        cpu_ms = min(one.cpu_ms for one in figures)
        rows.append(
            {
                "resolution": resolution,
                "format": image_format,
                "loader": name,
                "img_per_s": round(max(one.img_per_s for one in figures), 1),
                "cpu_ms_per_image": round(cpu_ms, 3),
                "ratio_to_bare_decoder": round(cpu_ms / bare, 3),
                "pss_mib": round(max(one.rss_mib for one in figures)),
                "kib_per_image": round(float(np.mean(catalog.lengths)) / 1024, 1),
                "num_images": len(catalog),
            }
        )
    return rows


def provenance(options: argparse.Namespace) -> dict[str, Any]:
    """The origin of a row, needed to compare it with rows of another day."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    versions = {}
    packages = ("torch", "pillow", "simplejpeg", "nvidia-dali-cuda130")
    for package in (*packages, "webdataset", "mosaicml-streaming"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = ""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit,
        "cpu": cpu_name(),
        "device": options.device,
        "threads": options.threads,
        "batch": options.batch,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[1], 1),  # above the number of cores: others ran too
        "data": Path(options.data).name if options.data else "made (1/f noise)",
        "python": platform.python_version(),
        **versions,
    }


def cpu_name() -> str:
    """The processor's name, as the kernel reports it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes the rows, replacing those of an earlier run."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_plot(path: Path, rows: list[dict[str, Any]], origin: dict[str, Any]) -> None:
    """Draws CPU-ms per image, with one panel per resolution and format."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels = list(dict.fromkeys((row["resolution"], row["format"]) for row in rows))
    num_rows = len({resolution for resolution, _ in panels})
    figure, axes = plt.subplots(
        num_rows, len(panels) // num_rows, figsize=(13, 2.9 * num_rows), squeeze=False
    )
    for axis, (resolution, image_format) in zip(axes.flat, panels, strict=True):
        chosen = [r for r in rows if (r["resolution"], r["format"]) == (resolution, image_format)]
        values = [row["cpu_ms_per_image"] for row in chosen]
        colours = ["#2a6f97" if r["loader"].startswith("ours") else "#b0b7bf" for r in chosen]
        bars = axis.barh([row["loader"] for row in chosen], values, color=colours)
        axis.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.18)
        axis.set_title(f"{resolution} px, {image_format}", fontsize=10)
        axis.set_xlabel("CPU-ms per image (less is better)", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    memory = {"cpu": "main memory", "cuda": "a GPU's memory"}[origin["device"]]
    figure.suptitle(
        f"{origin['data']}, {rows[0]['num_images']} images; {origin['threads']} threads or workers "
        f"on {origin['cores']} cores of {origin['cpu']}, into {memory}, {origin['date']}; "
        "the least of the rounds",
        fontsize=9,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def goals(rows: list[dict[str, Any]], device: str) -> list[str]:
    """Goals for JPEG at 1024 and the measured values; empty if it was not measured."""
    found = {r["loader"]: r for r in rows if (r["resolution"], r["format"]) == (1024, "jpeg")}
    lines = []
    for name in [name for name in found if name.startswith("ours")]:
        row, pillow = found[name], found["DataLoader + Pillow"]
        fewer = pillow["cpu_ms_per_image"] / row["cpu_ms_per_image"]
        lines += [
            f"{name}: {row['ratio_to_bare_decoder']:.2f}x the bare decoder's CPU-ms (goal: 1.15)",
            f"{name}: {fewer:.1f} times fewer CPU-ms than DataLoader + Pillow (goal: 2.5)",
        ]
        if device == "cuda":
            lines.append(f"{name}: {row['img_per_s']:,.0f} images/s (goal: 1,200 with 16 cores)")
    return [f"JPEG at 1024, {line}" for line in lines]


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints the rows as a table."""
    from rich.console import Console
    from rich.table import Table

    columns = ("resolution", "format", "loader", "img_per_s", "cpu_ms_per_image",
               "ratio_to_bare_decoder", "pss_mib", "kib_per_image")  # fmt: skip
    table = Table(*columns)
    for row in rows:
        table.add_row(*(str(row[column]) for column in columns))
    Console(width=130).print(table)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", help="images to use (any source); default: synthetic")
    parser.add_argument("--count", type=int, default=48, help="number of synthetic images")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[256, 1024])
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=cores, help="threads or worker processes")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=4.0, help="timed part of a case")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="destination of the batches"
    )
    parser.add_argument(
        "--name", default="loader", help="name of the files under benchmarks/results"
    )
    return parser.parse_args()


def main() -> None:
    """Runs the whole comparison."""
    options = parse_options()
    with tempfile.TemporaryDirectory(prefix="realness-loader-") as folder:
        work = Path(folder)
        source = options.data
        if source is None:
            source = str(make_images(work / "images", options.count, max(options.resolutions)))
        sets = make_sets(source, work, options.resolutions)
        rows: list[dict[str, Any]] = []
        for (resolution, image_format), packed in sets.items():
            rows += compare(packed, resolution, image_format, options)
            print(f"{resolution} {image_format}: done", file=sys.stderr)
    RESULTS.mkdir(exist_ok=True)
    origin = provenance(options)
    write_csv(RESULTS / f"{options.name}.csv", [row | origin for row in rows])
    write_plot(RESULTS / f"{options.name}.png", rows, origin)
    print_table(rows)
    for line in goals(rows, options.device):
        print(line)


if __name__ == "__main__":
    main()
