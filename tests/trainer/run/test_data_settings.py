"""Every image setting reaches every stream of the program."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from realness.data_pipeline import ImageStream, SourceKind
from realness.launch import evaluate
from realness.trainer.config import DataConfig
from realness.trainer.distributed import streams
from realness.trainer.randomness import Stream
from realness.trainer.storage.run_folder import read_config, write_config
from tests.helpers.data_images import write_tar
from tests.helpers.ranks import run_command, tiny_arguments, write_images

TRAINED_ON = (Stream.D_REAL, Stream.G_REAL)
NOT_PASSED_ON = {
    **dict.fromkeys(
        ("source_kind", "wds_image", "follow_links", "labels"),
        "open_images opens the catalog with it",
    ),
    "dequantize": "Gan.normalise adds the noise to the decoded images of a training step",
}
NOT_DEFAULT = {
    "resolution": 64,
    "mirror": False,
    "dequantize": True,
    "decoder": "threads",
    "decode_threads": 3,
    "max_bad_images": 7,
}


class RecordingStream(ImageStream):
    """An ImageStream that appends its arguments to the file `log`."""

    log = Path()

    def __init__(
        self, catalog: Any, settings: Any, share: Any, *, purpose: int, **rest: Any
    ) -> None:
        opened = {"data": catalog.source, **asdict(settings), "purpose": purpose}
        with self.log.open("a") as file:
            file.write(json.dumps(opened) + "\n")
        super().__init__(catalog, settings, share, purpose=purpose, **rest)


def record_streams(log: Path) -> None:
    RecordingStream.log = log
    streams.ImageStream = RecordingStream  # type: ignore[misc]


def opened(log: Path) -> dict[Stream, dict[str, Any]]:
    """The settings of the streams in a log by their purpose, which they must agree on."""
    found: dict[Stream, dict[str, Any]] = {}
    for line in log.read_text().splitlines():
        settings = json.loads(line)
        purpose = Stream(settings.pop("purpose"))
        assert found.setdefault(purpose, settings) == settings
    return found


def arguments(folder: Path, **changes: Any) -> list[str]:
    """A run of three iterations that trains, shows real images and measures metrics."""
    settings = NOT_DEFAULT | changes
    images = write_images(folder / "images", 24, settings["resolution"])
    listed = []
    for name, value in settings.items():
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            listed.append(option if value else option.replace("--", "--no-", 1))
        else:
            listed += [option, str(value)]
    measured = ("--metrics", "swd", "--metrics-kimg", "0.016", "--metrics-images", "8")
    total = ("--total-kimg", "0.024")
    return [*tiny_arguments(images, folder / "run"), *listed, *measured, *total]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("settings")
    prepare = partial(record_streams, folder / "log")
    assert run_command(arguments(folder), prepare) == 0
    return folder


def check(found: dict[str, Any], folder: Path) -> None:
    expected = NOT_DEFAULT | {"data": str(folder / "images")}
    for field in fields(DataConfig):
        if field.name not in NOT_PASSED_ON:
            assert expected[field.name] != field.default
            assert found[field.name] == expected[field.name], field.name


@pytest.mark.parametrize("purpose", [*TRAINED_ON, Stream.SHOWN, Stream.REFERENCE])
def test_training_passes_every_setting_on(trained: Path, purpose: Stream) -> None:
    check(opened(trained / "log")[purpose], trained)


def test_evaluating_passes_every_setting_on(
    trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(RecordingStream, "log", tmp_path / "log")
    monkeypatch.setattr(streams, "ImageStream", RecordingStream)
    asked = [str(trained / "run"), "--metrics", "swd", "--num-images", "8", "--device", "cpu"]
    assert evaluate.main(asked) == 0
    found = opened(tmp_path / "log")
    assert found.keys() == {Stream.REFERENCE}
    check(found[Stream.REFERENCE], trained)
    # The measuring machine may have a different decoder from the training machine.
    (tmp_path / "log").unlink()
    assert evaluate.main([*asked, "--decoder", "auto"]) == 0
    assert opened(tmp_path / "log")[Stream.REFERENCE]["decoder"] == "auto"


def test_evaluating_opens_other_data_as_its_own_flags_say(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not as the flags of the run say, which are about the images that it was trained on."""
    run = shutil.copytree(trained / "run", tmp_path / "run")
    config = read_config(run)
    write_config(run, replace(config, data=replace(config.data, source_kind="zip")))
    mixed = write_images(tmp_path / "mixed", 8, 64)
    write_tar(mixed / "other.tar", {})
    asked = [str(run), "--metrics", "swd", "--num-images", "8", "--device", "cpu"]
    assert evaluate.main([*asked, "--data", str(mixed)]) == 2
    assert "choose it with --source-kind tar or --source-kind folder" in capsys.readouterr().err
    assert evaluate.main([*asked, "--data", str(mixed), "--source-kind", "folder"]) == 0
    assert evaluate.main([*asked, "--data", str(trained / "images")]) == 0


def test_the_kinds_of_sources_are_those_of_the_data_pipeline() -> None:
    kinds = get_args(get_type_hints(DataConfig)["source_kind"])
    assert kinds == get_args(SourceKind)


def test_only_images_to_be_trained_on_are_mirrored(tmp_path: Path) -> None:
    log = tmp_path / "log"
    asked = arguments(tmp_path, mirror=True, resolution=32)
    assert run_command(asked, partial(record_streams, log)) == 0
    mirrored = {purpose: settings["mirror"] for purpose, settings in opened(log).items()}
    assert mirrored == {
        Stream.D_REAL: True,
        Stream.G_REAL: True,
        Stream.SHOWN: False,
        Stream.REFERENCE: False,
    }
