"""Finds the compilers, builds the shared library and caches it.

This file imports neither torch nor the rest of the package, so that setup.py can load it by path:

    build_for_wheel(Path("kernels"))   # -> True if kernels/lib/ now holds a library for the wheel

It uses torch's headers if torch can be found (`--no-build-isolation`), and warns once if it cannot
build. On first use, `cached_library` does the same into the cache. Environment:

    REALNESS_BUILD        auto (default) | never | require (a failure raises; failures are retried)
    REALNESS_CACHE        the cache folder, by default realness/ in the user's cache folder
    TORCH_CUDA_ARCH_LIST  default "8.0 9.0+PTX"
    CXX, CUDA_HOME, MAX_JOBS
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

PACKAGE_DIR = Path(__file__).parent
LIBRARY_NAME = "librealness.so"
CUDA_LIBRARY_NAME = "librealness_cuda.so"
DEFAULT_ARCHITECTURES = "8.0 9.0+PTX"
STABLE_ABI = "0x020a000000000000"  # torch 2.10, the oldest that has every function used here
NINJA_RULES = """
rule compile
  command = $compiler $flags -MD -MF $out.d -c $source -o $out
  description = $out
  depfile = $out.d
  deps = gcc
rule link
  command = $compiler -shared $in -o $out $flags
  description = $out
"""


SECONDS_PER_MESSAGE = 15
"""While it compiles, the shortest time between two messages."""

Say = Callable[[str], None]
"""Is told what is being done, for a person who waits."""


def silent(message: str) -> None:
    """Tells nobody."""


class BuildError(RuntimeError):
    """The library could not be built; the message gives the reason and the remedy."""


class BuildInterrupted(BuildError):
    """The build was stopped by a signal, which says nothing about the sources or the compilers."""


@dataclass(frozen=True)
class Torch:
    """An installed torch, found without importing it."""

    folder: Path
    version: str
    has_cuda: bool


@dataclass(frozen=True)
class Unit:
    """One compiler call: the object's name, its source, and the command without these two."""

    name: str
    source: Path
    compiler: str
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Everything that determines the library's contents."""

    units: tuple[Unit, ...]
    linker: str
    link_flags: tuple[str, ...]
    torch_version: str
    has_cuda: bool

    @property
    def key(self) -> str:
        commands = [[unit.name, unit.compiler, unit.flags] for unit in self.units]
        settings = json.dumps([commands, self.linker, self.link_flags, self.torch_version])
        return hashlib.sha256((settings + source_digest()).encode()).hexdigest()[:20]


def build_mode() -> str:
    """The value of REALNESS_BUILD. Raises BuildError if it is not valid."""
    mode = os.environ.get("REALNESS_BUILD", "auto")
    if mode not in ("auto", "never", "require"):
        raise BuildError(f"REALNESS_BUILD={mode!r}; expected auto, never or require")
    return mode


def sources(folder: Path = PACKAGE_DIR) -> list[Path]:
    """The translation units, one per op."""
    return sorted(folder.glob("*/*.cu"))


