"""The 2-D experiments with the image updates: ensembles, methods, and RealnessGAN's limit."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from realness import kernels
from realness.launch.train_toy import main
from realness.trainer.config import ConfigError, TrainConfig, flatten, from_dict, with_fields
from realness.trainer.engines.plain_engine import PlainEngine
from realness.trainer.objectives.base import build_objective
from realness.trainer.objectives.configs import AnchorConfig
from realness.trainer.objectives.realness import RealnessObjective
from realness.trainer.randomness import Stream
from realness.trainer.toy import METHODS, NETWORKS_OF, DataName, method_config
from realness.trainer.toy.data import build_data
from realness.trainer.toy.experiment import Experiment, build_experiment
from realness.trainer.toy.networks import ToyDiscriminator, ToyGenerator
from realness.trainer.toy.results import medians, train
from realness.trainer.updates.gan import Gan
from tests.helpers import ROOT

SEEDS = (3, 11)


def trained(method: str, seeds: tuple[int, ...], iterations: int, data: DataName) -> Experiment:
    networks = NETWORKS_OF[data]
    config = method_config(method, networks=networks)
    experiment = build_experiment(config, build_data(data), seeds, networks)
    for _ in range(iterations):
        experiment.iterate()
    return experiment


# --- ensembles


@pytest.mark.parametrize("method", ["realness-resampled", "0gp-sample", "far", "wgan-gp"])
def test_an_ensemble_is_its_members_runs(method: str) -> None:
    """Two seeds side by side give the two single runs, to rounding.

    Adam's first steps are as long as the learning rate whatever the gradient, so that rounding
    shows more than later; members that mixed would differ as much as seeds do. Few iterations:
    after 20 of WGAN-GP, weights that are moved by one ulp end 0.08 of that apart.
    """
    data: DataName = "grid9" if method == "realness-resampled" else "gauss-finite"
    iterations = 3 if data == "grid9" else 4
    both = trained(method, SEEDS, iterations, data).sample(300)
    apart = (both[0] - both[1]).abs().max()
    assert apart > 0.3
    for member, seed in enumerate(SEEDS):
        alone = trained(method, (seed,), iterations, data).sample(300)
        assert (both[member] - alone[0]).abs().max() < 3e-3 * apart


def test_members_see_points_of_their_own() -> None:
    data = build_data("grid9")
    experiment = build_experiment(method_config("std"), data, SEEDS)
    rows = experiment.draw_points(Stream.D_REAL, 700, 100).view(100, 2, 2)
    assert not torch.equal(rows[:, 0], rows[:, 1])
    for member, seed in enumerate(SEEDS):
        alone = build_experiment(method_config("std"), data, (seed,))
        assert torch.equal(rows[:, member], alone.draw_points(Stream.D_REAL, 700, 100))
    # Batches of a stream are consecutive, and other streams have other points.
    later = experiment.draw_points(Stream.D_REAL, 750, 100).view(100, 2, 2)
    assert torch.equal(later[:50], rows[50:])
    assert not torch.equal(experiment.draw_points(Stream.G_REAL, 700, 100).view(100, 2, 2), rows)


def test_published_points_come_in_epochs() -> None:
    """D's batch and the three of G take the next points of one stream, each once per epoch."""
    config = method_config("realness", networks="published")
    data = build_data("grid9", num_points=1000)
    experiment = build_experiment(config, data, SEEDS, "published")
    batches = []
    for iteration in range(5):
        seen = iteration * config.batch_size
        batches.append(experiment.real_batch(Stream.D_REAL, seen))
        firsts = [3 * seen + update * config.batch_size for update in range(3)]
        batches += [experiment.real_batch(Stream.G_REAL, first) for first in firsts]
    stream = torch.cat(batches).view(2, 1000, 2, 2)
    orders = [[list(map(tuple, epoch[:, m].tolist())) for epoch in stream] for m in (0, 1)]
    points = sorted(map(tuple, data.training_points().tolist()))
    for first, second in orders:
        assert first != second
        assert sorted(first) == sorted(second) == points
    assert orders[0] != orders[1]
    alone = build_experiment(config, data, SEEDS[1:], "published")
    assert torch.equal(
        alone.real_batch(Stream.G_REAL, 700), experiment.next_points(1000, 100)[1::2]
    )


