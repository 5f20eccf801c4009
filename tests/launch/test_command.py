"""The training command's input: presets, flags, and errors before anything is built."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from realness.launch import train_ffhq
from realness.trainer.config import ConfigError, flatten, from_dict, to_json
from realness.trainer.config import TrainConfig as Config
from realness.trainer.config.presets import DEFAULT, PRESETS, preset
from realness.trainer.storage import run_folder
from tests.helpers.ranks import tiny_arguments, write_images


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images", 8)


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The command's output when it ends with the code for invalid input."""
    try:
        code = train_ffhq.main(["--device", "cpu", *arguments])
    except SystemExit as end:
        code = end.code
    assert code == 2
    return capsys.readouterr().err


def test_the_default_preset_is_the_papers_configuration() -> None:
    config = train_ffhq.parse([]).config
    assert config == preset(DEFAULT)
    values = flatten(config)
    expected = dict(resolution=1024, g_width=32, d_width=32, z_dim=128, batch_size=32)
    expected |= dict(num_outcomes=51, g_objective=2, resample="gaussian", d_norm="spectral")
    expected |= dict(lr_g=2e-4, lr_d=2e-4, beta1=0.5, beta2=0.999, k_g=1, k_d=1)
    assert {name: values[name] for name in expected} == expected
    assert config.num_iterations == 520_000


def test_every_field_is_a_flag() -> None:
    """Each flag is set to a value other than its default, which must arrive."""
    other = {"resolution": "128", "precision": "bf16", "zero_g": "2", "zero_d": "2", "beta1": "0.4"}
    literals = dict(objective="standard", g_objective="3", resample="head", device="cpu")
    literals |= dict(decoder="threads", impl="reference", anchors="histogram", d_norm="none")
    literals |= dict(batch_statistics="local", resample_statistics="local", g_activation="lrelu")
    literals |= dict(lr_decay="cosine", beta2="0.5", lr_final="0.5", preset="demo")
    literals |= dict(divergence="emd", test_code="ema", optimizer="rmsprop", rmsprop_alpha="0.9")
    literals |= dict(generator="stylegan2", discriminator="stylegan2", g_blocks="2", d_blocks="2")
    literals |= dict(gp_target="0", metrics="kid", memory_format="contiguous")
    literals |= dict(
        metrics_network="efflite0",
        metrics_resize="bilinear",
        style_mixing="0.5",
        minibatch_group="1",
    )
    given = {**other, **literals}
    defaults = flatten(preset("demo"))
    # These combine with few others: the next test covers them.
    only_one_value = {"preset", "r1", "d_activation", "cuda_graphs", "auto_batch"}
    arguments: list[str] = []
    for name, value in defaults.items():
        flag = "--" + name.replace("_", "-")
        if name in only_one_value:
            continue
        if isinstance(value, bool):
            arguments.append(flag.replace("--", "--no-") if value else flag)
        else:
            changed = value + 1 if isinstance(value, (int, float)) else "3"
            arguments += [flag, given.get(name, str(changed))]
    config = train_ffhq.parse(["--preset", "demo", *arguments]).config
    unchanged = [name for name, value in flatten(config).items() if value == defaults[name]]
    assert set(unchanged) == only_one_value


def test_what_combines_with_little_else_is_a_flag_too() -> None:
    flags = ["--r1", "finite-difference", "--d-activation", "silu", "--r1-gamma", "1"]
    values = flatten(train_ffhq.parse(["--preset", "demo", *flags]).config)
    assert (values["r1"], values["d_activation"]) == ("finite-difference", "silu")
    flags = ["--cuda-graphs", "--zero-g", "0", "--zero-d", "0", "--auto-batch"]
    values = flatten(train_ffhq.parse(["--preset", "demo", *flags]).config)
    assert values["cuda_graphs"]
    assert values["auto_batch"]


