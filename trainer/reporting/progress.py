"""The progress line: redrawn in place on a terminal, otherwise printed every few seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_LINE_SECONDS = 5.0
SEPARATOR = "  "

Record = Mapping[str, float]


def duration(seconds: float) -> str:
    """A duration in human-readable form: 42s, 7m05s, 3h20m, 2d04h."""
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def amount(images: float, total: float) -> str:
    """Images and their total, in kimg if the total is large: `820 / 2,000 images`."""
    if total < 100_000:
        return f"{images:,.0f} / {total:,.0f} images"
    return f"{images / 1000:,.1f} / {total / 1000:,.0f} kimg"


def fields(record: Record, total_images: int) -> list[str]:
    """The parts of the progress line, most important first; missing values are omitted."""

    def part(text: Callable[..., str], *keys: str) -> str | None:
        return text(*(record[key] for key in keys)) if all(key in record for key in keys) else None

    images = record.get("images", 0)
    memory = "gpu_memory_gib" if record.get("gpu_memory_gib") else "memory_gib"
    parts = [
        f"{amount(images, total_images)} ({100 * images / max(1, total_images):.1f}%)",
        part(lambda rate: f"{rate:.3g} img/s" if rate < 100 else f"{rate:.0f} img/s", "img_per_s"),
        part(lambda eta: f"ETA {duration(eta)}", "eta_s"),
        part(lambda d, g: f"loss D {d:.3f} G {g:.3f}", "loss_d", "loss_g"),
        part(lambda r, f: f"score real {r:+.2f} fake {f:+.2f}", "score_real", "score_fake"),
        part(lambda r1: f"R1 {r1:.3g}" if r1 else "", "r1"),
        part(lambda p: f"augment p {p:.3f}", "augment_p"),
        part(lambda side, share: f"side {side:.0f} ({share:.0%})", "side", "side_share"),
        part(lambda r_t: f"r_t {r_t:+.2f}", "r_t"),
        part(lambda gib: f"{gib:.1f} GiB", memory),
        part(lambda percent: f"data wait {percent:.1f}%", "data_wait_percent"),
        part(lambda bad: f"{bad:.0f} bad images" if bad else "", "bad_images"),
    ]
    return [text for text in parts if text]


class ProgressLine:
    """One line with the state of training, and messages above it."""

    def __init__(self, total_images: int, console: Console | None = None) -> None:
        """console: where to print, by default standard output."""
        self.total_images = total_images
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._printed_at = -math.inf
        self._unprinted = ""

    def update(self, record: Record) -> None:
        """Show a record. Without a terminal, print it unless a line was printed recently."""
        texts = fields(record, self.total_images)
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._redraw(texts)
            return
        self._unprinted = SEPARATOR.join(texts)
        if time.monotonic() - self._printed_at >= PLAIN_LINE_SECONDS:
            self._print_plain()

    def working(self, text: str) -> None:
        """Show what the program does instead of training. Else print it at intervals."""
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._redraw([text])
        elif time.monotonic() - self._printed_at >= PLAIN_LINE_SECONDS:
            self._unprinted = text
            self._print_plain()

    def message(self, text: str, style: str = "") -> None:
        """Print a line above the progress line; markup in `text` is not interpreted."""
        self._console.print(Text(text, style=style), soft_wrap=True)

    def close(self) -> None:
        """Leave the last state on its own line."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._unprinted:
            self._print_plain()

    def _print_plain(self) -> None:
        self._console.print(Text(self._unprinted), soft_wrap=True)
        self._console.file.flush()
        self._unprinted = ""
        self._printed_at = time.monotonic()

    def _redraw(self, texts: list[str]) -> None:
        # Drop the least important parts that do not fit: a line that wraps cannot be redrawn.
        while len(texts) > 1 and len(SEPARATOR.join(texts)) >= self._console.width:
            texts = texts[:-1]
        line = Text(SEPARATOR.join(texts), no_wrap=True, overflow="ellipsis")
        line.stylize("bold", 0, len(texts[0]))
        if self._live is None:
            self._live = Live(line, console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(line, refresh=True)