def source_digest(folder: Path = PACKAGE_DIR) -> str:
    """A hash over all native sources and headers."""
    digest = hashlib.sha256()
    for suffix in ("cu", "cuh", "h"):
        for path in sorted(folder.glob(f"*/*.{suffix}")):
            digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def find_torch() -> Torch:
    """The torch of this interpreter. Raises BuildError if there is none."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise BuildError("torch is not installed here; install it, or use --no-build-isolation")
    folder = Path(spec.origin).parent
    text = (folder / "version.py").read_text()
    version = re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE)
    if version is None or not (folder / "include/torch/csrc/stable/library.h").exists():
        raise BuildError(f"the torch in {folder} has no stable ABI headers; install torch >= 2.10")
    has_cuda = re.search(r"^cuda\b[^=]*= '", text, re.MULTILINE) is not None
    return Torch(folder, version[1], has_cuda)


def find_compiler() -> str:
    """The C++ compiler. Raises BuildError if there is none."""
    for name in (_path_in("CXX"), "g++", "c++"):
        if name and (path := shutil.which(name)):
            return path
    raise BuildError("no C++ compiler found; install g++ 11 or newer, or set CXX")


def find_nvcc() -> str | None:
    """The path of nvcc: from CUDA_HOME, the usual place, or PATH."""
    for home in (_path_in("CUDA_HOME"), _path_in("CUDA_PATH"), "/usr/local/cuda"):
        if home and os.access(f"{home}/bin/nvcc", os.X_OK):
            return f"{home}/bin/nvcc"
    return shutil.which("nvcc")


def find_ninja() -> list[str]:
    """The command that runs ninja. Raises BuildError if there is none."""
    if path := shutil.which("ninja"):
        return [path]
    if importlib.util.find_spec("ninja") is not None:
        return [sys.executable, "-m", "ninja"]
    raise BuildError("ninja is not installed; pip install ninja")


def architecture_flags() -> tuple[str, ...]:
    """nvcc's -gencode flags for TORCH_CUDA_ARCH_LIST."""
    flags = []
    for entry in (os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_ARCHITECTURES).split():
        for name in filter(None, entry.split(";")):
            match = re.fullmatch(r"(\d+)\.(\d+[af]?)(\+PTX)?", name)
            if match is None:
                raise BuildError(
                    f"TORCH_CUDA_ARCH_LIST has {name!r}; expected a form like 9.0 or 9.0+PTX"
                )
            number = match[1] + match[2]
            flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
            if match[3]:
                flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return tuple(flags)


X86_LEVELS = {
    3: "avx2 bmi1 bmi2 f16c fma abm movbe",
    4: "avx512f avx512bw avx512cd avx512dq avx512vl",
}
"""The CPU's flags, as Linux names them, that a level of x86-64 adds (x86-64 psABI, table 3.1)."""


