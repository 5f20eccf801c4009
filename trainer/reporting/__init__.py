"""Reporting of a run: progress line, statistics, TensorBoard events, sample grids, HTML report.

Only rank 0 reports. Importing this package does not import torch, TensorBoard or a plotting
library, so that a command can rebuild a report quickly on any machine.
"""

from realness.trainer.reporting.grid import make_grid, write_grid
from realness.trainer.reporting.page.comparison import write_comparison
from realness.trainer.reporting.page.html import write_report
from realness.trainer.reporting.page.runs import Run, RunFolderError, load_run
from realness.trainer.reporting.reporter import Reporter
from realness.trainer.reporting.stats import StatsLog, read_stats
from realness.trainer.storage.environment import describe_environment, write_environment

__all__ = [
    "Reporter",
    "Run",
    "RunFolderError",
    "StatsLog",
    "describe_environment",
    "load_run",
    "make_grid",
    "read_stats",
    "write_comparison",
    "write_environment",
    "write_grid",
    "write_report",
]
