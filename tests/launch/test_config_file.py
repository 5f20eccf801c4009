"""`--config FILE`: fields from JSON, TOML and YAML, over the preset and below the flags."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from realness.launch import train_ffhq
from realness.launch.presets import DEFAULT, PRESETS, preset
from realness.launch.train_arguments import parse
from realness.trainer.config import TrainConfig, flatten, to_json, with_fields
from realness.trainer.config.fields import nest
from realness.trainer.config.files import read_fields
from realness.trainer.distributed.exit_codes import EXIT_OK, EXIT_STOPPED, EXIT_USAGE
from realness.trainer.run import loop
from realness.trainer.storage.run_folder import read_config, write_config
from tests.helpers.ranks import (
    TIMEOUT_SECONDS,
    TRAIN,
    free_port,
    run_command,
    tiny_arguments,
    write_images,
)


def toml(values: dict[str, Any], section: str = "") -> str:
    """TOML as a person writes it: plain fields first, then tables; it has no null."""
    tables = {name: value for name, value in values.items() if isinstance(value, dict)}
    plain = {name: value for name, value in values.items() if name not in tables}
    lines = [
        f"{name} = {json.dumps('none' if value is None else value)}"
        for name, value in plain.items()
    ]
    for name, value in tables.items():
        path = f"{section}{name}"
        lines += [f"[{path}]", toml(value, f"{path}.")]
    return "\n".join(lines)


WRITERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "json": json.dumps,
    "toml": toml,
    "yaml": lambda values: yaml.safe_dump(values, sort_keys=False),
    "yml": lambda values: yaml.safe_dump(values, default_flow_style=True),
}


def parsed(file: Path, *flags: str) -> TrainConfig:
    return parse(["--config", str(file), *flags]).config


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def exit_code(arguments: list[str]) -> int:
    """The command's, whether it returns it or tyro ends the process with it."""
    try:
        return train_ffhq.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


# --- what a file may hold


@pytest.mark.parametrize("name", PRESETS)
def test_a_config_json_gives_its_configuration_back(name: str, tmp_path: Path) -> None:
    """Under the name of another preset, so that every field must come from the file."""
    other = "demo" if name == DEFAULT else DEFAULT
    config = replace(preset(name), preset=other, run_dir="runs/x y", seed=2**62 + 1)
    config = replace(config, data=replace(config.data, data="-images="))
    file = written(tmp_path, "config.json", to_json(config))
    assert parsed(file) == config
    for ending, write in WRITERS.items():
        for values in (nest(config), flatten(config)):
            file = written(tmp_path, f"any.{ending}", write(values))
            assert read_fields(file) == flatten(config), file.read_text()


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("form", [nest, flatten])
def test_every_format_sets_the_command(
    ending: str, form: Callable[[TrainConfig], dict[str, Any]], tmp_path: Path
) -> None:
    config = replace(preset("cifar10-p2gan-resnet"), preset="ffhq256-stylegan2")
    file = written(tmp_path, f"run.{ending}", WRITERS[ending](form(config)))
    assert parsed(file) == config


def test_a_run_without_a_preset_is_taken_as_it_is(tmp_path: Path) -> None:
    config = TrainConfig(batch_size=8)
    assert parsed(written(tmp_path, "config.json", to_json(config))) == config


def test_flags_go_before_the_file_and_the_file_before_the_preset(tmp_path: Path) -> None:
    text = "preset: demo\nlr_g: 0.003\nlr_d: 0.004\nmirror: false\noptimizer:\n  beta1: 0.1\n"
    file = written(tmp_path, "run.yaml", text)
    config = parsed(file, "--lr-d", "0.005", "--mirror")
    assert config == with_fields(preset("demo"), lr_g=0.003, lr_d=0.005, beta1=0.1)
    assert parsed(file).data.mirror is False

    config = parsed(file, "--preset", "ffhq256-stylegan2")
    base = preset("ffhq256-stylegan2")
    assert config == with_fields(base, lr_g=0.003, lr_d=0.004, beta1=0.1, mirror=False)
    assert parsed(file, "--preset", "ffhq256-stylegan2", "--preset=demo") == parsed(file)
    assert parsed(written(tmp_path, "none.toml", "")) == preset(DEFAULT)