def cpu_level() -> int:
    """The level of x86-64 that this machine supports: 4, 3 or 1; 1 on other processors."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return 1
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    level = 1
    for number, names in X86_LEVELS.items():
        if not flags.issuperset(names.split()):
            break
        level = number
    return level


def vector_flags(level: int) -> tuple[str, ...]:
    """Flags of the C++ compiler for loops in wide registers, with the same results at any level."""
    # Contraction to fused multiply-adds would change the results; the others change none.
    exact = ("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
    return (*exact, f"-march=x86-64-v{level}") if level > 1 else exact


def make_plan(
    *,
    cuda: bool | None = None,
    emulate: bool = False,
    extra_flags: tuple[str, ...] = (),
    units: list[Path] | None = None,
    level: int | None = None,
    host: bool = True,
) -> Plan:
    """The compiler calls. cuda: None uses nvcc if torch has CUDA; emulate: the tests' library.

    extra_flags go to every C++ compiler call (to nvcc if cuda is True) and, for sanitizers, to
    the linker of the emulated library. units: sources other than the package's. level: of x86-64
    for the CPU's kernels, by default this machine's. host: whether to build these at all.
    """
    torch, compiler = find_torch(), find_compiler()
    level = cpu_level() if level is None else level
    common = (
        f"-DTORCH_TARGET_VERSION={STABLE_ABI}",
        "-DTORCH_STABLE_ONLY",
        *("-isystem", str(torch.folder / "include")),
        "-std=c++20",
    )
    cpp = (*common, "-x", "c++", "-fPIC", "-fvisibility=hidden")
    nvcc = find_nvcc() if cuda or (cuda is None and torch.has_cuda) else None
    if cuda and nvcc is None:
        raise BuildError("nvcc not found; install the CUDA toolkit or set CUDA_HOME")
    link = [f"-L{torch.folder / 'lib'}", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu"]
    made: list[Unit] = []
    for path in units or sources():
        if emulate:
            flags = (*cpp, "-O1", "-DREALNESS_EMULATE", *extra_flags)
            made.append(Unit(f"{path.stem}.emulated.o", path, compiler, flags))
            continue
        if host:
            flags = (*cpp, "-O3", *vector_flags(level), "-DREALNESS_HOST")
            made.append(Unit(f"{path.stem}.host.o", path, compiler, flags))
        if nvcc:
            flags = (
                *common,
                *("-O3", "-ccbin", compiler, "-Xcompiler=-fPIC,-fvisibility=hidden"),
                *architecture_flags(),
                *extra_flags,
            )
            made.append(Unit(f"{path.stem}.cuda.o", path, nvcc, flags))
    if nvcc and not emulate:
        home = Path(nvcc).resolve().parent.parent
        link += [f"-L{home}/lib64", f"-L{home}/lib", "-lcudart_static", "-lrt", "-ldl", "-lpthread"]
    if emulate:
        link += extra_flags
    return Plan(tuple(made), compiler, tuple(link), torch.version, nvcc is not None)


def write_ninja(plan: Plan, folder: Path) -> None:
    """The text of build.ninja for the plan, with objects and library in `folder`."""
    lines = [NINJA_RULES]
    objects = []
    for number, unit in enumerate(plan.units):
        objects.append(unit.name)
        lines += [
            # A variable, because ninja has no escape for a `|` in a path that is written out.
            f"source_{number} = {str(unit.source).replace('$', '$$')}",
            f"build {unit.name}: compile $source_{number}",
            f"  source = {_in_shell(unit.source)}",
            f"  compiler = {_in_shell(unit.compiler)}",
            f"  flags = {_in_shell(*unit.flags)}",
        ]
    lines += [
        f"build {LIBRARY_NAME}: link {' '.join(objects)}",
        f"  compiler = {_in_shell(plan.linker)}",
        f"  flags = {_in_shell(*plan.link_flags)}",
        "",
    ]
    (folder / "build.ninja").write_bytes(os.fsencode("\n".join(lines)))


def _in_shell(*words: str | Path) -> str:
    """Words of a command that ninja passes to the shell, as the value of a variable."""
    return shlex.join(map(str, words)).replace("$", "$$")


def compile_library(plan: Plan, folder: Path, say: Say = silent) -> Path:
    """Compiles changed sources and links; `say` is told how many are done.

    Raises BuildError with the compiler's output, or BuildInterrupted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_ninja(plan, folder)
    jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    command = [*find_ninja(), "-C", str(folder), "-j", jobs]
    compilers = " and ".join(sorted({Path(unit.compiler).name for unit in plan.units}))
    say(
        f"compiling {len(plan.units)} files with {compilers}, {jobs} at a time; once per machine, "
        "up to four minutes on two busy cores"
    )
    output = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        told = time.monotonic()
        for line in process.stdout:
            output.append(line)
            done = re.match(r"\[(\d+)/(\d+)\]", line)
            if done and time.monotonic() - told >= SECONDS_PER_MESSAGE:
                say(f"{done[1]} of {done[2]} steps are done")
                told = time.monotonic()
    text = "".join(output)
    # ninja catches SIGINT and SIGTERM and prints this; its exit code differs between versions.
    if process.returncode < 0 or "interrupted by user" in text:
        raise BuildInterrupted(f"{shlex.join(command)} was interrupted; run it again")
    if process.returncode != 0:
        raise BuildError(f"{shlex.join(command)} failed:\n{text[-8000:]}")
    return folder / LIBRARY_NAME


def publish(library: Path, target: Path, plan: Plan) -> None:
    """Moves a copy of the library and its manifest into place atomically."""
    target.parent.mkdir(parents=True, exist_ok=True)
    manifest = {"sources": source_digest(), "torch": plan.torch_version, "cuda": plan.has_cuda}
    staged = target.with_name(f"{uuid.uuid4().hex}-{target.name}")
    staged.with_suffix(".json").write_text(json.dumps(manifest))
    os.replace(staged.with_suffix(".json"), target.with_suffix(".json"))
    shutil.copy(library, staged)
    os.replace(staged, target)


