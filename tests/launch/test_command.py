"""The training command's input: presets, flags, and errors before anything is built."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from realness.launch import train_ffhq
from realness.launch.presets import DEFAULT, PRESETS, preset
from realness.launch.train_arguments import parse
from realness.trainer.config import ConfigError, flag, flatten, from_dict, to_json, with_fields
from realness.trainer.config import TrainConfig as Config
from realness.trainer.config.components import component
from realness.trainer.config.fields import leaves
from realness.trainer.networks.configs import DCGANGeneratorConfig, ResNetDiscriminatorConfig
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
    config = parse([]).config
    assert config == preset(DEFAULT)
    values = flatten(config)
    expected = dict(resolution=1024, g_width=32, d_width=32, z_dim=128, batch_size=32)
    expected |= dict(num_outcomes=51, g_objective=2, resample="gaussian", d_norm="spectral")
    expected |= dict(lr_g=2e-4, lr_d=2e-4, beta1=0.5, beta2=0.999, k_g=1, k_d=1)
    assert {name: values[name] for name in expected} == expected
    assert config.num_iterations == 520_000


DCGAN = "ffhq256-realness-dcgan"
KINDS = ("generator", "discriminator", "objective", "optimizer", "augment")
CHOICES = (
    dict(zip(KINDS, ("dcgan", "dcgan", "realness", "adam", "ada"), strict=True)),
    dict(zip(KINDS, ("resnet", "resnet", "standard", "rmsprop", "fixed"), strict=True)),
    dict(zip(KINDS, ("sn-resnet", "sn-resnet", "p2gan", "adam", "scheduled"), strict=True)),
    dict(zip(KINDS, ("stylegan2", "stylegan2", "hinge", "adam", "diffaugment"), strict=True)),
    dict(zip(KINDS, ("light", "light", "lsgan", "adam", "none"), strict=True)),
    dict(zip(KINDS, ("r3gan", "r3gan", "relativistic", "adam", "none"), strict=True)),
)
"""Components that together have every field."""


def test_every_field_is_a_flag() -> None:
    """Each flag is set to a value other than its default, which must arrive."""
    given = {"resolution": "128", "precision": "bf16", "zero_g": "2", "zero_d": "2", "beta1": "0.4"}
    given |= dict(g_objective="3", resample="head", device="cpu", decoder="threads")
    given |= dict(impl="reference", anchors="histogram", batch_statistics="local")
    given |= dict(resample_statistics="local", g_activation="lrelu", lr_decay="cosine")
    given |= dict(beta2="0.5", lr_final="0.5", divergence="emd", test_code="ema")
    given |= dict(rmsprop_alpha="0.9", gp_target="0", metrics="kid")
    given |= dict(memory_format="contiguous", metrics_network="efflite0", style_mixing="0.5")
    given |= dict(metrics_weights="raw", reduce_precision="bf16")
    given |= dict(metrics_resize="bilinear", minibatch_group="1", augment_ops="bgcf0.5")
    given |= dict(augment_target="0.5", augment_p="0.2", augment_shape="linear")
    given |= dict(source_kind="folder", g_norm="instance")
    given |= dict(beta2_final="0.9", schedule_shape="linear", schedule_kimg="9")
    given |= dict(ema="both", ema_widths="0.05,0.2")
    # These combine with few others: the next test covers them. --plugin has tests of its own.
    left_out = {"preset", "r1", "d_activation", "cuda_graphs", "auto_batch"}
    left_out |= {"plugin", "plugin_sha256", "path_length_weight", "far_fakes"}
    left_out |= {"checkpoint_activations", "posterior_modules", "code_source", "grow_kimg"}
    left_out |= {"freeze_g", "conditional", *KINDS}
    left_out |= {"class_counts", "class_names"}  # recorded from the data, not given
    seen: set[str] = set()
    for choice in CHOICES:
        seen |= left_out
        start = with_fields(preset(DCGAN), **choice)
        defaults = flatten(start)
        given |= {f"{of}_blocks": str(3 - defaults.get(f"{of}_blocks", 1)) for of in "gd"}
        arguments = [word for name, value in choice.items() for word in (flag(name), value)]
        for name, value in defaults.items():
            if name in left_out or (name == "d_norm" and choice["discriminator"] == "resnet"):
                continue
            if name == "d_norm":
                if len(start.d.norms) > 1:
                    arguments += ["--d-norm", "none"]
                continue
            seen.add(name)
            if isinstance(value, bool):
                arguments.append(flag(f"no_{name}" if value else name))
            else:
                changed = value + 1 if isinstance(value, (int, float)) else "3"
                arguments += [flag(name), given.get(name, str(changed))]
        config = parse(["--preset", DCGAN, *arguments]).config
        unchanged = {name for name, value in flatten(config).items() if value == defaults[name]}
        assert unchanged <= left_out | {"d_norm"}
    # Plugins that other tests have loaded into this process have flags with a prefix.
    own = {
        name
        for name, leaf in leaves(Config).items()
        if not leaf.kind or any(not component(leaf.kind, c).prefix for c in leaf.components)
    }
    assert seen | {"d_norm"} == own


def test_flags_that_need_certain_components() -> None:
    style = ["--preset", "ffhq256-stylegan2", "--path-length-weight", "3"]
    config = parse([*style, "--checkpoint-activations"]).config
    assert (config.penalty.path_length_weight, config.engine.checkpoint_activations) == (3.0, True)
    assert parse(["--preset", DCGAN, "--far-fakes", "4"]).config.far.far_fakes == 4


def test_a_changed_component_keeps_what_the_preset_changed() -> None:
    """z_dim = 512 is StyleGAN2's, not the default; g_channel_base does not exist in DCGAN."""
    config = parse(
        ["--preset", "ffhq256-stylegan2", "--generator", "dcgan", "--path-length-weight=0"]
    )
    assert flatten(config.config.g) == flatten(DCGANGeneratorConfig(z_dim=512))
    # The default of --d-norm is that of the chosen discriminator.
    assert parse(["--discriminator", "resnet"]).config.d == ResNetDiscriminatorConfig()
    assert parse(["--discriminator", "resnet", "--d-norm", "none"]).config.d.d_norm == "none"