def test_a_flag_can_put_a_file_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """64 generated images among the 32 of a batch are refused; among 128 they are not."""
    file = written(tmp_path, "far.toml", "far_fakes = 64\nbatch-size = 32\n")
    assert exit_code(["--config", str(file)]) == EXIT_USAGE
    assert "--far-fakes=64 must be less than" in capsys.readouterr().err
    assert parsed(file, "--batch-size", "128").far.far_fakes == 64


def test_what_yaml_reads_otherwise_than_people_do(tmp_path: Path) -> None:
    text = "lr_g: 1e-4\ng-width: 8\nanchor_kl: ~\nlr_decay: none\nbeta1: 0\ntotal_kimg: 7\ng:\n"
    config = parsed(written(tmp_path, "run.yaml", "\ufeff" + text))
    assert (config.optimizer.lr_g, config.optimizer.lr_decay) == (1e-4, "none")
    assert (flatten(config)["g_width"], flatten(config)["anchor_kl"]) == (8, None)
    assert isinstance(config.total_kimg, float)


# --- what is refused


@pytest.mark.parametrize(
    ("name", "text", "messages"),
    [
        ("a.toml", "lrg = 1.0", ["lrg is unknown; did you mean lr_g?"]),
        ("a.toml", "[g]\ng_widht = 8", ["g.g_widht is unknown; did you mean g_width?"]),
        ("a.json", '{"d": {"lr_g": 1}}', ["d.lr_g is unknown; did you mean optimizer.lr_g?"]),
        ("a.yaml", "optimiser:\n  lr_g: 1", ["optimiser is unknown; did you mean optimizer?"]),
        ("a.yaml", "qqqq: 1\nfoo: 2", ["qqqq is unknown\n", "foo is unknown\n"]),
        ("a.yaml", "1: 2", ["1 is unknown"]),
        ("a.yaml", "lr_g: 1\noptimizer: {lr-g: 2}", ["optimizer.lr-g is given twice"]),
        ("a.json", '{"batch_size": "many"}', ["batch_size: 'many' is not a whole number"]),
        ("a.toml", "batch_size = 8.0", ["batch_size: 8.0 is not a whole number"]),
        ("a.toml", "batch_size = true", ["batch_size: True is not a whole number"]),
        ("a.json", '{"lr_g": true}', ["lr_g: True is not a number"]),
        ("a.json", '{"lr_g": "fast"}', ["lr_g: 'fast' is not a number"]),
        ("a.json", f'{{"lr_g": 1{"0" * 400}}}', ["lr_g: 1000", "is not a number"]),
        ("a.json", '{"anchor_kl": []}', ["anchor_kl: [] is not a number or 'none'"]),
        ("a.yaml", "mirror: 'no'", ["mirror: 'no' is not true or false"]),
        ("a.yaml", "resample: off", ["resample: False is not one of", "'none'", "quote it"]),
        ("a.toml", "zero_g = 4", ["zero_g: 4 is not one of 0, 1, 2, 3"]),
        ("a.toml", "zero_g = true", ["zero_g: True is not one of 0, 1, 2, 3"]),
        ("a.json", '{"run_dir": 5}', ["run_dir: 5 is not text"]),
        ("a.json", '{"g": 5}', ["g: 5 is not a section of fields"]),
        ("a.json", '{"lr_g": {"x": 5}}', ["lr_g: {'x': 5} is not a number"]),
        ("a.json", "[1]", ["a.json holds [1]; expected fields"]),
        ("a.json", "{", ["a.json is not valid JSON"]),
        ("a.json", "[" * 100_000, ["a.json is not valid JSON"]),
        ("a.toml", "lr_g 1", ["a.toml is not valid TOML", "line 1"]),
        ("a.yaml", "a: [", ["a.yaml is not valid YAML", "line 1"]),
        ("a.yaml", "x: !!python/object/apply:os.abort []", ["a.yaml is not valid YAML"]),
        ("a.ini", "", ["a.ini has no known format", ".json, .toml, .yaml, .yml"]),
        ("a.toml", 'preset = "dmo"', ["--preset=dmo is unknown; did you mean 'demo'?"]),
    ],
)
def test_what_is_wrong_is_named(
    name: str,
    text: str,
    messages: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = written(tmp_path, name, text)
    assert train_ffhq.main([f"--config={file}"]) == EXIT_USAGE
    printed = capsys.readouterr().err
    for message in messages:
        assert message in printed
    if "--" not in messages[0]:
        assert f"--config={file}" in printed
    # The other ranks end with the same code, and leave the message to the first one.
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert train_ffhq.main([f"--config={file}"]) == EXIT_USAGE
    assert capsys.readouterr().err == ""


def test_a_value_out_of_range_is_named_as_its_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, "a.toml", "lr_g = 0.0")
    assert exit_code(["--config", str(file)]) == EXIT_USAGE
    assert "--lr-g=0.0 must be greater than 0" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, text = tmp_path / "folder.json", tmp_path / "text.json"
    folder.mkdir()
    text.write_bytes(b'{"preset": "\xff"}')
    for path, reason in (
        (tmp_path / "nowhere.toml", "cannot be read: No such file or directory"),
        (folder, "cannot be read: Is a directory"),
        (text, "is not valid JSON: 'utf-8' codec"),
    ):
        assert train_ffhq.main(["--config", str(path)]) == EXIT_USAGE
        assert f"--config={path} {reason}" in capsys.readouterr().err


