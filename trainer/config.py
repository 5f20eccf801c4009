"""The configuration tree: frozen dataclasses, validated where they are made.

Every field is a command-line flag (`--lr-g`, `--num-outcomes`, ...), so field names are unique
over the whole tree. Durations are stated in images (kimg = 1,000 images) and never in steps, so
that they keep their meaning when the batch size changes. An iteration counts `batch_size` images.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the flag, the value and the remedy."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def flag(name: str) -> str:
    """The command-line spelling of a field: `lr_g` -> `--lr-g`."""
    return "--" + name.replace("_", "-")


def _positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value > 0, f"{flag(name)}={value} must be greater than 0")


def _not_negative(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value >= 0, f"{flag(name)}={value} must not be negative")


def _any_time(default: Any) -> Any:
    """A field that may change when a run is resumed: the trajectory does not depend on it."""
    return field(default=default, metadata={"any_time": True})


@dataclass(frozen=True)
class DataConfig:
    """Real images."""

    data: str = _any_time("")
    """Folder, zip or tar shards of square images (launch/prepare.py packs any collection)."""
    resolution: int = 1024
    """Side of the images in pixels; a power of two from 32 to 1024."""
    mirror: bool = True
    """Flip half of the images left to right."""
    decoder: Literal["auto", "dali", "threads"] = _any_time("auto")
    """Who decodes: DALI, our threads, or DALI where it can be imported."""
    decode_threads: int = _any_time(4)
    """Decoding threads of each rank."""
    max_bad_images: int = _any_time(100)
    """Unreadable images that are replaced (each named once) before the run stops."""

    def __post_init__(self) -> None:
        size = self.resolution
        _require(
            32 <= size <= 1024 and size & (size - 1) == 0,
            f"--resolution={size} must be a power of two from 32 to 1024",
        )
        _positive(self, "decode_threads")
        _not_negative(self, "max_bad_images")


@dataclass(frozen=True)
class GeneratorConfig:
    """The generator G: z [B, z_dim] -> images [B, 3, R, R] in [-1, 1]."""

    generator: Literal["dcgan"] = "dcgan"
    """Architecture of G."""
    z_dim: int = 128
    """Dimensions of the latent z ~ N(0, I)."""
    g_width: int = 32
    """Channels of G at half the output resolution; they double at each halving down to 4x4."""
    g_activation: Literal["relu", "lrelu"] = "relu"
    """Activation inside G."""
    batch_statistics: Literal["global", "local"] = "global"
    """Batch normalisation over the batch of all ranks, or over each rank's own."""

    def __post_init__(self) -> None:
        _positive(self, "z_dim", "g_width")


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The discriminator D: images [B, 3, R, R] -> outputs [B, K]."""

    discriminator: Literal["dcgan"] = "dcgan"
    """Architecture of D."""
    d_width: int = 32
    """Channels of D at half the input resolution; they double at each halving down to 4x4."""
    d_norm: Literal["spectral", "none"] = "spectral"
    """Normalisation of D's weights."""

    def __post_init__(self) -> None:
        _positive(self, "d_width")


@dataclass(frozen=True)
class AnchorConfig:
    """The virtual ground truths A1 (real) and A0 (fake) of RealnessGAN (ICLR 2020, section 2.2)."""

    anchors: Literal["skewnorm", "histogram"] = "skewnorm"
    """Skew-normals binned on [-1, 1] (the paper), or 1,000-draw histograms (its code)."""
    skew_real: float = 5.0
    """Skewness parameter of A1."""
    skew_fake: float = -5.0
    """Skewness parameter of A0."""
    anchor_loc: float = 0.0
    """Location of the skew-normals; A0 takes its negative."""
    anchor_scale: float = 1.0
    """Scale of the skew-normals."""
    anchor_kl: float | None = None
    """Scale both skews by the factor that gives this D_KL(A1 || A0)."""

    def __post_init__(self) -> None:
        _positive(self, "anchor_scale")
        if self.anchor_kl is not None:
            _positive(self, "anchor_kl")