def test_settings_of_another_component_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"--w-dim=64 is a setting of --generator stylegan2, but"):
        parse(["--preset", DCGAN, "--w-dim", "64"])
    with pytest.raises(ConfigError, match="--saturating=True is a setting of --objective standard"):
        parse(["--preset", DCGAN, "--saturating"])
    # It states what is so anyway.
    assert parse(["--preset", DCGAN, "--no-saturating", "--w_dim=512"]).config == preset(DCGAN)


def test_what_combines_with_little_else_is_a_flag_too() -> None:
    flags = ["--r1", "finite-difference", "--d-activation", "silu", "--r1-gamma", "1"]
    values = flatten(parse(["--preset", DCGAN, *flags]).config)
    assert (values["r1"], values["d_activation"]) == ("finite-difference", "silu")
    p2gan = ["--preset", "cifar10-p2gan-dcgan"]
    assert not flatten(parse([*p2gan, "--no-posterior-modules"]).config)["posterior_modules"]
    assert flatten(parse([*p2gan, "--code-source", "noise"]).config)["code_source"] == "noise"
    flags = ["--cuda-graphs", "--zero-g", "0", "--zero-d", "0", "--auto-batch"]
    values = flatten(parse(["--preset", DCGAN, *flags]).config)
    assert values["cuda_graphs"]
    assert values["auto_batch"]


def test_r1_gamma_can_be_computed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """0.0002 R^2 / batch: 0.0002 x 65,536 / 32."""
    caplog.set_level("INFO")
    config = parse(["--preset", DCGAN, "--r1-gamma", "auto"]).config
    assert config.penalty.r1_gamma == pytest.approx(0.4096)
    assert "--r1-gamma auto is 0.4096 = 0.0002 x 256^2 pixels / batch of 32" in caplog.text
    file = tmp_path / "run.toml"
    file.write_text(f'preset = "{DCGAN}"\nr1_gamma = "auto"\n')
    config = parse(["--config", str(file), "--batch-size", "64"]).config
    assert config.penalty.r1_gamma == pytest.approx(0.2048)
    assert parse(["--config", str(file), "--r1-gamma", "3"]).config.penalty.r1_gamma == 3


def test_local_rank_of_the_launcher_is_accepted() -> None:
    assert parse(["--local_rank=1", "--preset", DCGAN]).config.preset == DCGAN


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_their_json(name: str) -> None:
    import json

    config = preset(name)
    assert from_dict(json.loads(to_json(config))) == config


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["--preset", "dmo"], ["did you mean 'demo'?"]),
        (["--preset", DCGAN, "--resolution", "48"], ["--resolution=48", "power of two"]),
        (["--preset", DCGAN, "--num-outcomes", "1"], ["--num-outcomes=1", "between 2 and 1024"]),
        (["--preset", DCGAN, "--beta1", "1"], ["--beta1=1.0", "[0, 1)"]),
        (["--preset", DCGAN, "--lr-g", "0"], ["--lr-g=0.0", "greater than 0"]),
        (["--preset", DCGAN, "--device", "cuda"], ["--device=cuda"]),
        (["--preset", DCGAN, "--run-dir", "x", "--anchor-kl", "500"], ["500"]),
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

    assert "--data is missing" in refused(capsys, ["--preset", DCGAN, "--run-dir", str(run)])
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
    with pytest.raises(ConfigError, match="no_such_field is unknown"):
        from_dict({"no_such_field": 1})


def test_warmup_and_decay_are_stated_in_images() -> None:
    from realness.trainer.updates.schedule import is_due, lr_factor

    base = preset(DCGAN)
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
    step = 50 * 50_000
    assert [lr_factor(config, images) for images in (0, step - 32, step, 3 * step)] == (
        pytest.approx([1, 1, 0.9, 0.729])
    )