# --- runs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images", 16)


def stop_after_a_checkpoint() -> None:
    """Ask the run to stop as soon as it has written one."""
    save = loop.save_checkpoint

    def save_and_stop(run: Any) -> None:
        save(run)
        signal.raise_signal(signal.SIGTERM)

    loop.save_checkpoint = save_and_stop


def losses(run: Path) -> list[tuple[float, ...]]:
    records = map(json.loads, (run / "stats.jsonl").read_text().splitlines())
    return [(record["images"], record["loss_d"], record["loss_g"]) for record in records]


@pytest.mark.slow
def test_a_config_json_alone_resumes_its_run(data: Path, tmp_path: Path) -> None:
    lengths = ("--total-kimg", "0.08", "--checkpoint-kimg", "0.032", "--device", "cpu")
    straight, run = tmp_path / "straight", tmp_path / "run"
    assert run_command(tiny_arguments(data, straight, *lengths)) == EXIT_OK
    arguments = tiny_arguments(data, run, *lengths)
    assert run_command(arguments, stop_after_a_checkpoint) == EXIT_STOPPED
    assert losses(run) == losses(straight)[: len(losses(run))] != losses(straight)
    file = str(run / "config.json")
    # Another learning rate is another run, as it is without the file.
    assert run_command(["--config", file, "--lr-g", "1"]) == EXIT_USAGE
    assert run_command(["--config", file]) == EXIT_OK
    assert losses(run) == losses(straight)
    assert read_config(run) == parse(arguments).config


def test_permission_to_change_a_run_is_not_kept(tmp_path: Path) -> None:
    """Or a later command with this config.json would change the run without having said so."""
    write_config(tmp_path, replace(preset("demo"), accept_config_change=True))
    assert parsed(tmp_path / "config.json") == preset("demo")


LAUNCHERS = {
    "deepspeed": [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", "2"],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"],
    "supervised": [sys.executable],
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_and_supervisors_pass_the_file_on(
    launcher: str, data: Path, tmp_path: Path
) -> None:
    config = parse(tiny_arguments(data, tmp_path / "run", "--device", "cpu")).config
    written(tmp_path, "run.toml", toml(asdict(replace(config, total_kimg=0.016))))
    port = ["--master_port", str(free_port())] * (launcher != "supervised")
    restarts = ["--max-restarts", "1"] * (launcher == "supervised")
    done = subprocess.run(
        [*LAUNCHERS[launcher], *port, str(TRAIN), *restarts, "--config", "run.toml"],
        cwd=tmp_path,
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == EXIT_OK, done.stdout
    assert [images for images, *_ in losses(tmp_path / "run")] == [8, 16]


@pytest.mark.slow
def test_a_dry_run_prints_the_resulting_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, "run.yaml", "preset: demo\nengine: {device: cpu}\ng: {g_width: 8}\n")
    assert train_ffhq.main(["--dry-run", "--config", str(file), "--lr-g", "0.5"]) == EXIT_OK
    printed = capsys.readouterr().out.splitlines()
    for line in ("--preset demo", "--device cpu", "--g-width 8", "--lr-g 0.5"):
        assert f"  {line}" in printed
