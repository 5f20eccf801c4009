"""The FID of each class: moments by class, and which classes are compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from realness.data_pipeline import Catalog, open_catalog
from realness.trainer.config import ClassesConfig, ConfigError, DataConfig
from realness.trainer.metrics import RealImages, compared_classes, frechet_distance
from realness.trainer.metrics.frechet import GaussianMoments
from realness.trainer.metrics.intra_fid import ClassMoments
from tests.helpers.metric_images import write_classes
from tests.helpers.ranks import run_on_ranks
from tests.trainer.metrics.test_scores import normal, scipy_distance

DIM = 6
RUN = ClassesConfig(True, (60, 50, 10), ("ant", "bee", "cat"))


def features_of_classes(seed: int) -> tuple[Tensor, Tensor]:
    """Features [60, DIM] of the classes 0, 1 and 3; 4 rows of class 3 come last."""
    classes = torch.cat([torch.arange(56) % 2, torch.full((4,), 3)])
    return (normal(60, DIM, seed=seed) * (1 + classes[:, None])).float(), classes


def merged(seed: int) -> dict[int, tuple[int, Tensor, Tensor]]:
    """The moments of the classes 0 and 3 from batches of 7 rows that the ranks take in turn."""
    from realness.trainer.distributed.ranks import rank, world_size

    found = ClassMoments([0, 3])
    features, classes = (items.split(7) for items in features_of_classes(seed))
    for number in range(rank(), len(features), world_size()):
        found.add(features[number], classes[number])
    moments = {number: found.over_ranks(number) for number in (0, 3)}
    return {number: (each.count, each.mean, each.scatter) for number, each in moments.items()}


def distances(ours: dict[int, tuple[int, Tensor, Tensor]], other: GaussianMoments) -> list[float]:
    found = []
    for count, mean, scatter in ours.values():
        moments = GaussianMoments(DIM)
        moments.count, moments.mean, moments.scatter = count, mean, scatter
        found.append(frechet_distance(moments, other))
    return found


def expected_distances(seed: int, other: Tensor) -> list[float]:
    """By SciPy's square root of matrices, in float64."""
    features, classes = features_of_classes(seed)
    rows = [features[classes == number].double().numpy() for number in (0, 3)]
    return [scipy_distance(each, other.numpy()) for each in rows]


def test_distances_of_classes_equal_scipys() -> None:
    """Class 0 has more rows than dimensions, and class 3 fewer, so its covariance is singular:
    SciPy's root of it has an error of about the root of the rounding, 1e-8 of the norm."""
    other, moments = normal(40, DIM, seed=9), GaussianMoments(DIM)
    moments.add(other)
    assert distances(merged(1), moments) == pytest.approx(expected_distances(1, other), rel=1e-5)


@pytest.mark.slow
def test_two_ranks_have_the_moments_of_one() -> None:
    """All rows of class 3 are on the first of the two ranks."""
    alone = merged(2)
    assert [count for count, _, _ in alone.values()] == [28, 4]
    for found in run_on_ranks(2, merged, 2):
        for number, (count, mean, scatter) in alone.items():
            assert found[number][0] == count
            torch.testing.assert_close(found[number][1], mean, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(found[number][2], scatter, rtol=1e-12, atol=1e-12)


def test_broken_features_are_named() -> None:
    with pytest.raises(ValueError, match="features are not finite"):
        ClassMoments([0]).add(torch.full((1, DIM), torch.nan), torch.zeros(1, dtype=torch.int64))


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("set")
    found = open_catalog(write_classes(folder, {"ant": 60, "bee": 50, "cat": 10}))
    found.relabel(np.repeat(np.arange(3), [60, 50, 10]), ("ant", "bee", "cat"))
    return found


def test_rare_classes_are_left_out_and_images_divided_equally(catalog: Catalog) -> None:
    found = compared_classes(["intra-fid"], RUN, catalog, 105, 120)
    assert found is not None
    assert (found.numbers, found.names, found.num_real) == ((0, 1), ("ant", "bee"), (60, 50))
    assert (found.num_fake, found.total_fake) == (52, 104)
    assert "leaves out 1 of 3 classes" in found.note
    assert found.note.endswith("fewer than 50 real images: cat")
    assert compared_classes(["fid"], ClassesConfig(), catalog, 1, 1) is None


def test_of_a_part_of_the_images_those_that_are_read_count(catalog: Catalog) -> None:
    found = compared_classes(["intra-fid"], RUN, catalog, 105, 110)
    assert found is not None
    data = DataConfig(resolution=32, decoder="threads", decode_threads=1)
    batches = RealImages(catalog, data, 32).batches(110)
    counts = torch.cat([classes for _, _, classes in batches]).bincount(minlength=3).tolist()
    assert sum(counts) == 110
    assert found.num_real == tuple(count for count in counts if count >= 50)


def test_classes_that_cannot_be_compared_are_refused(catalog: Catalog, tmp_path: Path) -> None:
    def refused(message: str, run: ClassesConfig = RUN, num_images: int = 105) -> None:
        with pytest.raises(ConfigError, match=message):
            compared_classes(["intra-fid"], run, catalog, num_images, 120)

    refused("trained without --conditional; leave intra-fid out", ClassesConfig())
    refused("2 classes need 50 each; use at least 100", num_images=99)
    refused("other classes than the run", ClassesConfig(True, (1, 1, 1), ("ant", "bee", "dog")))
    with pytest.raises(ConfigError, match="needs classes of at least 50 real images"):
        compared_classes(["intra-fid"], RUN, catalog, 105, 10)
    unlabelled = open_catalog(write_classes(tmp_path, {"ant": 1, "bee": 1}))
    with pytest.raises(ConfigError, match="have none; choose it with --labels folders"):
        compared_classes(["intra-fid"], RUN, unlabelled, 105, 2)