@dataclass(frozen=True)
class ObjectiveConfig:
    """What D and G minimise."""

    objective: Literal["realness", "standard"] = "realness"
    """RealnessGAN, or the standard GAN."""
    num_outcomes: int = 51
    """Outcomes of the realness distribution (RealnessGAN)."""
    g_objective: Literal[1, 2, 3] = 2
    """G's objective: equation 18, 19 or 20 of the RealnessGAN paper."""
    resample: Literal["gaussian", "head", "none"] = "gaussian"
    """Feature resampling: the paper's batch Gaussian, its code's per-sample head, or none."""
    resample_statistics: Literal["global", "local"] = "global"
    """Fit the resampling Gaussian over the batch of all ranks, or over each rank's own."""
    saturating: bool = False
    """Train G of the standard GAN on log(1 - D(G(z))) instead of -log D(G(z))."""
    anchor: AnchorConfig = field(default_factory=AnchorConfig)

    def __post_init__(self) -> None:
        _require(
            2 <= self.num_outcomes <= 1024,
            f"--num-outcomes={self.num_outcomes} must lie between 2 and 1024",
        )


@dataclass(frozen=True)
class PenaltyConfig:
    """Gradient penalties on D."""

    r1_gamma: float = 0.0
    """Weight of R1, gamma/2 * E||grad_x score(x)||^2 on real images; 0 switches it off."""
    r1_interval: int = 1
    """Apply R1 every so many D steps, scaled by this number (lazy regularisation)."""

    def __post_init__(self) -> None:
        _not_negative(self, "r1_gamma")
        _positive(self, "r1_interval")


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam, learning rates and the number of updates."""

    lr_g: float = 2e-4
    """Learning rate of G."""
    lr_d: float = 2e-4
    """Learning rate of D."""
    beta1: float = 0.5
    """Adam's first-moment decay."""
    beta2: float = 0.999
    """Adam's second-moment decay."""
    adam_eps: float = 1e-8
    """Adam's epsilon."""
    k_g: int = 1
    """G updates an iteration."""
    k_d: int = 1
    """D updates an iteration."""
    clip_grad_norm: float = 0.0
    """Clip each network's gradient to this norm; 0 switches it off."""
    lr_warmup_kimg: float = 0.0
    """Raise the learning rates linearly from 0 over so many thousand images."""
    lr_decay: Literal["none", "linear", "cosine"] = "none"
    """How the learning rates fall from --lr-decay-start-kimg to the end of the run."""
    lr_decay_start_kimg: float = 0.0
    """Where the decay starts."""
    lr_final: float = 0.0
    """Share of the learning rates that is left at the end of the decay."""

    def __post_init__(self) -> None:
        _positive(self, "lr_g", "lr_d", "adam_eps", "k_g", "k_d")
        _not_negative(self, "clip_grad_norm", "lr_warmup_kimg", "lr_decay_start_kimg", "lr_final")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"{flag(name)}={value} must lie in [0, 1)")


@dataclass(frozen=True)
class EngineConfig:
    """Devices, precision and sharding."""

    zero_g: Literal[0, 1, 2] = _any_time(1)
    """DeepSpeed ZeRO stage of G."""
    zero_d: Literal[0, 1, 2] = _any_time(1)
    """DeepSpeed ZeRO stage of D."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the networks under autocast; weights, optimiser and losses stay fp32."""
    tf32: bool = _any_time(True)
    """Allow TF32 matrix products and convolutions on CUDA (10 bits of mantissa instead of 23)."""
    device: Literal["auto", "cuda", "cpu"] = _any_time("auto")
    """auto takes CUDA where there is a device, else the CPU (with gloo)."""
    impl: Literal["auto", "cuda", "cpu", "reference"] = _any_time("auto")
    """Implementation of the fused operations."""
    deepspeed_config: str = _any_time("")
    """JSON file merged over the generated DeepSpeed configuration."""


