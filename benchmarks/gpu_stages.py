"""The stages of benchmarks/gpu.py: what each runs on a GPU, and in a dry run on a CPU."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

GROUPS = {
    "first": ("kernels-ready", "probe", "tests", "steps", "kernels"),
    "second": ("failures", "sanitizers", "counters", "compile", "run"),
    "more": ("other-tests", "levels", "modes", "loader"),
}
"""Two calls of under ten minutes each, so that faults can be fixed in between; then the rest."""

BLOCKING = (("CUDA_LAUNCH_BLOCKING", "1"),)
# One allocation per tensor: inside the caching allocator's large blocks nothing is out of bounds.
UNCACHED = (("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),)
# Only our kernels; failing CUDA API calls during torch's start-up do not matter.
SANITIZER = ("compute-sanitizer", "--error-exitcode", "86", "--report-api-errors", "no")
COUNTERS = (
    *("ncu", "--clock-control", "none", "--set", "basic", "--launch-count", "60"),
    *("--kernel-name-base", "demangled", "--kernel-name", "regex:realness"),
)
IMAGE_OPS = ("upfirdn2d", "bias_act", "spectral_norm", "squared_norm")
TINY = ("--resolution", "32", "--batch-size", "4", "--g-width", "4", "--d-width", "4")


@dataclass(frozen=True)
class Command:
    """`under` python `words`, with additions to the environment, and the statuses of success."""

    words: tuple[str, ...]
    under: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    passing: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Stage:
    """Commands that share a limit of time, in seconds."""

    name: str
    seconds: float
    commands: tuple[Command, ...]


@dataclass(frozen=True)
class Place:
    """The folder of the results, and whether this is a dry run on a CPU."""

    out: Path
    dry: bool

    @property
    def images(self) -> str:
        """The raw images that networks are trained on."""
        return str(self.out / "images")


def python(*words: str, **options: tuple) -> Command:
    return Command(words, **options)


def _images(place: Place) -> Command:
    size = ("32", "8") if place.dry else ("1024", "64")
    return python("benchmarks/raw_images.py", place.images, *size)


def _probe(place: Place, cases: str, **options: tuple) -> Command:
    impl = "cpu" if place.dry else "cuda"
    return python("benchmarks/gpu_probe.py", cases, "--impl", impl, **options)


def _tests(place: Place, *words: str, **options: tuple) -> Command:
    workers = ("-n", "8") if importlib.util.find_spec("xdist") else ()
    usual = ("-m", "pytest", "-q", "-o", f"cache_dir={place.out / 'pytest'}")
    if place.dry:
        name = "tests/kernels/test_ops.py::test_layout_is_kept[cpu-squared_norm-4x8x4x4]"
        return python(*usual, "-p", "no:xdist", name, *words, **options)
    return python(
        *(*usual, "-m", "gpu", *workers, "--maxfail=50", "tests/kernels", *words), **options
    )


def _steps(place: Place, system: str, *levels: str, flags: tuple[str, ...] = ()) -> Command:
    device = ("--device", "cpu") if place.dry else ()
    levels = ("bf16",) if place.dry else levels
    flags = TINY if place.dry else flags
    return python(
        *("benchmarks/train_step.py", "--systems", system, "--ranks", "1", "--rounds", "3"),
        *("--levels", *levels, "--data", place.images, "--out", str(place.out), *device),
        *("--flags", *flags),
    )


def _kernels(place: Place, dtype: str, ops: tuple[str, ...], *impls: str) -> Command:
    csv = ("--csv", str(place.out / "kernels.csv"))
    if place.dry:
        quick = ("--quick", "--op", "resample", "--impl", "ours", "--dtype", "float32")
        return python("benchmarks/kernels.py", *quick, *csv)
    chosen = ("--op", *ops, "--impl", *impls, "--dtype", dtype)
    return python("benchmarks/kernels.py", *chosen, *csv)


def _real_run(place: Place) -> Command:
    dry = (
        *(*TINY, "--device", "cpu", "--checkpoint-kimg", "0.008"),
        *("--sample-kimg", "0.4", "--total-kimg", "0.4"),
    )
    real = ("--precision", "bf16", "--checkpoint-kimg", "1", "--sample-kimg", "1")
    return python(
        *("benchmarks/real_run.py", place.images, "--minutes", "0.7", "--run"),
        *(str(place.out / "run"), "--results", str(place.out), "--flags", "--log-kimg", "0.1"),
        *("--preset", "ffhq1024-realness-dcgan"),
        *(dry if place.dry else real),
    )


def _distinct(commands: list[Command], dry: bool) -> tuple[Command, ...]:
    """In a dry run, commands that differ only in their size are the same."""
    return tuple(dict.fromkeys(commands)) if dry else tuple(commands)


def stages(place: Place) -> list[Stage]:
    """All stages, in the order in which they run."""
    dry, all_impls = place.dry, ("ours", "eager", "compile")
    sanitized = [
        _probe(place, "all", under=() if dry else (*SANITIZER, *tool), environment=UNCACHED)
        for tool in (
            ("--kernel-regex", "kns=realness", "--tool", "memcheck"),
            ("--kernel-regex", "kns=realness", "--tool", "racecheck"),
        )
    ]
    steps = [
        _images(place),
        _steps(place, "DCGAN", "bf16", "CUDA graphs"),
        _steps(place, "StyleGAN2", "bf16", flags=("--micro-batch", "8")),
    ]
    measured = [
        _kernels(place, dtype, ops, "ours", "eager")
        for ops in (IMAGE_OPS, ("realness",))
        for dtype in ("bfloat16", "float32")
    ]
    compiled = [
        _steps(place, "DCGAN", "compiled"),
        _kernels(place, "float32", ("realness_d", "realness_g"), *all_impls),
        _steps(place, "StyleGAN2", "bf16", "compiled", flags=("--resolution", "128")),
    ]
    known = [
        ("kernels-ready", 300, [python("-m", "realness.kernels")]),
        ("probe", 60, [_probe(place, "one", environment=BLOCKING)]),
        ("tests", 120, [_tests(place)]),
        ("steps", 200, steps[:2] if dry else steps),
        ("kernels", 150, measured),
        ("failures", 60, [_tests(place, "--lf", "--lfnf=none", passing=(0, 5))]),
        ("sanitizers", 150, sanitized),
        ("counters", 90, [_probe(place, "large", under=() if dry else COUNTERS)]),
        # A dry run has nothing to compile for: the same command has run as one of "steps".
        ("compile", 150, compiled[1:2] if dry else compiled),
        ("run", 120, [_images(place), _real_run(place)]),
    ]
    found = [Stage(name, limit, _distinct(commands, dry)) for name, limit, commands in known]
    return found if dry else [*found, *_more(place)]


def _more(place: Place) -> list[Stage]:
    """Stages for a longer loan of a GPU."""
    ignored = ("--ignore=tests/kernels", "--continue-on-collection-errors")
    every_level = ("plain fp32", "fused operations", "TF32", "channels_last", "bf16")
    return [
        Stage("other-tests", 300, (python("-m", "pytest", "-q", "-m", "gpu", "tests", *ignored),)),
        Stage(
            "levels",
            900,
            (
                _images(place),
                *(
                    _steps(place, system, *every_level, "compiled", "compiled, CUDA graphs")
                    for system in ("DCGAN", "StyleGAN2")
                ),
            ),
        ),
        Stage("modes", 600, (python("benchmarks/speed_modes.py"),)),
        Stage("loader", 300, (python("benchmarks/loader.py", "--device", "cuda"),)),
    ]
