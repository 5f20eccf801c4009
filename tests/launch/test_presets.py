"""Presets against what their papers say."""

from __future__ import annotations

import pytest
from scipy import special

from realness.launch.presets import preset
from realness.trainer.config import TrainConfig, flatten
from realness.trainer.objectives.anchors import AnchorPair
from realness.trainer.objectives.configs import RealnessConfig


def anchors(config: TrainConfig) -> AnchorPair:
    objective = config.objective
    assert isinstance(objective, RealnessConfig)
    return objective.anchor.build(objective.num_outcomes).typical


@pytest.mark.parametrize("data", ["ffhq1024", "ffhq256", "celeba256"])
def test_the_anchors_are_those_of_table_1(data: str) -> None:
    """Table 1's row of CelebA is Table 2's row of D_KL = 11.05."""
    pair = anchors(preset(f"{data}-realness-dcgan"))
    assert len(pair.real) == 51
    # The solver finds the factor of the skews to 2e-12, and D_KL has a slope of some 10 in it.
    assert special.rel_entr(pair.real, pair.fake).sum() == pytest.approx(11.05, abs=1e-9)
    # Section 4: a positive and a negative skewness, here mirror images of each other.
    assert pair.real == pytest.approx(pair.fake[::-1])
    assert pair.real @ range(51) > pair.fake @ range(51)


def test_cifar10_as_in_the_paper_and_as_its_author_trained_it() -> None:
    paper, author = (flatten(preset(f"cifar10-realness{name}-dcgan")) for name in ("", "-author"))
    assert (paper["k_g"], paper["resample"], paper["num_outcomes"]) == (1, "gaussian", 3)
    changed = {name for name in paper if paper[name] != author[name]} - {"preset"}
    assert changed == {"k_g", "resample"}
    assert (author["k_g"], author["resample"]) == (3, "none")