def test_published_anchors_last_for_one_iteration() -> None:
    config = method_config("realness", networks="published")
    experiment = build_experiment(config, build_data("grid9"), (4,), "published")
    objective = experiment.gan.objective
    assert isinstance(objective, RealnessObjective)

    def pair(stream: Stream, first_sample: int) -> tuple[float, ...]:
        drawn = objective.anchors.pair(experiment.gan.draws(stream, first_sample))
        return (*drawn.real, *drawn.fake)

    shared = [
        pair(Stream.D_FAKE, 700),
        *(pair(Stream.G_FAKE, first) for first in (2100, 2200, 2300)),
    ]
    assert len(set(shared)) == 1
    others = {pair(Stream.D_FAKE, 600), pair(Stream.D_FAKE, 800), pair(Stream.G_FAKE, 2400)}
    assert shared[0] not in others
    assert len(others) == 2


def test_points_are_drawn_evenly() -> None:
    experiment = build_experiment(method_config("std"), build_data("grid9", num_points=10), (5,))
    rows = experiment.draw_points(Stream.D_REAL, 0, 20_000)
    counts = (rows[:, None] == experiment.points).all(2).sum(0)
    # 2,000 each, give or take 5 standard deviations of a binomial.
    assert int((counts - 2000).abs().max()) < 5 * 43


def test_sampling_disturbs_nothing() -> None:
    """It runs in evaluation mode: running statistics and the next update stay as they are."""
    plain = trained("std", (0,), 4, "grid9")
    watched = trained("std", (0,), 2, "grid9")
    first = watched.sample(50)
    assert torch.equal(first, watched.sample(50))
    watched.iterate()
    watched.iterate()
    assert torch.equal(plain.sample(50), watched.sample(50))
    assert watched.gan.g.module.training


# --- RealnessGAN with two outcomes is the standard GAN


