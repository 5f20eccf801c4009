"""The model card: contents, origin and limits of an exported folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from realness.trainer.export.folder import Exported
from realness.trainer.export.graphs import input_names
from realness.trainer.objectives.configs import P2GANConfig, RealnessConfig
from realness.trainer.storage.files import write_text
from realness.trainer.storage.origin import NO_LICENCE
from realness.trainer.storage.scores import Record

CARD_FILE = "README.md"
MOST_NAMES = 100
"""More names of classes are not listed in the card."""


def write_card(
    exported: Exported,
    records: Iterable[Record],
    differences: Mapping[str, float],
    out: Path,
    *,
    licence: str = NO_LICENCE,
) -> Path:
    """Write `README.md` into the folder `out`; returns its path.

    records: scores of the run, of which those of this checkpoint are shown; differences: deviation
    of each graph from its network, by file name (see `MAX_DIFFERENCE`).
    """
    parts = [
        _head(exported, licence),
        _use(exported, sorted(differences)),
        _training(exported),
        _networks(exported),
        _scores(
            [
                record
                for record in records
                if (record.images, record.weights)
                == (exported.generator.images_seen, exported.generator.weights)
            ]
        ),
        _files(differences),
        _limits(),
        _origin(exported),
        _licence(licence),
    ]
    write_text(out / CARD_FILE, "\n".join(part for part in parts if part))
    return out / CARD_FILE


def _head(exported: Exported, licence: str) -> str:
    config = exported.generator.config
    size = config.data.resolution
    weights = exported.generator.weights
    generator = {
        "ema": "the moving average of the generator",
        "raw": "the generator (raw weights)",
    }.get(weights, f"a power-function average of the generator, computed after training: {weights}")
    front = "" if licence == NO_LICENCE else f"---\nlicense: {_quoted(licence)}\n---\n"
    return (
        f"{front}# Generator and discriminator, {size}x{size}\n\n"
        f"A generative adversarial network (objective `{config.objective.name}`, preset "
        f"`{config.preset}`): {generator}, and the discriminator, after "
        f"{exported.generator.images_seen:,} images of training.\n"
    )


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _use(exported: Exported, files: Sequence[str]) -> str:
    plugins = list(exported.generator.config.plugin)
    needed = f", plugins={plugins}" if plugins else ""
    text = (
        "## Use\n\n```python\nimport torch\nfrom realness.trainer.export import load\n\n"
        f'model = load("FOLDER"{needed})\n'
        "images = model.generator.sample(torch.arange(16), seed=0)  # uint8 [16, 3, R, R]\n"
    )
    if exported.generator.classes is None:
        text += "scores = model.discriminator.score(images / 127.5 - 1)  # higher is more real\n"
    else:
        text += (
            "classes = model.generator.condition(torch.arange(16), seed=0)\n"
            "scores = model.discriminator.score(images / 127.5 - 1, classes)  # high is real\n"
            "cats = model.generator.of_classes([3]).sample(torch.arange(16), seed=0)  # class 3\n"
        )
    text += "```\n"
    if "generator.onnx" in files or "generator.pt2" in files:
        text += (
            "\nThe `.onnx` and `.pt2` graphs run without realness. `generator` maps "
            f"{_inputs(exported)} to `images` float32 [batch, 3, R, R] in [-1, 1]; `discriminator` "
            "maps such `images` to `output` [batch, outputs] and `score` [batch].\n"
        )
    generator = exported.generator
    if generator.classes is not None:
        names = generator.config.classes.class_names
        listed = f": {', '.join(names)}" if 0 < len(names) <= MOST_NAMES else ""
        text += (
            f"\nThe model knows {generator.classes.num_classes:,} classes{listed}. `classes` has a "
            "row per image with 1 at its class and 0 elsewhere; rows in between mix classes. The "
            "discriminator takes it after `images`.\n"
        )
    factors = generator.code_factors
    if factors is not None:
        pairs = ", ".join(
            f"{mean:.5g} ± {std:.5g}"
            for mean, std in zip(*(values.tolist() for values in factors), strict=True)
        )
        text += (
            "\n`code` is the input of the posterior modules (P2GAN). To sample, draw each of its "
            "dimensions from a normal distribution with these means and standard deviations: "
            f"{pairs}. The ONNX file holds them as `code_mean` and `code_std`.\n"
        )
        objective = generator.config.objective
        if isinstance(objective, P2GANConfig) and objective.posterior.code_source == "posterior":
            text += (
                "To make variations of a real image, draw it from D's posterior instead: the first "
                "half of `output` is the mean, softplus of the second half the deviation.\n"
            )
    return text


def _inputs(exported: Exported) -> str:
    generator = exported.generator
    text = f"`z` float32 [batch, {generator.config.g.z_dim}], standard normal,"
    shapes = generator.inputs(torch.arange(1, device=generator.device), 0).values()
    for name, value in zip(input_names(generator), shapes, strict=True):
        normal = ", standard normal," if name == "noise" else ""
        text += f" and `{name}` float32 [batch, {value.shape[1]}]{normal}"
    return text


def _training(exported: Exported) -> str:
    generator, config = exported.generator, exported.generator.config
    return "## Training\n\n" + _table(
        ("", ""),
        [
            ("images seen", f"{generator.images_seen:,}"),
            ("iterations", f"{generator.iteration:,} of {config.batch_size} images"),
            ("objective", _objective(exported)),
            ("precision", config.engine.precision),
            ("digest of the training images", f"`{generator.data_digest or 'unknown'}`"),
        ],
    )


def _objective(exported: Exported) -> str:
    objective = exported.generator.config.objective
    if not isinstance(objective, RealnessConfig):
        return objective.name
    return f"realness, {objective.num_outcomes} outcomes, G's objective {objective.g_objective}"


def _networks(exported: Exported) -> str:
    config = exported.generator.config
    return "## Networks\n\n" + _table(
        ("network", "architecture", "parameters"),
        [
            ("G", config.g.name, _count(exported.generator.module)),
            (
                "D",
                f"{config.d.name}, normalisation {config.d.d_norm}",
                _count(exported.discriminator.module),
            ),
        ],
    )


def _count(module: nn.Module) -> str:
    return f"{sum(value.numel() for value in module.parameters()):,}"


def _scores(records: Sequence[Record]) -> str:
    if not records:
        return "## Scores\n\nNone were measured at this checkpoint.\n"
    newest = {record.settings: record for record in records}
    return "## Scores\n\n" + _table(
        ("metric", "value", "generated", "real", "network", "resize"),
        [
            (
                record.metric,
                f"{record.value:.5g}",
                f"{record.num_images:,}",
                f"{record.num_real:,}" if record.num_real else "–",
                record.network or "–",
                record.resize or "–",
            )
            for record in newest.values()
        ],
    )


def _files(differences: Mapping[str, float]) -> str:
    if not differences:
        return ""
    return (
        "## Checked graphs\n\nEach was read back and compared with the network; the largest "
        "difference of an output, as a fraction of the largest output:\n\n"
    ) + _table(
        ("file", "difference"),
        [(f"`{name}`", f"{value:.1e}") for name, value in sorted(differences.items())],
    )


def _limits() -> str:
    return (
        "## Limits\n\n"
        "- Images reflect the training images, including what these lack. Their biases were not "
        "corrected.\n"
        "- A GAN can reproduce training images; whether this one does was not checked.\n"
        "- The discriminator's score only compares images of this resolution and kind. It is not a "
        "detector of generated images.\n"
        "- Scores are only comparable with scores of the same sample sizes, network and resize.\n"
        "- Safetensors and JSON contain no code. ONNX and `.pt2` files are programs: run only "
        "those from people you trust.\n"
    )


def _origin(exported: Exported) -> str:
    kept = exported.generator.kept
    if kept is None:
        return ""
    origin = kept.origin
    text = "## Origin of the weights\n\n" + _table(
        ("", ""),
        [
            ("source", origin.source),
            ("kind", origin.kind),
            ("sha256 of the file", f"`{origin.sha256}`"),
            ("licence of the source", origin.licence),
            ("random at the start, because the source lacks them", origin.missing or "nothing"),
        ],
    )
    return text + (f"\n**{origin.notice}.**\n" if origin.notice else "")


def _licence(licence: str) -> str:
    return (
        f"## Licence\n\nLicence of the weights: {licence}. They may be subject to the terms of the "
        "training images. The code that reads them is licensed under Apache-2.0.\n"
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)
