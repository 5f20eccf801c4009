"""Run folders and consoles for the reporting tests."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from realness.trainer.config import TrainConfig, to_json
from realness.trainer.reporting import write_grid, write_report

CONFIG = TrainConfig(preset="demo", total_kimg=10.0, batch_size=32, run_dir="runs/faces")


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter."""
    command = [sys.executable, "-c", code, *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def captured_console() -> tuple[Console, io.StringIO]:
    """A console that is not a terminal, and its output."""
    text = io.StringIO()
    return Console(file=text, soft_wrap=True, highlight=False), text


def records(num_records: int, last_images: int) -> list[dict[str, Any]]:
    """Smooth, known curves: loss_d falls from 6 to 5, loss_g is its mirror image."""
    made = []
    for index in range(1, num_records + 1):
        share = index / num_records
        loss = 5 + math.exp(-5 * share)
        made.append(
            {
                "images": round(last_images * share),
                "loss_d": loss,
                "loss_g": -loss,
                "score_real": 1 - share,
                "score_fake": share - 1,
                "img_per_s": 380.0,
                "elapsed_s": 420 * share,
                "eta_s": 420 * (1 - share),
            }
        )
    return made


def make_run(folder: Path, stats: list[dict[str, Any]], config: TrainConfig = CONFIG) -> Path:
    """A run folder with a configuration, an environment and `stats`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(to_json(config))
    (folder / "environment.json").write_text(json.dumps({"torch": "2.13.0", "num_ranks": 2}))
    (folder / "stats.jsonl").write_text("".join(json.dumps(record) + "\n" for record in stats))
    return folder


def add_grids(run: Path, count: int, side: int = 16, prefix: str = "ema-") -> list[Path]:
    """`count` grids of noise, one per 100 images of training."""
    (run / "samples").mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    paths = []
    for index in range(1, count + 1):
        images = torch.rand(4, 3, side, side, generator=generator) * 2 - 1
        paths.append(run / "samples" / f"{prefix}{index:04d}.png")
        write_grid(images, paths[-1], images_seen=100 * index)
    return paths


VOID = {"meta", "img", "input", "br"}


class Page(HTMLParser):
    """A parsed page: its elements with attributes and text; fails if tags do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if not {"script", "style"} & set(self._open) else ""

    def all(self, tag: str, css_class: str = "") -> list[dict[str, str | None]]:
        return [
            attributes
            for name, attributes in self.elements
            if name == tag
            and set(css_class.split()) <= set((attributes.get("class") or "").split())
        ]


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))