class PinnedOutcome(nn.Module):
    """One logit s -> two, (0, s): a softmax over two outcomes has one degree of freedom."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, points: Tensor) -> Tensor:
        logit = self.inner(points)
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


def plain_run(config: TrainConfig, *, pinned: bool) -> Experiment:
    """An experiment with a D of one logit, shown to the objective as two if `pinned`.

    Adam's epsilon is larger than usual: it keeps rounding of tiny gradients from growing.
    """
    config = with_fields(config, optimizer_eps=1e-3)
    generator, discriminator = ToyGenerator((0,)), ToyDiscriminator(1, (0,))
    gan = Gan(
        config,
        torch.device("cpu"),
        build_objective(config.objective),
        PlainEngine(generator, lr=config.optimizer.lr_g, optimizer=config.optimizer),
        PlainEngine(
            PinnedOutcome(discriminator) if pinned else discriminator,
            lr=config.optimizer.lr_d,
            optimizer=config.optimizer,
        ),
    )
    return Experiment(gan, build_data("grid9").training_points())


@kernels.implementation("reference")
def test_two_outcomes_with_one_hot_anchors_are_the_standard_gan() -> None:
    """20 iterations of both, up to rounding, which grows on the way.

    Weights that are moved by one ulp end 0.006 apart, of 2.2 that they move; after 50 iterations
    it would be 0.035.

    Objective 1 (eq. 18) is the saturating loss of G. So steep a skew leaves 1e-30 outside of one
    outcome, which is nothing in fp32.
    """
    one_hot = AnchorConfig(skew_real=1e30, skew_fake=-1e30)
    realness = method_config("realness-1", num_outcomes=2, k_g=1)
    realness = replace(realness, objective=replace(realness.objective, anchor=one_hot))
    ours = plain_run(realness, pinned=True)
    standard = plain_run(method_config("std-saturating", k_g=1), pinned=False)
    other = plain_run(method_config("std", k_g=1), pinned=False)
    start = ours.sample(500)
    for _ in range(20):
        here, there = ours.iterate(), standard.iterate()
        other.iterate()
        assert torch.allclose(here["loss_d"], there["loss_d"], atol=1e-3)
        assert torch.allclose(here["score_real"], there["score_real"], atol=1e-2)
    moved = (standard.sample(500) - start).abs().max()
    apart = (ours.sample(500) - standard.sample(500)).abs().max()
    assert moved > 0.3
    assert apart < 1e-2 * moved
    # The non-saturating run ends elsewhere, so the comparison could have failed.
    assert (other.sample(500) - standard.sample(500)).abs().max() > 10 * apart


# --- methods and results


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_in_both_settings(method: str) -> None:
    for data in ("grid9", "ring8"):
        name: DataName = data
        experiment = trained(method, (0,), 2, name)
        assert torch.isfinite(experiment.sample(200)).all()
        assert torch.isfinite(next(experiment.gan.d.module.parameters())).all()


def test_methods_are_what_the_papers_say() -> None:
    far = method_config("far", networks="far")
    assert (far.batch_size, far.far.far_fakes, far.far.far_candidates) == (64, 16, 256)
    assert (far.penalty.r1_gamma, far.optimizer.lr_g, far.g.z_dim) == (20.0, 3e-3, 2)
    realness = flatten(method_config("realness"))
    expected = dict(batch_size=100, num_outcomes=5, z_dim=32, lr_g=1e-4, beta1=0.8, k_g=3, k_d=1)
    assert {name: realness[name] for name in expected} == expected
    assert method_config("wgan-gp").penalty.gp_weight == 10.0
    published = flatten(method_config("realness", networks="published"))
    changed = {name for name in realness if published[name] != realness[name]}
    assert changed == {"z_dim", "anchors"}
    assert (published["z_dim"], published["anchors"]) == (128, "histogram")


def test_choices_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="--method=gan is unknown; choose one of std, "):
        method_config("gan")
    with pytest.raises(ConfigError, match="belong to the realness methods"):
        method_config("std", num_outcomes=5)
    with pytest.raises(ConfigError, match=r"--anchor-kl=2\.0 is for skew-normal anchors"):
        method_config("realness", networks="published", anchor_kl=2.0)
    with pytest.raises(ConfigError, match="--num-outcomes=1"):
        method_config("realness", num_outcomes=1)


def test_far_learns_the_gaussian() -> None:
    """From 100 points, 150 iterations bring every seed from far off to near the target."""
    config = method_config("far", networks="far")
    data = build_data("gauss-finite")
    experiment = build_experiment(config, data, (0, 1, 2), "far")
    results = train(experiment, data, [0, 150])
    before = [result.distance for result in results if result.iteration == 0]
    after = [result.distance for result in results if result.iteration == 150]
    assert len(before) == len(after) == 3
    assert max(after) < 0.15 < min(before)
    assert medians(results[3:])["distance"] == sorted(after)[1]


# --- the command


def test_the_command_writes_table_figure_and_csv(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", "ring8", "--method", "far", "--iterations", "6", "--seeds", "2"]
    assert main([*arguments, "--checkpoints", "2", "--out", str(tmp_path / "toy")]) == 0
    assert "median" in capsys.readouterr().out
    assert (tmp_path / "toy" / "samples.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "toy" / "measures.csv").open() as file:
        rows = list(csv.DictReader(file))
    measured = [(row["iteration"], row["seed"]) for row in rows]
    assert measured == [("3", "0"), ("3", "1"), ("6", "0"), ("6", "1")]
    assert all(0 <= float(row["high_quality"]) <= 100 for row in rows)
    written = json.loads((tmp_path / "toy" / "config.json").read_text())
    assert from_dict(written) == method_config("far", networks="far")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "gan"), "--method=gan is unknown"),
        (("--data", "moons"), "invalid choice 'moons'"),
        (("--seeds", "0"), "--seeds=0 must be 1 or more"),
        (("--method", "std", "--num-outcomes", "7"), "belong to the realness methods"),
        (("--data", "ring8", "--spacing", "1"), "not to ring8"),
        (("--optimizer", "sgd"), "--optimizer=sgd is unknown"),
        (("--k-g", "0"), "--k-g=0 must be greater than 0"),
    ],
)
def test_wrong_input_is_explained(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(list(arguments))
    except SystemExit as exit:  # from the parser of the command line
        code = exit.code
    assert code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_help_answers_at_once(tmp_path: Path) -> None:
    """It names every method, and imports nothing slow."""
    code = (
        "import runpy, sys\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / 'launch' / 'train_toy.py')!r}, run_name='__main__')\n"
        "finally:\n"
        "    print('HEAVY', [name for name in ('torch', 'scipy') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert all(name in done.stdout for name in METHODS)
