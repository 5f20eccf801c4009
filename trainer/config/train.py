"""Configuration of a run: the root of the tree, and the checks across its parts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from realness.trainer.config.augment import AugmentationConfig
from realness.trainer.config.average import AverageConfig
from realness.trainer.config.base import (
    derived,
    expand_paths,
    flag,
    not_negative,
    positive,
    require,
    resumable,
)
from realness.trainer.config.classes import ClassesConfig, check_conditional
from realness.trainer.config.components import default_component
from realness.trainer.config.data import DataConfig
from realness.trainer.config.engine import EngineConfig
from realness.trainer.config.growth import GrowthConfig
from realness.trainer.config.metrics import MetricsConfig
from realness.trainer.config.networks import DiscriminatorConfig, GeneratorConfig, able
from realness.trainer.config.objective import FakeAsRealConfig, ObjectiveConfig, PenaltyConfig
from realness.trainer.config.optimizer import OptimizerConfig
from realness.trainer.config.schedule import Schedule, ScheduleConfig
from realness.trainer.config.transfer import TransferConfig


@dataclass(frozen=True)
class TrainConfig:
    """Configuration of a run."""

    preset: str = resumable("custom")
    """Name of the preset that provided the defaults."""
    run_dir: str = resumable("")
    """Folder of the run; repeat the same command to resume."""
    lock: bool = resumable(True)
    """Lock the run's folder, so that no second run writes into it. --no-lock is for file systems
    without file locks (NFS without lockd, Lustre without -o flock): then take care yourself."""
    seed: int = 0
    """Seed of all randomness: initial weights, data order, flips, latents, resampling noise."""
    batch_size: int = 32
    """Images per iteration over ALL ranks."""
    total_kimg: float = resumable(16640.0)
    """Length of the run in thousands of images."""
    ema_halflife_kimg: float = 10.0
    """Half-life of the moving average of G's weights, in thousands of images."""
    ema_halflife_final_kimg: float | None = None
    """Half-life at the end of --schedule-kimg; without it, the half-life is constant. The start may
    then be 0: the average begins as G itself."""
    ema_rampup: float = 0.05
    """Limit the half-life to this fraction of the images seen, so that the average follows G early
    on; 0 for no limit."""
    log_kimg: float = resumable(1.0)
    """Write statistics every N thousand images."""
    sample_kimg: float = resumable(50.0)
    """Write a sample grid every N thousand images."""
    num_samples: int = resumable(32)
    """Images per sample grid."""
    checkpoint_kimg: float = resumable(50.0)
    """Write a checkpoint every N thousand images (and at the end, and on SIGTERM)."""
    keep_checkpoints: int = resumable(3)
    """Number of newest checkpoints to keep."""
    keep_checkpoint_kimg: float = resumable(0.0)
    """Also keep permanently the first checkpoint of every N thousand images; 0 disables this."""
    max_skipped: int = resumable(50)
    """Number of consecutive updates skipped because of a non-finite loss, after which the run goes
    back to its last checkpoint."""
    accept_config_change: bool = resumable(False)
    """Resume a run even if this command differs from the configuration it was started with."""
    plugin: tuple[str, ...] = resumable(())
    """Python file to import, whose networks, objectives and optimisers register themselves; may be
    given several times. THE FILE IS EXECUTED."""
    plugin_sha256: tuple[str, ...] = derived((), "contents of the --plugin files (sha256)")
    data: DataConfig = field(default_factory=DataConfig)
    classes: ClassesConfig = field(default_factory=ClassesConfig)
    g: GeneratorConfig = field(default_factory=lambda: default_component(GeneratorConfig))
    d: DiscriminatorConfig = field(default_factory=lambda: default_component(DiscriminatorConfig))
    objective: ObjectiveConfig = field(default_factory=lambda: default_component(ObjectiveConfig))
    penalty: PenaltyConfig = field(default_factory=PenaltyConfig)
    far: FakeAsRealConfig = field(default_factory=FakeAsRealConfig)
    growth: GrowthConfig = field(default_factory=GrowthConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    average: AverageConfig = field(default_factory=AverageConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    augment: AugmentationConfig = field(
        default_factory=lambda: default_component(AugmentationConfig)
    )
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        expand_paths(self, "run_dir", "plugin")
        positive(self, "batch_size", "total_kimg", "num_samples")
        positive(self, "log_kimg", "sample_kimg", "checkpoint_kimg", "keep_checkpoints")
        positive(self, "max_skipped")
        not_negative(self, "ema_rampup", "keep_checkpoint_kimg")
        require(0 <= self.seed < 2**63, f"--seed={self.seed} must be a non-negative 63-bit number")
        require(
            self.far.far_fakes < self.batch_size,
            f"--far-fakes={self.far.far_fakes} must be less than --batch-size={self.batch_size}",
        )
        self._check_schedules()
        self._check_finite_differences()
        self._check_components()
        self._check_growth()
        check_conditional(self.classes, self.g, self.d, self.objective, self.far)
        require(
            self.transfer.freeze_g == "none" or self.g.styles,
            f"--freeze-g=mapping needs a generator with a mapping network, and --generator="
            f"{self.g.name} has none; use --generator {able(self.g, 'styles')}, or --freeze-g "
            "none",
        )

    def _check_schedules(self) -> None:
        if self.ema_halflife_final_kimg is None:
            positive(self, "ema_halflife_kimg")
        else:
            not_negative(self, "ema_halflife_kimg")
            positive(self, "ema_halflife_final_kimg")
            require(
                self.average.ema != "power",
                "--ema-halflife-final-kimg has no effect with --ema power, whose averages have "
                "widths; use --ema both",
            )
        optimizer, length = self.optimizer, self.schedule.schedule_kimg
        require(
            not length
            or optimizer.lr_decay not in ("linear", "cosine")
            or optimizer.lr_decay_start_kimg < length,
            f"--lr-decay-start-kimg={optimizer.lr_decay_start_kimg:g} is not before "
            f"--schedule-kimg={length:g}, where the decay ends; use a smaller number",
        )
        require(
            not (self.engine.cuda_graphs and optimizer.algorithm.not_capturable),
            f"--cuda-graphs does not combine with {optimizer.algorithm.not_capturable}",
        )

    def _check_components(self) -> None:
        """Check that the chosen components can do what the other settings ask of them."""
        g, d, objective = self.g, self.d, self.objective
        require(
            not (self.engine.cuda_graphs and objective.not_capturable),
            f"--cuda-graphs does not combine with {objective.not_capturable}",
        )
        require(
            not (self.far.far_fakes and objective.codes),
            f"--far-fakes does not combine with --objective={objective.name}, whose generator "
            "needs the posterior of a real image for each generated image",
        )
        require(
            not self.engine.checkpoint_activations or (g.recompute and d.recompute),
            f"--checkpoint-activations needs networks made of blocks without batch normalisation, "
            f"not --generator={g.name} --discriminator={d.name}; use --generator "
            f"{able(g, 'recompute')} and --discriminator {able(d, 'recompute')}, or "
            "--no-checkpoint-activations",
        )
        require(
            not self.penalty.path_length_weight or g.styles,
            f"--path-length-weight={self.penalty.path_length_weight} needs a generator with styles "
            f"w, and --generator={g.name} has none; use --generator {able(g, 'styles')}, or "
            "--path-length-weight 0",
        )
        require(
            not (self.far.far_fakes and d.group > 1),
            f"--far-fakes does not combine with --minibatch-group={d.group}: FAR-GAN selects "
            "images by their own scores; use --minibatch-group 1",
        )
        require(
            objective.undecided is not None or not self.augment.adaptive,
            f"--augment={self.augment.name} adapts to the sign of D's score, but "
            f"--objective={objective.name} has no score at which D is undecided; use --augment "
            "fixed or scheduled",
        )
        require(
            g.codes or not objective.codes,
            f"--objective={objective.name} needs a generator that its codes can steer, not "
            f"--generator={g.name}; use --generator {able(g, 'codes')}",
        )

    def _check_growth(self) -> None:
        if not self.growth.grow_kimg:
            return
        g, d, engine, asked = self.g, self.d, self.engine, f"--grow-kimg={self.growth.grow_kimg:g}"
        require(
            not self.transfer.freeze_d,
            f"{asked} does not combine with --freeze-d={self.transfer.freeze_d}: the layer from "
            "the image is another one at every side; use --freeze-d 0",
        )
        require(
            g.grows and d.grows,
            f"{asked} needs networks that can grow, not --generator={g.name} --discriminator="
            f"{d.name}; use --generator {able(g, 'grows')} and --discriminator "
            f"{able(d, 'grows')}, or --grow-kimg 0",
        )
        require(
            not self.objective.codes,
            f"{asked} does not combine with --objective={self.objective.name}, whose codes come "
            "from D's posterior at the full resolution; use --grow-kimg 0",
        )
        require(
            not (engine.cuda_graphs or engine.compile),
            f"{asked} does not combine with --cuda-graphs or --compile, because the networks "
            "change during the run; leave these out",
        )
        require(
            engine.zero_g < 3 and engine.zero_d < 3,
            f"{asked} does not combine with --zero-g=3 or --zero-d=3, where DeepSpeed keeps the "
            "last gradient of layers that are no longer used; use stage 2",
        )
        self.growth.check(self.data.resolution)

    def _check_finite_differences(self) -> None:
        if self.penalty.r1 == "exact":
            return
        require(
            self.d.smooth,
            "--r1=finite-difference needs a smooth D: with rectifiers the gradient of the penalty "
            "is wrong by at least 30 %; use --discriminator dcgan --d-activation silu, or "
            "--r1 exact",
        )
        require(
            self.engine.precision == "fp32",
            f"--r1=finite-difference takes a difference that --precision={self.engine.precision} "
            "cannot resolve; use --precision fp32, or --r1 exact",
        )

    @property
    def num_real(self) -> int:
        """Real images per D update over all ranks."""
        return self.batch_size - self.far.far_fakes

    @property
    def num_iterations(self) -> int:
        """Number of iterations in the run."""
        return math.ceil(self.total_kimg * 1000 / self.batch_size)

    @property
    def num_images(self) -> int:
        """Images after the last iteration (`total_kimg` rounded up to whole iterations)."""
        return self.num_iterations * self.batch_size

    @property
    def schedule_images(self) -> float:
        """Images in which scheduled values move to their end values."""
        return self.schedule.schedule_kimg * 1000 or self.num_images

    def scheduled(self, start: float, end: float) -> Schedule:
        """The schedule of a value of this run from `start` to `end`."""
        return Schedule(start, end, self.schedule_images, self.schedule.schedule_shape)

    def check_ranks(self, world_size: int) -> None:
        """Raise ConfigError unless every rank gets the same number of images."""
        counts = {"batch_size": self.batch_size}
        if self.far.far_fakes:
            counts |= {name: getattr(self.far, name) for name in ("far_fakes", "far_candidates")}
        for name, count in counts.items():
            rest = count % world_size
            lower = count - rest
            nearest = f"{lower} or {lower + world_size}" if lower else f"{world_size}"
            require(
                rest == 0,
                f"{flag(name)}={count} is not divisible by the {world_size} ranks of this run; "
                f"use {nearest}, or another number of ranks",
            )
        require(
            not (self.engine.cuda_graphs and self.far.far_fakes and world_size > 1),
            f"--cuda-graphs on {world_size} ranks does not combine with --far-fakes, because the "
            "host decides which rows the ranks exchange; use one rank, or --no-cuda-graphs",
        )
        group, passes = self.d.group, self.num_passes(world_size)
        local = self.batch_size // world_size // passes
        require(
            local % group == 0,
            f"--minibatch-group={group} does not divide the {local} images of one pass on each of "
            f"{world_size} ranks; use {math.gcd(group, local)}, or --batch-size "
            f"{math.ceil(local / group) * group * world_size * passes}",
        )
        shrink = self.penalty.path_length_shrink if self.penalty.path_length_weight else 1
        require(
            local % shrink == 0,
            f"--path-length-shrink={shrink} does not divide the {local} images of one pass on each "
            f"of {world_size} ranks; use {math.gcd(shrink, local)}",
        )

    def num_passes(self, world_size: int) -> int:
        """Number of passes per update on each rank.

        Raises ConfigError unless all passes have the same size.
        """
        share, size = self.batch_size // world_size, self.engine.micro_batch
        if not size:
            return 1
        divisors = [count for count in range(1, share + 1) if share % count == 0]
        nearest = min(divisors, key=lambda count: (abs(count - size), count))
        require(
            share % size == 0,
            f"--micro-batch={size} does not divide the {share} images of a rank "
            f"(--batch-size={self.batch_size} on {world_size} ranks); use {nearest}, or 0 for all",
        )
        return share // size