def test_local_rank_of_the_launcher_is_accepted() -> None:
    assert train_ffhq.parse(["--local_rank=1", "--preset", "demo"]).config.preset == "demo"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_their_json(name: str) -> None:
    import json

    config = preset(name)
    assert from_dict(Config, json.loads(to_json(config))) == config


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["--preset", "dmo"], ["did you mean 'demo'?"]),
        (["--preset", "demo", "--resolution", "48"], ["--resolution=48", "power of two"]),
        (["--preset", "demo", "--num-outcomes", "1"], ["--num-outcomes=1", "between 2 and 1024"]),
        (["--preset", "demo", "--beta1", "1"], ["--beta1=1.0", "[0, 1)"]),
        (["--preset", "demo", "--lr-g", "0"], ["--lr-g=0.0", "greater than 0"]),
        (["--preset", "demo", "--device", "cuda"], ["--device=cuda"]),
        (["--preset", "demo", "--run-dir", "x", "--anchor-kl", "500"], ["500"]),
    ],
)
def test_wrong_values_are_named(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    messages: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [*arguments, *(["--data", str(data), "--resolution", "32"] * ("x" in arguments))]
    printed = refused(capsys, arguments)
    for message in messages:
        assert message in printed


def test_wrong_data_is_refused(
    capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").write_text("no image")
    write_images(tmp_path / "mixed", 4, 32)
    write_images(tmp_path / "mixed" / "large", 4, 64)

    def message(folder: Path, *extra: str) -> str:
        return refused(capsys, tiny_arguments(folder, run, *extra))

    assert "--data is missing" in refused(capsys, ["--preset", "demo", "--run-dir", str(run)])
    assert "nowhere" in message(tmp_path / "nowhere")
    assert "empty" in message(tmp_path / "empty")
    assert "text" in message(tmp_path / "text")
    assert "mixed sizes" in message(tmp_path / "mixed")
    wrong_size = message(data, "--resolution", "64")
    assert "32x32" in wrong_size
    assert "--resolution 64" in wrong_size
    assert not run.joinpath("config.json").exists()


def test_an_unusable_run_folder_is_refused(
    capsys: pytest.CaptureFixture[str],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_run_dir = [word for word in tiny_arguments(data, tmp_path) if word != str(tmp_path)]
    no_run_dir.remove("--run-dir")
    assert "--run-dir is missing" in refused(capsys, no_run_dir)
    (tmp_path / "file").touch()
    inside_a_file = tiny_arguments(data, tmp_path / "file" / "run")
    assert "cannot be written" in refused(capsys, inside_a_file)

    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 10**4, 10**4)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    full = refused(capsys, tiny_arguments(data, tmp_path / "run"))
    assert "GiB free" in full
    assert "--keep-checkpoints" in full


def test_two_runs_do_not_share_a_folder(
    capsys: pytest.CaptureFixture[str],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_folder, "LOCK_WAIT_SECONDS", 0)
    with run_folder.lock_run_folder(tmp_path):
        assert "in use by another run" in refused(capsys, tiny_arguments(data, tmp_path))
    run_folder.lock_run_folder(tmp_path).close()


def test_a_config_of_another_version_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown fields"):
        from_dict(Config, {"no_such_field": 1})


def test_warmup_and_decay_are_stated_in_images() -> None:
    from realness.trainer.updates.schedule import is_due, lr_factor

    base = preset("demo")
    config = replace(
        base,
        batch_size=100,
        total_kimg=10.0,
        optimizer=replace(
            base.optimizer,
            lr_warmup_kimg=1.0,
            lr_decay="linear",
            lr_decay_start_kimg=5.0,
            lr_final=0.1,
        ),
    )
    assert lr_factor(config, 0) == pytest.approx(0.1)
    assert lr_factor(config, 900) == lr_factor(config, 5000) == 1
    assert lr_factor(config, 7500) == pytest.approx(0.55)
    assert lr_factor(config, 10_000) == pytest.approx(0.1)
    due = [images for images in range(100, 1100, 100) if is_due(0.25, images, 100)]
    assert due == [300, 500, 800, 1000]


def test_the_rates_fall_by_steps() -> None:
    from realness.trainer.updates.schedule import lr_factor

    config = preset("cifar10-p2gan-resnet")
    step = 50 * 60_000
    assert [lr_factor(config, images) for images in (0, step - 32, step, 3 * step)] == (
        pytest.approx([1, 1, 0.9, 0.729])
    )
