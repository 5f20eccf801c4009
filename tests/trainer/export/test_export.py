"""export.py: safetensors, ONNX and torch.export of every kind of network, and the model card."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from realness import kernels
from realness.launch import export
from realness.trainer.checkpoint.choosing import choose_checkpoints
from realness.trainer.export import ExportError, Graph, load, write_graph
from realness.trainer.inference.trained import load_discriminator, load_generator
from realness.trainer.storage.scores import Record, append_records
from realness.trainer.storage.weights import WeightsError, read_weights, write_weights
from tests.helpers import ROOT
from tests.helpers.kernel_calls import Recorder
from tests.helpers.run_folders import write_run
from tests.helpers.systems import systems

CPU = torch.device("cpu")
# Every generator and discriminator, every normalisation, codes, and both kinds of score.
KINDS = ("realness", "layer-norm-wgan-gp", "far", "p2gan", "p2gan-resnet", "p2gan-stylegan2")
KINDS += ("p2gan-noise-instance", "r3gan")


def run_of(kind: str, folder: Path) -> Path:
    return write_run(folder / "run", replace(systems()[kind], preset="custom"))


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def close(value: Tensor, other: np.ndarray) -> None:
    np.testing.assert_allclose(other, value.numpy(), rtol=0, atol=1e-3 * value.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_exported_computes_what_the_run_does(kind: str, tmp_path: Path) -> None:
    run, out = run_of(kind, tmp_path), tmp_path / "out"
    assert export.main([str(run), str(out)]) == 0
    folder = choose_checkpoints(run, "latest")[0]
    generator, d = load_generator(run, folder, CPU), load_discriminator(run, folder, CPU)
    index = torch.arange(3)
    z, others = generator.latents(index, 7), generator.inputs(index, 7)
    images, score = generator.render(z, others), d.score(generator.render(z, others))
    assert images.std() > 0.05
    assert score.std() > 0

    again = load(out)
    assert torch.equal(again.generator.sample(index, 7), generator.sample(index, 7))
    torch.testing.assert_close(again.discriminator.score(images), score)
    assert again.generator.images_seen == 80

    inputs = {"z": z, **others}
    feeds = {name: value.numpy() for name, value in inputs.items()}
    close(images, np.asarray(session(out / "generator.onnx").run(["images"], feeds)[0]))
    feeds = {"images": images.numpy()}
    close(score, np.asarray(session(out / "discriminator.onnx").run(["score"], feeds)[0]))
    program = torch.export.load(out / "generator.pt2").module()
    close(images, program(*inputs.values()).detach().numpy())
    close(score, torch.export.load(out / "discriminator.pt2").module()(images)[1].detach().numpy())

    model = onnx.load(out / "generator.onnx")
    assert [opset.version for opset in model.opset_import if not opset.domain] == [18]
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input} == {
        "batch"
    }
    about = {item.key: item.value for item in model.metadata_props}
    assert (about["images_seen"], about["data_digest"]) == ("80", "digest")
    assert ("code_mean" in about) == ("posterior modules" in (out / "README.md").read_text())
    assert ("code_mean" in about) == ("code" in others)
    card = (out / "README.md").read_text()
    from_posterior = "code" in others and kind != "p2gan-noise-instance"
    assert ("draw it from D's posterior" in card) == from_posterior


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["conditional", "conditional-stylegan2"])
def test_exported_graphs_take_classes(kind: str, tmp_path: Path) -> None:
    """One class at a time, and half of two, which the loaded model makes too."""
    run, out = run_of(kind, tmp_path), tmp_path / "out"
    assert export.main([str(run), str(out)]) == 0
    model, index = load(out), torch.arange(4)
    z, others = model.generator.latents(index, 7), model.generator.inputs(index, 7)
    condition = torch.eye(4)
    condition[3, 0] = condition[3, 3] = 0.5
    images = model.generator.render(z, {**others, "code": condition})
    score = model.discriminator.score(images, condition)
    feeds = {"z": z, **others, "classes": condition}
    feeds = {name: value.numpy() for name, value in feeds.items() if name != "code"}
    close(images, np.asarray(session(out / "generator.onnx").run(["images"], feeds)[0]))
    feeds = {"images": images.numpy(), "classes": condition.numpy()}
    close(score, np.asarray(session(out / "discriminator.onnx").run(["score"], feeds)[0]))
    program = torch.export.load(out / "discriminator.pt2").module()
    close(score, program(images, condition)[1].detach().numpy())
    card = (out / "README.md").read_text()
    assert "`classes` float32 [batch, 4]" in card
    assert "The model knows 4 classes." in card
    assert "`code` is the input" not in card


def test_a_loaded_model_keeps_its_implementation(tmp_path: Path) -> None:
    """Whatever implementation the process has chosen when the model is used."""
    run, out, index = run_of("p2gan-stylegan2", tmp_path), tmp_path / "out", torch.arange(2)
    assert export.main([str(run), str(out), "--formats", ""]) == 0
    cases: list[tuple[kernels.Impl, kernels.Impl]] = [("reference", "cpu"), ("cpu", "reference")]
    for impl, around in cases:
        model = load(out, impl=impl)
        inputs = model.generator.latents(index, 0), model.generator.inputs(index, 0)
        with kernels.implementation(around):
            with Recorder() as rendering:
                images = model.generator.render(*inputs)
            with Recorder() as scoring:
                model.discriminator.score(images)
        assert [bool(seen.calls) for seen in (rendering, scoring)] == [impl == "cpu"] * 2


def test_the_card_tells_what_it_is(tmp_path: Path) -> None:
    run, out = run_of("realness", tmp_path), tmp_path / "out"
    row = Record("t", 80, 10, "SWD", 12.25, 64, 64, "", "", 0, "digest", 1.0)
    append_records(run, [row, replace(row, images=72, value=99.5)])
    arguments = [str(run), str(out), "--formats", "", "--licence", "CC-BY-4.0"]
    assert export.main(arguments) == 0
    card = (out / "README.md").read_text()
    generator = load(out).generator
    parameters = sum(value.numel() for value in generator.module.parameters())
    for part in (
        *("CC-BY-4.0", "12.25", "`digest`", "realness, 3 outcomes", "## Limits", "Apache-2.0"),
        f"| G | dcgan | {parameters:,} |",
    ):
        assert part in card
    assert "99.5" not in card
    assert ".onnx` graphs" not in card
    config = (out / "config.json").read_text()
    assert str(tmp_path) not in config
    assert sorted(path.name for path in out.iterdir()) == [
        *("README.md", "config.json", "discriminator.safetensors", "generator.safetensors")
    ]


@pytest.mark.slow
def test_the_documented_lines_work_without_deepspeed(tmp_path: Path) -> None:
    run, out = run_of("realness", tmp_path), tmp_path / "faces-model"
    assert export.main([str(run), str(out), "--formats", ""]) == 0
    page = (ROOT / "docs" / "using-a-run.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    code = f"import sys; sys.modules['deepspeed'] = None\n{code}\nprint(images.shape, len(scores))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "torch.Size([16, 3, 32, 32]) 16", done.stderr


class Restless(nn.Module):
    """Adds more at each call, so that a trace of it is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + 0.01 * self.calls


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_a_graph_that_computes_something_else_is_refused(form: str, tmp_path: Path) -> None:
    graph = Graph("wrong", Restless(), ("x",), ("y",), lambda batch: (torch.ones(batch, 2),), {})
    with pytest.raises(ExportError, match=f"wrong.{form} differs from the network by"):
        write_graph(graph, tmp_path, [form])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--formats", "onnx,tflite"], "unknown ['tflite']"),
        (["--checkpoint", "all"], "name one checkpoint"),
        (["--checkpoint", "81"], "--checkpoint=81"),
    ],
)
def test_wrong_input_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of("realness", tmp_path)
    assert export.main([str(run), str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name)
    )
    run = run_of("realness", tmp_path)
    assert export.main([str(run), str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "ONNX needs onnxscript" in message
    assert '".[export]"' in message
    assert export.main([str(run), str(tmp_path / "out"), "--formats", ""]) == 0


def test_a_failed_export_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("realness.trainer.export.graphs.MAX_DIFFERENCE", -1.0)
    run = run_of("realness", tmp_path)
    assert export.main([str(run), str(tmp_path / "out"), "--formats", "pt2"]) == 1
    assert "generator.pt2 differs" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_a_full_disk_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    run = run_of("realness", tmp_path)
    monkeypatch.setattr("realness.trainer.storage.weights.save_file", full)
    assert export.main([str(run), str(tmp_path / "out"), "--formats", ""]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


# --- files of weights


def test_weights_come_back_with_their_header(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.tensor(3)}
    write_weights(tmp_path / "net.safetensors", tensors, {"images_seen": "80"})
    found, about = read_weights(tmp_path / "net.safetensors")
    assert about == {"images_seen": "80"}
    assert torch.equal(found["a"], tensors["a"])
    assert torch.equal(found["b"], tensors["b"])
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize("damage", ["cut", "missing", "foreign", "other network"])
def test_weights_that_do_not_fit_are_named(damage: str, tmp_path: Path) -> None:
    run, out = run_of("realness", tmp_path), tmp_path / "out"
    assert export.main([str(run), str(out), "--formats", ""]) == 0
    path = out / "discriminator.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-8])
    elif damage == "missing":
        path.unlink()
    elif damage == "foreign":
        write_weights(path, {"a": torch.ones(2)}, {})
    else:
        path.write_bytes((out / "generator.safetensors").read_bytes())
    with pytest.raises(WeightsError, match=r"discriminator\.safetensors"):
        load(out)
