"""The object through which the training loop does all reporting."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from realness.trainer.reporting.faults import FaultLog
from realness.trainer.reporting.grid import SAMPLES_FOLDER, write_grid
from realness.trainer.reporting.page.html import write_report
from realness.trainer.reporting.progress import ProgressLine, duration
from realness.trainer.reporting.realness import REALNESS_FILE, Realness, append_realness
from realness.trainer.reporting.stats import METRIC_PREFIX, STATS_FILE, StatsLog, cut_back
from realness.trainer.reporting.tensorboard import TENSORBOARD_FOLDER, EventLog
from realness.trainer.storage.files import remove_staged

if TYPE_CHECKING:
    from torch import Tensor

WARNING_STYLE = "bold red"
EVENTS = "TensorBoard events"


class Reporter:
    """Progress line, stats.jsonl, TensorBoard events, sample grids and report.html of one run.

    It is enabled on rank 0; on other ranks it is disabled, and its methods neither print nor write.
    A full disk never ends a running training: each failure is reported once and retried later.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        total_images: int,
        start_images: int = 0,
        enabled: bool = True,
        console: Console | None = None,
    ) -> None:
        """Open the logs of `run_dir` (created if missing) for a run that starts at `start_images`.

        Records after `start_images`, left by a killed run, are removed. Raises OSError if the
        folder cannot be written, so that this is noticed at the start.
        """
        self.enabled = enabled
        self._faults = FaultLog(self.warn)
        if not enabled:
            return
        self._run_dir = run_dir
        self._samples = run_dir / SAMPLES_FOLDER
        self._samples.mkdir(parents=True, exist_ok=True)
        remove_staged(self._samples)
        self._progress = ProgressLine(total_images, console)
        self._images = start_images
        self._stats = StatsLog(run_dir / STATS_FILE, start_images)
        cut_back(run_dir / REALNESS_FILE, start_images)
        self._events = self._open_events(start_images)
        if start_images and self._stats.num_dropped:
            self.message(
                f"{STATS_FILE}: removed {self._stats.num_dropped} lines logged after the checkpoint"
            )

    def _open_events(self, start_images: int) -> EventLog | None:
        try:
            return EventLog(self._run_dir / TENSORBOARD_FOLDER, start_images)
        except ImportError as error:
            self.warn(f"WARNING: no TensorBoard events: {error}. Run `pip install tensorboard`.")
            return None

    def log(self, record: Mapping[str, float]) -> None:
        """Show and store the numbers of one interval; the key `images` (images seen) is required.

        Known keys are listed in `progress.fields`, `tensorboard.tag` and `page.panels.PANELS`;
        others are stored and plotted under their own name. Non-finite numbers are stored as null.
        """
        if not self.enabled:
            return
        self._images = int(record["images"])
        self._store(record)
        self._progress.update(record)

    def log_scores(self, images: int, scores: Mapping[str, float], seconds: float) -> None:
        """Store and show the scores measured at `images`, and the seconds they took."""
        if not self.enabled:
            return
        named = {METRIC_PREFIX + name: value for name, value in scores.items()}
        self._store({"images": images, **named, "metrics_s": seconds})
        listed = ", ".join(f"{name} {value:.5g}" for name, value in scores.items())
        self.message(f"{images / 1000:,.1f} kimg: {listed} (took {duration(seconds)})")

    def _store(self, record: Mapping[str, float]) -> None:
        with self._faults.hold(STATS_FILE, "the records wait in memory."):
            self._stats.append(record)
        # If writing stats.jsonl has just failed, the events on the same disk would fail too.
        if self._events is not None and not self._faults.broken(STATS_FILE):
            remedy = f"they will have a gap ({STATS_FILE} will not)."
            with self._faults.hold(EVENTS, remedy):
                self._events.append(record)

    def save_grid(
        self,
        images: Tensor,
        name: str,
        *,
        images_seen: int | None = None,
        row_names: Sequence[str] = (),
    ) -> None:
        """Write `samples/NAME.png` from images [B, 3, H, W] in [-1, 1], in named rows if given.

        Names that differ only in a trailing number (`ema-000512`) form one series in the report,
        ordered by `images_seen`, which defaults to the `images` of the last record.
        """
        if not self.enabled:
            return
        seen = self._images if images_seen is None else images_seen
        with self._faults.hold("sample grids", "this one is lost; the next one will be tried."):
            write_grid(images, self._samples / f"{name}.png", seen, row_names)

    def save_realness(self, realness: Realness) -> None:
        """Add a line to `realness.jsonl`."""
        if self.enabled:
            with self._faults.hold(REALNESS_FILE, "this record is lost; the next will be tried."):
                append_realness(self._run_dir / REALNESS_FILE, realness)

    def working(self, text: str) -> None:
        """Show on the progress line what the program does instead of training."""
        if self.enabled:
            self._progress.working(text)

    def hold(self, output: str, remedy: str) -> AbstractContextManager[None]:
        """Run a block that writes `output`; OSError is reported once and does not end the run.

        A disabled reporter also runs the block, but reports nothing.
        """
        return self._faults.hold(output, remedy)

    def message(self, text: str) -> None:
        """Print a line above the progress line."""
        if self.enabled:
            self._progress.message(text)

    def warn(self, text: str) -> None:
        """Print a highlighted line above the progress line."""
        if self.enabled:
            self._progress.message(text, WARNING_STYLE)

    def write_report(self) -> Path | None:
        """Write `report.html`; returns its path, or None with a warning if that failed."""
        if not self.enabled:
            return None
        path = None
        with self._faults.hold("report.html", "it is tried again with the next one."):
            try:
                path = write_report(self._run_dir)
            except OSError:
                raise
            except Exception:
                # The page is a by-product, so no error in it may end the run.
                self.warn(f"WARNING: report.html was not written:\n{traceback.format_exc()}")
        return path

    def close(self) -> None:
        """Finish the progress line and close the logs; further calls do nothing."""
        if not self.enabled:
            return
        self._progress.close()
        with self._faults.hold(STATS_FILE, "its last records are lost."):
            self._stats.close()
        if self._events is not None and not self._faults.broken(EVENTS):
            with self._faults.hold(EVENTS, "the last ones are lost."):
                self._events.close()
        self.enabled = False
