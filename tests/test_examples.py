"""The plugins of examples/: trained, killed, resumed, exported and loaded again."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from realness.launch import evaluate, export, generate
from realness.trainer.checkpoint.choosing import choose_checkpoints
from realness.trainer.config import ConfigError, plugins
from realness.trainer.config.components import component
from realness.trainer.config.plugins import load_plugins
from realness.trainer.export import load
from realness.trainer.inference.trained import load_generator
from realness.trainer.randomness import Draws, Stream
from tests.helpers import ROOT
from tests.helpers.ranks import finish, start_training, wait_for, write_images

OBJECTIVE, NETWORK, AUGMENTATION = FILES = [
    str(ROOT / "examples" / name)
    for name in ("chi_square_objective.py", "pixel_norm_network.py", "instance_noise.py")
]
PLUGINS = [word for file in FILES for word in ("--plugin", file)]
CHOICES = [
    *("--objective", "chi-square", "--chi-square-target", "0.5", "--generator", "pixel-norm"),
    *("--augment", "instance-noise", "--instance-noise-kimg", "0.08"),
]
BATCH = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images", 16)


def arguments(data: Path, run: Path, *extra: str) -> list[str]:
    """A run of 20 steps with a checkpoint every 5."""
    return [
        *("--preset", "cifar10-realness-dcgan", "--data", str(data), "--run-dir", str(run)),
        *("--z-dim", "16", "--pixel-norm-width", "4", "--d-width", "4", "--batch-size", str(BATCH)),
        *("--total-kimg", str(20 * BATCH / 1000), "--checkpoint-kimg", str(5 * BATCH / 1000)),
        *("--log-kimg", "0.008", "--num-samples", "4", "--decode-threads", "1"),
        # A large epsilon: Adam's division otherwise turns rounding of near-zero gradients into
        # steps of full size.
        *("--optimizer-eps", "1e-3", *PLUGINS, *CHOICES, *extra),
    ]


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    codes, output = finish(start_training(arguments(data, folder), 1))
    assert codes == [0], output
    return folder


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]


def last_weights(run: Path) -> dict[str, Tensor]:
    (folder,) = choose_checkpoints(run, "latest")
    load_plugins(FILES)
    return load_generator(run, folder, torch.device("cpu")).module.state_dict()


@pytest.mark.slow
def test_two_ranks_train_the_same(run: Path, data: Path, tmp_path: Path) -> None:
    """Sums over 8 images in two halves differ by rounding, 1e-7, which every update about doubles:
    pixel normalisation divides by features that may be close to 0. After six it is 1e-5 at most.
    """
    codes, output = finish(start_training(arguments(data, tmp_path / "two"), 2))
    assert codes == [0, 0], output
    assert len(records(run)) == 20
    for one, two in list(zip(records(run), records(tmp_path / "two"), strict=True))[:6]:
        for name in ("loss_d", "loss_g", "score_real", "score_fake"):
            assert two[name] == pytest.approx(one[name], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
def test_killed_and_resumed_it_is_the_same_bit_for_bit(
    run: Path, data: Path, tmp_path: Path, world_size: int
) -> None:
    straight = run
    if world_size > 1:
        straight = tmp_path / "straight"
        codes, output = finish(start_training(arguments(data, straight), world_size))
        assert codes == [0] * world_size, output
    killed = arguments(data, tmp_path / "killed")
    ranks = start_training(killed, world_size, log=tmp_path / "killed.log")
    wait_for(tmp_path / "killed" / "checkpoints" / "latest", ranks)
    for rank in ranks:
        rank.send_signal(signal.SIGKILL)
    finish(ranks)
    codes, output = finish(start_training(killed, world_size))
    assert codes == [0] * world_size, output
    expected = last_weights(straight)
    for name, value in last_weights(tmp_path / "killed").items():
        assert torch.equal(value, expected[name]), name


def test_the_run_records_its_plugins(run: Path) -> None:
    values = json.loads((run / "config.json").read_text())
    assert values["plugin"] == FILES
    digests = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in values["plugin"]]
    assert values["plugin_sha256"] == digests
    assert values["objective"]["chi_square_target"] == 0.5
    assert values["g"]["generator"] == "pixel-norm"
    # 0.1 (1 - t / 80), where updates start after t = 0, 8, 16, ... images.
    noise = [record["instance_noise"] for record in records(run)]
    assert noise[:3] == pytest.approx([0.1, 0.09, 0.08])
    assert noise[10:] == [0.0] * 10


@pytest.mark.slow
def test_it_is_exported_and_loaded_again(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export.main([str(run), str(out), *PLUGINS]) == 0
    assert {"generator.onnx", "generator.pt2", "discriminator.onnx"} <= {
        path.name for path in out.iterdir()
    }
    assert (
        "plugins=['chi_square_objective.py', 'pixel_norm_network.py', 'instance_noise.py']"
        in (out / "README.md").read_text()
    )
    exported = load(out, plugins=FILES)
    index = torch.arange(3)
    (folder,) = choose_checkpoints(run, "latest")
    generator = load_generator(run, folder, torch.device("cpu"))
    images = exported.generator.sample(index, seed=1)
    assert torch.equal(images, generator.sample(index, seed=1))
    assert images.float().std() > 1
    assert generate.main([str(run), str(tmp_path / "images"), "--num", "2", *PLUGINS]) == 0


@pytest.mark.parametrize("command", [evaluate, export, generate])
def test_commands_name_the_missing_plugin(
    command: ModuleType,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plugins, "_loaded", {})
    out = [] if command is evaluate else [str(tmp_path / "out")]
    assert command.main([str(run), *out]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert f"needs the plugin {OBJECTIVE}" in message
    assert f"add --plugin {OBJECTIVE}" in message
    assert not (tmp_path / "out").exists()


def test_the_network_is_the_papers() -> None:
    """Every pixel's features have a root mean square of 1, but for its epsilon of 1e-8 under the
    root, and no image depends on the others."""
    load_plugins([NETWORK])
    generator = component("generator", "pixel-norm")(z_dim=8, width=4).build(32, 0)
    torch.manual_seed(0)
    z = torch.randn(3, 8)
    x = generator.start(z).unflatten(1, (-1, 4, 4))
    squares = generator.blocks(x).square().mean(1)
    assert 0.999 < squares.min() <= squares.max() < 1 + 1e-5
    images = generator(z)
    assert images.shape == (3, 3, 32, 32)
    torch.testing.assert_close(images[:1], generator(z[:1]))


def test_the_objective_is_the_papers() -> None:
    load_plugins([OBJECTIVE])
    objective = component("objective", "chi-square")().build(1)
    real, fake = torch.tensor([[0.5], [2.0]]), torch.tensor([[-1.0], [1.0]])
    index = torch.arange(2)
    draws = Draws(0, Stream.D_REAL, index)
    # By hand: ((0.5 - 1)^2 + (2 - 1)^2) / 2 / 2 + (0^2 + 2^2) / 2 / 2, and (1 + 1) / 2 / 2.
    assert objective.d_loss(real, fake, draws, draws).item() == pytest.approx(0.3125 + 1.0)
    assert objective.g_loss(fake, None, draws, None).item() == pytest.approx(0.5)
    with pytest.raises(ConfigError, match="--chi-square-fake-label and --chi-square-real-label"):
        component("objective", "chi-square")(fake_label=1.0)


def test_the_augmentation_adds_the_noise_that_it_says() -> None:
    load_plugins([AUGMENTATION])
    augmentation = component("augment", "instance-noise")(std=0.5, kimg=1.0).build(
        batch_size=4, num_images=100_000, undecided=None, device="cpu"
    )
    images = torch.zeros(4, 3, 64, 64)
    draws = Draws(0, Stream.D_REAL, torch.arange(4))
    noisy = augmentation.at(500)(images, draws)
    # The standard error of a deviation that is measured on n values is std / sqrt(2 n).
    assert noisy.std().item() == pytest.approx(0.25, abs=5 * 0.25 / (2 * noisy.numel()) ** 0.5)
    alone = augmentation.at(torch.tensor(500))(images[1:2], draws[1:2])
    assert torch.equal(alone, noisy[1:2])
    assert torch.equal(augmentation.at(1000)(images, draws), images)
    with pytest.raises(ConfigError, match="--instance-noise-std"):
        component("augment", "instance-noise")(std=0.0)
