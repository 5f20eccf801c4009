"""One run: optimisers, devices and the whole tree."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from realness.trainer.config.base import any_time, flag, not_negative, positive, require
from realness.trainer.config.metrics import MetricsConfig
from realness.trainer.config.networks import DataConfig, DiscriminatorConfig, GeneratorConfig
from realness.trainer.config.objective import FakeAsRealConfig, ObjectiveConfig, PenaltyConfig


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimiser, learning rates and the number of updates."""

    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Optimiser of both networks."""
    lr_g: float = 2e-4
    """Learning rate of G."""
    lr_d: float = 2e-4
    """Learning rate of D."""
    beta1: float = 0.5
    """Adam's first-moment decay."""
    beta2: float = 0.999
    """Adam's second-moment decay."""
    rmsprop_alpha: float = 0.99
    """RMSProp's decay of the squared gradients."""
    optimizer_eps: float = 1e-8
    """The optimiser's epsilon."""
    k_g: int = 1
    """G updates an iteration."""
    k_d: int = 1
    """D updates an iteration."""
    lazy_correction: bool = False
    """Scale rate and Adam's decays by k / (k + 1) for a network whose penalty is due in one of k
    updates, as StyleGAN2 does. Its penalties take a step of their own, so it makes k + 1 steps
    where this program makes k: without it both move as far."""
    clip_grad_norm: float = 0.0
    """Clip each network's gradient to this norm; 0 switches it off."""
    lr_warmup_kimg: float = 0.0
    """Raise the learning rates linearly from 0 over so many thousand images."""
    lr_decay: Literal["none", "linear", "cosine", "step"] = "none"
    """How the learning rates fall: from --lr-decay-start-kimg to the end of the run, or by steps of
    --lr-step-factor every --lr-step-kimg."""
    lr_decay_start_kimg: float = 0.0
    """Where the decay starts."""
    lr_final: float = 0.0
    """Share of the learning rates that is left at the end of a linear or cosine decay."""
    lr_step_kimg: float = 3000.0
    """Distance between the steps of --lr-decay=step (50 epochs of 60,000 images are 3,000 kimg)."""
    lr_step_factor: float = 0.9
    """What a step multiplies the learning rates by."""

    def __post_init__(self) -> None:
        positive(self, "lr_g", "lr_d", "optimizer_eps", "k_g", "k_d", "lr_step_kimg")
        positive(self, "lr_step_factor")
        not_negative(self, "clip_grad_norm", "lr_warmup_kimg", "lr_decay_start_kimg", "lr_final")
        for name in ("beta1", "beta2", "rmsprop_alpha"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{flag(name)}={value} must lie in [0, 1)")


@dataclass(frozen=True)
class EngineConfig:
    """Devices, precision and sharding."""

    zero_g: Literal[0, 1, 2, 3] = any_time(1)
    """DeepSpeed ZeRO stage of G."""
    zero_d: Literal[0, 1, 2, 3] = any_time(1)
    """DeepSpeed ZeRO stage of D."""
    offload_optimizer: bool = any_time(False)
    """Keep the optimisers' moments in host memory, and update the weights there (ZeRO 1 to 3)."""
    micro_batch: int = any_time(0)
    """Images of one rank in one pass through the networks: its share of the batch takes several
    passes (gradient accumulation), with the gradients of one; 0 takes it whole. WITH BATCH
    NORMALISATION IN G the run changes: its statistics are those of one pass over all ranks."""
    auto_batch: bool = any_time(False)
    """Find the largest --micro-batch that fits before training, by the heaviest updates of the run
    (with R1 and path lengths, however seldom these are due) on a GPU, by the estimate on a CPU."""
    checkpoint_activations: bool = any_time(False)
    """Keep of each block of stylegan2, resnet and sn-resnet's D its inputs only, and compute the
    rest again in the backward pass: the same gradients, less memory, some 30 % more work."""
    memory_format: Literal["auto", "channels_last", "contiguous"] = any_time("auto")
    """Layout of images and activations in memory. auto is channels_last, which tensor cores want
    and which is the faster one on the CPU too. Rounding aside it changes nothing."""
    compile: bool = any_time(False)
    """Run the networks through torch.compile, except for penalties that are differentiated twice;
    not with ZeRO 3. The first iterations take minutes more, in which it compiles."""
    cuda_graphs: bool = any_time(False)
    """Capture whole updates of D and G as CUDA graphs and replay them, so that the host issues one
    launch for each. Needs --zero-g 0 --zero-d 0."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the networks under autocast; weights, optimiser and losses stay fp32."""
    tf32: bool = any_time(True)
    """Allow TF32 matrix products and convolutions on CUDA (10 bits of mantissa instead of 23)."""
    deterministic: bool = any_time(False)
    """Repeat a run on CUDA to the bit, as on a CPU: algorithms that add in a fixed order, and no
    timing of cuDNN's algorithms for the fastest. Slower."""
    device: Literal["auto", "cuda", "cpu"] = any_time("auto")
    """auto takes CUDA where there is a device, else the CPU (with gloo)."""
    impl: Literal["auto", "cuda", "cpu", "reference"] = any_time("auto")
    """Implementation of the fused operations."""
    deepspeed_config: str = any_time("")
    """JSON file merged over the generated DeepSpeed configuration."""
    rank_timeout_s: float = any_time(600.0)
    """End the run, naming the rank, when one is silent for half so many seconds, or none has moved
    for so many."""

    def __post_init__(self) -> None:
        positive(self, "rank_timeout_s")
        for name in ("zero_g", "zero_d"):
            require(
                not (self.compile and getattr(self, name) == 3),
                f"--compile does not combine with {flag(name)}=3, whose weights are in place only "
                f"while DeepSpeed's hooks fetch them layer by layer; use {flag(name)} 2, or "
                "--no-compile",
            )
        not_negative(self, "micro_batch")
        require(
            not (self.auto_batch and self.micro_batch),
            f"--auto-batch finds the micro-batch, but --micro-batch={self.micro_batch}; use one of "
            "the two",
        )
        for name in ("zero_g", "zero_d"):
            require(
                not (self.offload_optimizer and getattr(self, name) == 0),
                f"--offload-optimizer needs sharded moments, but {flag(name)}=0; use 1, 2 or 3",
            )
            require(
                not (self.cuda_graphs and getattr(self, name)),
                f"--cuda-graphs needs {flag(name)}=0, not {getattr(self, name)}: ZeRO keeps its "
                "books on the host, which a graph does not ask again",
            )


@dataclass(frozen=True)
class TrainConfig:
    """One run."""

    preset: str = any_time("custom")
    """Name of the preset that the defaults came from."""
    run_dir: str = any_time("")
    """Folder of the run; to resume, give the same command again."""
    seed: int = 0
    """Seed of every draw: initial weights, data order, flips, latents, resampling noise."""
    batch_size: int = 32
    """Images of an iteration over ALL ranks."""
    total_kimg: float = any_time(16640.0)
    """Length of the run in thousands of images."""
    ema_halflife_kimg: float = 10.0
    """Half-life of the moving average of G's weights."""
    ema_rampup: float = 0.05
    """Until then the half-life is this share of the images seen, so that early grids show G."""
    log_kimg: float = any_time(1.0)
    """Write statistics every so many thousand images."""
    sample_kimg: float = any_time(50.0)
    """Write a sample grid every so many thousand images."""
    num_samples: int = any_time(32)
    """Images in a sample grid."""
    checkpoint_kimg: float = any_time(50.0)
    """Write a checkpoint every so many thousand images (and at the end, and on SIGTERM)."""
    keep_checkpoints: int = any_time(3)
    """The newest checkpoints, which are kept."""
    keep_checkpoint_kimg: float = any_time(0.0)
    """Besides, keep for good the first checkpoint of every so many thousand images; 0 is off."""
    max_skipped: int = any_time(50)
    """Updates in a row left out because a loss is not finite, before the run goes back to its last
    checkpoint."""
    accept_config_change: bool = any_time(False)
    """Resume a run although this command differs from the configuration it was started with."""
    data: DataConfig = field(default_factory=DataConfig)
    g: GeneratorConfig = field(default_factory=GeneratorConfig)
    d: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    penalty: PenaltyConfig = field(default_factory=PenaltyConfig)
    far: FakeAsRealConfig = field(default_factory=FakeAsRealConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        positive(self, "batch_size", "total_kimg", "ema_halflife_kimg", "num_samples")
        positive(self, "log_kimg", "sample_kimg", "checkpoint_kimg", "keep_checkpoints")
        positive(self, "max_skipped")
        not_negative(self, "ema_rampup", "keep_checkpoint_kimg")
        require(0 <= self.seed < 2**63, f"--seed={self.seed} must be a non-negative 63-bit number")
        require(
            self.far.far_fakes < self.batch_size,
            f"--far-fakes={self.far.far_fakes} must be less than --batch-size={self.batch_size}",
        )
        self._check_finite_differences()
        require(
            not (self.engine.cuda_graphs and self.objective.anchor.anchors == "histogram"),
            "--cuda-graphs does not combine with --anchors=histogram, which the host draws anew in "
            "every update; use --anchors skewnorm",
        )
        require(
            not (self.far.far_fakes and self.objective.objective == "p2gan"),
            "--far-fakes does not combine with --objective=p2gan, whose generator needs the "
            "posterior of a real image for every generated one",
        )
        blocks = "resnet", "sn-resnet", "stylegan2"
        require(
            not self.engine.checkpoint_activations
            or (self.g.generator in ("resnet", "stylegan2") and self.d.discriminator in blocks),
            f"--checkpoint-activations needs networks of blocks without batch normalisation, but "
            f"--generator={self.g.generator} --discriminator={self.d.discriminator}; use stylegan2 "
            "or resnet, or --no-checkpoint-activations",
        )
        require(
            not self.penalty.path_length_weight or self.g.generator == "stylegan2",
            f"--path-length-weight={self.penalty.path_length_weight} needs a generator with styles "
            f"w, and --generator={self.g.generator} has none; use --path-length-weight 0",
        )
        require(
            not (self.far.far_fakes and self.d.group > 1),
            f"--far-fakes does not combine with --minibatch-group={self.d.group}: FAR-GAN selects "
            "images by their own scores; use --minibatch-group 1",
        )
        require(
            self.objective.objective != "p2gan" or self.g.generator != "resnet",
            "--objective=p2gan needs a generator that its codes can steer: --generator dcgan, "
            "sn-resnet or stylegan2",
        )

    def _check_finite_differences(self) -> None:
        if self.penalty.r1 == "exact":
            return
        require(
            self.d.d_activation == "silu",
            "--r1=finite-difference needs a smooth D. With rectifiers the gradient of the penalty "
            "is wrong by 30 % at best; use --discriminator dcgan --d-activation silu, or "
            "--r1 exact",
        )
        require(
            self.engine.precision == "fp32",
            f"--r1=finite-difference takes a difference that --precision={self.engine.precision} "
            "rounds away; use --precision fp32, or --r1 exact",
        )

    @property
    def num_real(self) -> int:
        """Real images of one D update over all ranks."""
        return self.batch_size - self.far.far_fakes

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
            f"--cuda-graphs on {world_size} ranks does not combine with --far-fakes, whose rows "
            "travel as the host says; use one rank, or --no-cuda-graphs",
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
        """Passes that one update takes on each rank. Raises ConfigError unless they are equal."""
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
