"""`--plugin FILE`: what it registers, the flags that it adds, and the errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from realness.launch import train_ffhq
from realness.launch.train_arguments import parse
from realness.trainer.config import ConfigError, flatten, from_dict, to_json
from realness.trainer.config.components import DEFAULTS, registered
from realness.trainer.storage.run_folder import open_run_folder, read_config, write_config
from tests.helpers import ROOT

NETWORK = str(ROOT / "examples" / "pixel_norm_network.py")
HEAD = """
from dataclasses import dataclass, field
from realness.trainer.config import GeneratorConfig, ObjectiveConfig, register
"""
LOSS = """
@register("own-loss")
@dataclass(frozen=True)
class Own(ObjectiveConfig):
    "A loss."
"""


def plugin(folder: Path, text: str, name: str = "own.py") -> str:
    path = folder / name
    path.write_text(HEAD + text)
    return str(path)


def test_fields_become_flags_under_the_components_name(tmp_path: Path) -> None:
    arguments = ["--preset", "demo", "--plugin", NETWORK, "--generator", "pixel-norm"]
    config = parse([*arguments, "--pixel-norm-width", "8"]).config
    assert flatten(config)["pixel_norm_width"] == 8
    assert config.g.name == "pixel-norm"
    assert from_dict(json.loads(to_json(config))) == config
    file = tmp_path / "own.toml"
    file.write_text('generator = "pixel-norm"\n[g]\npixel_norm_width = 12\n')
    again = parse(["--preset", "demo", "--config", str(file), "--plugin", NETWORK]).config
    assert flatten(again)["pixel_norm_width"] == 12


def test_they_appear_in_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--plugin", NETWORK, "--help"])
    printed = capsys.readouterr().out
    assert "--pixel-norm-width INT" in printed
    assert "Channels at the resolution of the images." in printed


def test_a_variant_of_a_network_keeps_the_flags_of_the_original(tmp_path: Path) -> None:
    text = """
from realness.trainer.networks.configs import DCGANGeneratorConfig

@register("wide")
@dataclass(frozen=True)
class Wide(DCGANGeneratorConfig):
    "A wider DCGAN."
    factor: int = 2
"""
    arguments = ["--preset", "demo", "--plugin", plugin(tmp_path, text), "--generator", "wide"]
    values = flatten(parse([*arguments, "--g-width", "4", "--wide-factor", "3"]).config.g)
    assert (values["g_width"], values["wide_factor"]) == (4, 3)


def test_another_file_on_resume_is_refused(tmp_path: Path) -> None:
    run = ["--run-dir", str(tmp_path / "run"), "--objective", "own-loss", "--plugin"]
    config = parse([*run, plugin(tmp_path, LOSS)]).config
    write_config(open_run_folder(config), config)
    # The same contents at another place are the same plugin.
    open_run_folder(parse([*run, plugin(tmp_path, LOSS, "moved.py")]).config)
    (tmp_path / "later").mkdir()
    changed = parse([*run, plugin(tmp_path / "later", f"{LOSS}\n# changed\n")]).config
    with pytest.raises(ConfigError, match=r"contents of the --plugin files \(sha256\): the run"):
        open_run_folder(changed)
    accepted = [*run, str(tmp_path / "later" / "own.py"), "--accept-config-change"]
    open_run_folder(parse(accepted).config)


def test_a_file_never_runs_code_by_itself(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    path = plugin(tmp_path, f"open({str(marker)!r}, 'w').close()\n{LOSS}", "spy.py")
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"plugin": [path], "plugin_sha256": ["0" * 64]}))
    with pytest.raises(ConfigError, match=r"needs the plugin .*spy\.py .*add --plugin"):
        parse(["--config", str(file)])
    assert not marker.exists()


@pytest.mark.parametrize("record", [5, "own.py", [1], ["own.py"]])
def test_a_record_that_is_not_valid(record: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"plugin": record}))
    with pytest.raises(ConfigError, match="no valid record of its plugins"):
        read_config(tmp_path)


CASES = {
    "nothing": ("x = 1", "registers nothing"),
    "broken": ("x = 1\ny = missing", "line 5: NameError"),
    "syntax": ("def f(:", "SyntaxError"),
    "stranger": (
        '@register("a")\n@dataclass(frozen=True)\nclass A:\n    "A."',
        "must inherit from GeneratorConfig",
    ),
    "thawed": ('@register("a")\nclass A(GeneratorConfig):\n    "A."', "must be a frozen dataclass"),
    "taken": (
        '@register("dcgan")\n@dataclass(frozen=True)\nclass A(GeneratorConfig):\n    "A."',
        "has already registered",
    ),
    "clash": (
        '@register("a", prefix="")\n@dataclass(frozen=True)\nclass A(ObjectiveConfig):\n'
        '    "A."\n    lr_g: float = 1.0',
        "two fields have the flag --lr-g",
    ),
    "bare": (
        '@register("a")\n@dataclass(frozen=True)\nclass A(ObjectiveConfig):\n'
        '    "A."\n    width: int',
        "needs a default",
    ),
    "odd": (
        '@register("a")\n@dataclass(frozen=True)\nclass A(ObjectiveConfig):\n'
        '    "A."\n    sizes: dict = field(default_factory=dict)',
        "--a-sizes cannot be a flag",
    ),
    "own rule": (
        '@register("a")\n@dataclass(frozen=True)\nclass A(GeneratorConfig):\n'
        '    "A."\n    z_dim: int = 0',
        "--z-dim=0 must be greater than 0",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_with_a_plugin_is_said(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, expected = CASES[case]
    path = plugin(tmp_path, text)
    before = {kind: dict(registered(kind)) for kind in DEFAULTS}
    assert train_ffhq.main(["--preset", "demo", "--plugin", path]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert expected in message
    assert path in message
    assert {kind: registered(kind) for kind in DEFAULTS} == before


def test_files_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_ffhq.main(["--plugin", str(tmp_path / "none.py")]) == 2
    assert "cannot be read: No such file" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("x = 1\n")
    assert train_ffhq.main(["--plugin", str(tmp_path / "notes.txt")]) == 2
    assert "its name must end in .py" in capsys.readouterr().err


def test_an_unknown_component_is_answered_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'stylegan2'\?.*--plugin FILE"):
        parse(["--generator", "stylegan"])