@dataclass(frozen=True)
class TrainConfig:
    """One run."""

    preset: str = _any_time("custom")
    """Name of the preset that the defaults came from."""
    run_dir: str = _any_time("")
    """Folder of the run; to resume, give the same command again."""
    seed: int = 0
    """Seed of every draw: initial weights, data order, flips, latents, resampling noise."""
    batch_size: int = 32
    """Images of an iteration over ALL ranks."""
    total_kimg: float = _any_time(16640.0)
    """Length of the run in thousands of images."""
    ema_halflife_kimg: float = 10.0
    """Half-life of the moving average of G's weights."""
    ema_rampup: float = 0.05
    """Until then the half-life is this share of the images seen, so that early grids show G."""
    log_kimg: float = _any_time(1.0)
    """Write statistics every so many thousand images."""
    sample_kimg: float = _any_time(50.0)
    """Write a sample grid every so many thousand images."""
    num_samples: int = _any_time(32)
    """Images in a sample grid."""
    checkpoint_kimg: float = _any_time(50.0)
    """Write a checkpoint every so many thousand images (and at the end, and on SIGTERM)."""
    keep_checkpoints: int = _any_time(3)
    """Checkpoints that are kept."""
    accept_config_change: bool = _any_time(False)
    """Resume a run although this command differs from the configuration it was started with."""
    data: DataConfig = field(default_factory=DataConfig)
    g: GeneratorConfig = field(default_factory=GeneratorConfig)
    d: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    penalty: PenaltyConfig = field(default_factory=PenaltyConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        _positive(self, "batch_size", "total_kimg", "ema_halflife_kimg", "num_samples")
        _positive(self, "log_kimg", "sample_kimg", "checkpoint_kimg", "keep_checkpoints")
        _not_negative(self, "ema_rampup")
        _require(0 <= self.seed < 2**63, f"--seed={self.seed} must be a non-negative 63-bit number")

    @property
    def num_iterations(self) -> int:
        """Iterations of the whole run."""
        return math.ceil(self.total_kimg * 1000 / self.batch_size)

    @property
    def num_images(self) -> int:
        """Images after the last iteration (`total_kimg` rounded up to whole iterations)."""
        return self.num_iterations * self.batch_size

    def check_ranks(self, world_size: int) -> None:
        """Raise ConfigError unless every rank gets the same number of images."""
        rest = self.batch_size % world_size
        lower = self.batch_size - rest
        nearest = f"{lower} or {lower + world_size}" if lower else f"{world_size}"
        _require(
            rest == 0,
            f"--batch-size={self.batch_size} is not divisible by the {world_size} ranks of this "
            f"run; use {nearest}, or another number of ranks",
        )


def flatten(config: Any) -> dict[str, Any]:
    """All fields of the tree by their flag names, without the grouping: {"lr_g": 0.0002, ...}."""
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        flat.update(flatten(value) if dataclasses.is_dataclass(value) else {item.name: value})
    return flat


def to_json(config: TrainConfig) -> str:
    """The text of a run folder's `config.json`."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_dict(kind: type, values: dict[str, Any]) -> Any:
    """Rebuild a config from `dataclasses.asdict`'s form, naming unknown and missing keys.

    Raises ConfigError for keys that this version of the program does not know.
    """
    known = {item.name: item for item in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(known))
    _require(not unknown, f"config.json holds unknown fields {unknown}; another version wrote it")
    arguments = dict(values)
    for name, item in known.items():
        factory = item.default_factory
        if isinstance(factory, type) and dataclasses.is_dataclass(factory) and name in arguments:
            arguments[name] = from_dict(factory, arguments[name])
    return kind(**arguments)


def _any_time_fields(kind: type) -> set[str]:
    names: set[str] = set()
    for item in dataclasses.fields(kind):
        if isinstance(item.default_factory, type) and dataclasses.is_dataclass(
            item.default_factory
        ):
            names |= _any_time_fields(item.default_factory)
        elif item.metadata.get("any_time"):
            names.add(item.name)
    return names


def trajectory_differences(started: TrainConfig, now: TrainConfig) -> list[str]:
    """What would change the course of a run if it went on with `now`, a readable line a field."""
    before, after = flatten(started), flatten(now)
    return [
        f"{flag(name)}: the run has {before[name]!r}, this command has {after[name]!r}"
        for name in before
        if name not in _any_time_fields(TrainConfig) and before[name] != after[name]
    ]