def cache_folder() -> Path:
    """The folder of built libraries."""
    if folder := _path_in("REALNESS_CACHE"):
        return Path(folder)
    return Path(_path_in("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "realness"


def _path_in(variable: str) -> str:
    """A path in an environment variable, empty if it is not set; `~` is the home folder."""
    return os.path.expanduser(os.environ.get(variable, ""))


@contextlib.contextmanager
def locked(path: Path, say: Say = silent) -> Iterator[bool]:
    """Holds a file lock, which the operating system releases if this process dies.

    Yields False, without the lock, on a file system that has none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        yield _lock(file, say)


def _lock(file: TextIO, say: Say) -> bool:
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process that compiles them")
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def cached_library(plan: Plan, *, retry: bool = False, say: Say = silent) -> Path:
    """The plan's library from the cache, built first if it is missing; `say` is told about it.

    One process builds, others wait for it; on a file system without locks, each builds in its own
    folder, and the first library stays. A failure (not an interruption) is remembered until the
    sources, the flags or torch change; retry=True tries again. Raises BuildError.
    """
    target = cache_folder() / plan.key / LIBRARY_NAME
    failure = target.with_name("failed.txt")
    with locked(cache_folder() / f"{plan.key}.lock", say) as is_only_builder:
        if target.exists():
            return target
        if failure.exists() and not retry:
            raise BuildError(
                f"an earlier build failed, see {failure}; "
                "fix the cause and run `python -m realness.kernels --rebuild`"
            )
        objects = target.parent / ("objects" if is_only_builder else f"objects-{uuid.uuid4().hex}")
        try:
            built = compile_library(plan, objects, say)
            if is_only_builder or not target.exists():
                publish(built, target, plan)
        except BuildInterrupted:
            raise
        except BuildError as error:
            target.parent.mkdir(parents=True, exist_ok=True)
            failure.write_text(str(error))
            raise
        finally:
            if target.exists() or not is_only_builder:
                shutil.rmtree(objects, ignore_errors=True)
        failure.unlink(missing_ok=True)
    return target


def bundled_library(folder: Path = PACKAGE_DIR) -> Path | None:
    """The library that came with the installed package, if it was built from these sources.

    Of several for the CPU, the one for the widest registers that this machine has.
    """
    for level in (*sorted(X86_LEVELS, reverse=True), 1):
        library = folder / "lib" / _name_for(level)
        manifest = library.with_suffix(".json")
        if level <= cpu_level() and library.exists() and manifest.exists():
            return (
                library if json.loads(manifest.read_text())["sources"] == source_digest() else None
            )
    return None


def cuda_library(library: Path) -> Path | None:
    """The library of CUDA kernels beside one that came with the package, if there is one."""
    path = library.with_name(CUDA_LIBRARY_NAME)
    return path if path.exists() else None


def _name_for(level: int) -> str:
    return LIBRARY_NAME if level == 1 else f"librealness_v{level}.so"


def has_cuda(library: Path) -> bool:
    """Whether the library was built with CUDA kernels, or has them beside it."""
    if cuda_library(library):
        return True
    return bool(json.loads(library.with_suffix(".json").read_text())["cuda"])


def build_for_wheel(package_dir: Path) -> bool:
    """Builds package_dir/lib/ for setup.py, with CUDA if nvcc is found, even for a CPU-only torch.

    There is one library for each level of x86-64, because the wheel may be installed on another
    machine, and one for CUDA.
    Returns False after one warning if it cannot; raises BuildError if REALNESS_BUILD=require.
    """
    shutil.rmtree(package_dir / "lib", ignore_errors=True)
    if build_mode() == "never":
        return False
    try:
        for name, plan in _wheel_plans().items():
            publish(cached_library(plan, retry=True), package_dir / "lib" / name, plan)
    except BuildError as error:
        if build_mode() == "require":
            raise
        warnings.warn(
            f"no compiled kernels in this installation, the PyTorch reference is used: {error}",
            stacklevel=2,
        )
        return False
    return True


def _wheel_plans() -> dict[str, Plan]:
    """The plan of every library of a wheel, by its file name."""
    levels = (1, *X86_LEVELS) if platform.machine() == "x86_64" else (1,)
    plans = {_name_for(level): make_plan(cuda=False, level=level) for level in levels}
    if find_nvcc() is not None:
        plans[CUDA_LIBRARY_NAME] = make_plan(cuda=True, host=False)
    return plans
