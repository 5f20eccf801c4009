"""The real images that `evaluate` compares with."""

from __future__ import annotations

from dataclasses import replace

from realness.data_pipeline import Catalog, DataError, SourceOptions
from realness.trainer.config import ConfigError, DataConfig
from realness.trainer.distributed.streams import open_images


def open_real_images(
    run: DataConfig, source: str, options: SourceOptions
) -> tuple[DataConfig, Catalog]:
    """The settings of the real images and the images: those of `source`, or by default the run's.

    run: settings of the run. options: how to read `source`.
    Raises ConfigError if neither names images, for options without a source, and if the images
    cannot be opened.
    """
    settings = _settings(run, source, options)
    try:
        return settings, open_images(settings)
    except DataError as error:
        where = "" if source else "; give the place of the run's images with --data"
        raise ConfigError(f"{error}{where}") from error


def _settings(run: DataConfig, source: str, options: SourceOptions) -> DataConfig:
    if source:
        return replace(
            run,
            data=source,
            source_kind=options.kind,
            wds_image=options.wds_image,
            follow_links=options.follow_links,
            labels=options.labels,
        )
    if not run.data:
        raise ConfigError("the run does not name its images; pass them with --data")
    if options.flags:
        raise ConfigError(
            f"{' '.join(options.flags)} is for --data, which is not given; the run's own images "
            "are opened as the run opened them"
        )
    return run
