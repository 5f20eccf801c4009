"""`realness convert`: run folders of public models and exports, from which all commands work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from realness.launch import consolidate, convert, evaluate, export, generate
from realness.trainer.checkpoint.choosing import choose_checkpoints
from realness.trainer.inference.adjusting import adjusted, with_fixed_noise
from realness.trainer.inference.trained import (
    TrainedGenerator,
    load_generator,
)
from realness.trainer.storage.origin import read_origin
from tests.helpers.metric_images import pictures
from tests.helpers.public_files import (
    noise_and_centre,
    nvidia_pickle,
    r3gan_pickle,
    random_states,
    rosinality_file,
    tiny_r3gan,
    tiny_stylegan2,
    write,
)
from tests.helpers.ranks import run_command

CPU = torch.device("cpu")
STATES = random_states(tiny_stylegan2())
SOURCE = "https://example.org/ffhq.pkl"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a public model, the run made of it, and images."""
    root = tmp_path_factory.mktemp("public")
    write(root / "ffhq.pkl", nvidia_pickle(STATES))
    (root / "data").mkdir()
    for number, image in enumerate(pictures(16).permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(root / "data" / f"{number:02d}.png")
    assert convert.main([str(root / "ffhq.pkl"), str(root / "run"), "--source", SOURCE]) == 0
    return root


def loaded(run: Path) -> TrainedGenerator:
    return load_generator(run, choose_checkpoints(run, "latest")[-1], CPU)


def test_the_run_has_the_weights_and_what_belongs_to_them(folder: Path) -> None:
    generator = loaded(folder / "run")
    state = generator.module.state_dict()
    assert all(torch.equal(state[name], value) for name, value in STATES["EMA"].items())
    noise, centre = noise_and_centre(10)
    kept = generator.kept
    assert kept is not None
    assert kept.origin.source == SOURCE
    assert kept.origin.non_commercial
    assert torch.equal(adjusted(generator, 0.5, "random").centre, centre)  # type: ignore[arg-type]
    inputs = with_fixed_noise(generator).inputs(torch.arange(3), seed=0)
    flat = torch.cat([x.flatten() for x in noise.values()])
    assert torch.equal(inputs["noise"], flat.expand(3, -1))
    config = generator.config
    assert config.ema_rampup == 0
    assert config.g.g_clamp == config.d.d_clamp == 256  # type: ignore[attr-defined]


def test_every_command_works_from_it_and_says_that_it_is_non_commercial(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, few = str(folder / "run"), ["--device", "cpu", "--batch-size", "8"]
    said = "NOT FOR COMMERCIAL USE: the weights come from " + SOURCE
    data = str(folder / "data")
    calls = {
        "generate": lambda: generate.main(
            [
                run,
                str(tmp_path / "g"),
                "--num",
                "2",
                "--truncation",
                "0.7",
                "--noise",
                "fixed",
                *few,
            ]
        ),
        "evaluate": lambda: evaluate.main(
            [run, "--metrics", "swd", "--num-images", "8", "--data", data, *few]
        ),
        "export": lambda: export.main([run, str(tmp_path / "e"), "--formats", ""]),
        "consolidate": lambda: consolidate.main([run, str(tmp_path / "c")]),
    }
    for name, call in calls.items():
        caplog.clear()
        monkeypatch.setattr("realness.trainer.inference.kept.SAID", set())
        assert call() == 0, name
        assert caplog.text.count(said) == 1, name
    assert read_origin(tmp_path / "c") == read_origin(folder / "run")
    card = (tmp_path / "e" / "README.md").read_text()
    assert said in card
    assert 'license: "NVIDIA Source Code License (non-commercial)' in card


def test_an_export_becomes_a_run_again(folder: Path, tmp_path: Path) -> None:
    out, run = tmp_path / "e", tmp_path / "run"
    assert export.main([str(folder / "run"), str(out), "--formats", ""]) == 0
    assert convert.main([str(out), str(run)]) == 0
    before, after = loaded(folder / "run"), loaded(run)
    index = torch.arange(2)
    for psi, noise in ((1.0, "random"), (0.5, "fixed")):
        images = [adjusted(each, psi, noise).sample(index, 1) for each in (before, after)]  # type: ignore[arg-type]
        assert torch.equal(*images)
    assert read_origin(run) == read_origin(folder / "run")


@pytest.mark.slow
def test_training_goes_on_from_it(folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(folder / "run", tmp_path / "run"))
    arguments = ["--config", str(run / "config.json"), "--run-dir", str(run), "--device", "cpu"]
    arguments += ["--data", str(folder / "data"), "--batch-size", "8", "--accept-config-change"]
    assert run_command([*arguments, "--total-kimg", "0.016", "--zero-g", "0", "--zero-d", "0"]) == 0
    generator = loaded(run)
    assert generator.images_seen == 16
    weights = generator.module.state_dict()
    moved = sum(not torch.equal(weights[name], value) for name, value in STATES["EMA"].items())
    assert moved > len(STATES["EMA"]) / 2
    # The average follows G by half in ema_halflife_kimg, so it has hardly moved after 16 images.
    start = STATES["EMA"]["start"]
    assert torch.dist(weights["start"], start) < 0.02 * torch.linalg.vector_norm(start)
    # The centre that came with the weights is not theirs any more; their licence still holds.
    assert generator.kept is not None
    assert generator.kept.centre is None
    assert generator.kept.origin.non_commercial


def test_r3gan_becomes_a_run_at_the_end_of_its_schedules(tmp_path: Path) -> None:
    states = random_states(tiny_r3gan())
    write(tmp_path / "x.pkl", r3gan_pickle(states))
    assert convert.main([str(tmp_path / "x.pkl"), str(tmp_path / "run")]) == 0
    generator = loaded(tmp_path / "run")
    assert torch.equal(generator.module.state_dict()["basis"], states["EMA"]["basis"])
    config = generator.config
    # The numbers of CIFAR10 in R3GAN's published code, at the end of its schedules.
    assert (config.penalty.r1_gamma, config.penalty.r2_gamma) == (0.005, 0.005)
    assert config.optimizer.lr_g == 5e-5
    assert config.optimizer.algorithm.beta2 == 0.99  # type: ignore[attr-defined]
    assert config.ema_halflife_kimg == 5000
    assert config.augment.augment_p == 0.55  # type: ignore[attr-defined]
    images = [str(tmp_path / "run"), str(tmp_path / "images"), "--num=2", "--device=cpu"]
    assert generate.main(images) == 0


def test_what_a_file_lacks_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = torch.load(write(tmp_path / "x.pt", rosinality_file(STATES)), weights_only=False)
    torch.save({"g_ema": content["g_ema"]}, tmp_path / "x.pt")
    assert convert.main([str(tmp_path / "x.pt"), str(tmp_path / "run"), "--licence", "CC0"]) == 0
    output = capsys.readouterr()
    assert "the file has no D, so D is random" in output.err
    assert "licence: CC0" in output.out
    origin = read_origin(tmp_path / "run")
    assert origin is not None
    assert (origin.missing, origin.non_commercial) == ("D", False)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("page.html", "is a web page"),
        ("half.pkl", "cut short"),
        ("images", "it is a folder, not a model file"),
        ("run", "is a run already"),
        ("nothing.pkl", "does not exist"),
    ],
)
def test_bad_input_is_refused(
    name: str, what: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "page.html").write_text("<!doctype html>")
    (tmp_path / "half.pkl").write_bytes((folder / "ffhq.pkl").read_bytes()[:50_000])
    path = folder / "run" if name == "run" else tmp_path / name
    assert convert.main([str(path), str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert what in message
    assert "Traceback" not in message
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_a_full_disk_is_noticed_before_anything_is_written(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert convert.main([str(folder / "ffhq.pkl"), str(tmp_path / "out")]) == 2
    assert "0.0 GiB free, but the run needs" in capsys.readouterr().err
    assert not any((tmp_path / "out").iterdir())


def test_an_origin_that_is_damaged_does_not_lose_the_licence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(folder / "run", tmp_path / "run"))
    (run / "origin.json").write_text(json.dumps({"source": "x"}))
    assert generate.main([str(run), str(tmp_path / "out"), "--num", "1"]) == 2
    assert "does not state the origin of the weights" in capsys.readouterr().err
