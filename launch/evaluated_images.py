"""The real images that `evaluate` compares with, and their classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from realness.data_pipeline import (
    Catalog,
    DataError,
    SourceOptions,
    check_images,
    check_shards,
    class_counts,
    describe_classes,
)
from realness.trainer.config import ClassesConfig, ConfigError, DataConfig
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.distributed.streams import open_images

RUN = "run"
"""The choice of labels that stands for the run's own."""
SHARE = 0.01
"""Shares of a class, in the run's images and in others, that differ by more than this are named."""


def open_real_images(
    run: DataConfig, source: str, options: SourceOptions
) -> tuple[DataConfig, Catalog]:
    """The settings of the real images and the images: those of `source`, or by default the run's.

    run: settings of the run. options: how to read `source`; its labels may be RUN.
    Raises ConfigError if neither names images, for options without a source, and if the images
    cannot be opened.
    """
    settings = _settings(run, source, options)
    try:
        return settings, open_images(settings)
    except DataError as error:
        where = "" if source else "; give the place of the run's images with --data"
        if source and options.labels == RUN and f"--labels={settings.labels}" in str(error):
            where = "; this choice is the run's: give one for these images with --labels"
        raise ConfigError(f"{error}{where}") from error


def _settings(run: DataConfig, source: str, options: SourceOptions) -> DataConfig:
    if source:
        return replace(
            run,
            data=source,
            source_kind=options.kind,
            wds_image=options.wds_image,
            follow_links=options.follow_links,
            labels=run.labels if options.labels == RUN else options.labels,
        )
    if not run.data:
        raise ConfigError("the run does not name its images; pass them with --data")
    labels = [] if options.labels == RUN else ["--labels", options.labels]
    flags = [*replace(options, labels="auto").flags, *labels]
    if flags:
        raise ConfigError(
            f"{' '.join(flags)} is for --data, which is not given; the run's own images "
            "are opened as the run opened them"
        )
    return run


def check_real_images(
    run: ClassesConfig, data: DataConfig, catalog: Catalog, say: Callable[[str], None]
) -> None:
    """Tell the user about the images and check those that this rank reads.

    Raises DataError for images that cannot be used.
    """
    for message in [*catalog.messages(), *differing_classes(run, catalog)]:
        say(message)
    check_shards(catalog, rank(), world_size())
    check_images(catalog, data.resolution, max_bad_images=data.max_bad_images)


def differing_classes(run: ClassesConfig, catalog: Catalog) -> list[str]:
    """What the user of a conditional run should know if the images have other classes than it."""
    if not run.conditional:
        return []
    counts = class_counts(catalog)
    if not any(counts):
        return [
            "the images have no classes; generated ones have those of the run, in its proportions"
        ]
    if not run.agree(catalog.class_names, len(counts)):
        return [
            f"the images have other classes than the run: {describe_classes(catalog)}, and the run "
            f"has {len(run.class_counts):,}{_listed(run)}; generated images have the run's classes"
        ]
    counts += [0] * (len(run.class_counts) - len(counts))
    pairs = zip(counts, run.class_counts, strict=True)
    shares = [(here / sum(counts), there / sum(run.class_counts)) for here, there in pairs]
    number, (here, there) = max(enumerate(shares), key=lambda item: abs(item[1][0] - item[1][1]))
    if abs(here - there) <= SHARE:
        return []
    return [
        f"the images have other proportions of classes than the run: {100 * here:.1f} % of them, "
        f"and {100 * there:.1f} % of the run's, are of class {run.name(number)}; generated images "
        "have the run's proportions"
    ]


def _listed(run: ClassesConfig) -> str:
    """The first names of the run's classes, if they have any."""
    names = run.class_names
    return f" ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''})" if names else ""
