"""The build: its settings, its cache, remembered failures, and how the package reports it."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from realness.kernels import build, library
from tests.helpers import ROOT

VISIBLE = 'extern "C" __attribute__((visibility("default")))'
TINY = f"{VISIBLE} int realness_answer() {{ return 42; }}\n"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source that compiles quickly, and an empty cache."""
    monkeypatch.setenv("REALNESS_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "tiny.cu"
    source.write_text(TINY)
    return source


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        check=False,
    )


def test_a_library_is_built_once_and_published_whole(tiny: Path) -> None:
    plan = build.make_plan(emulate=True, units=[tiny])
    library_path = build.cached_library(plan)
    first = library_path.stat().st_mtime_ns
    assert build.cached_library(plan).stat().st_mtime_ns == first
    assert {p.name for p in library_path.parent.iterdir()} == {"librealness.so", "librealness.json"}
    assert json.loads(library_path.with_suffix(".json").read_text())["torch"] == torch.__version__


@pytest.mark.parametrize(
    "name",
    ["with space", "$HOME", "a:b", "it's", 'say "x"', "#(1) & co;*", "100%", "é", "a\\c", "a|b"],
)
def test_any_path_of_checkout_compiler_and_cache_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Paths pass through ninja's file, then through the shell."""
    folder = tmp_path / name
    folder.mkdir()
    source = folder / "tiny.cu"
    source.write_text('#include "answer.h"\n' + TINY)
    (folder / "answer.h").touch()
    compiler = shutil.which("g++") or shutil.which("c++")
    assert compiler is not None
    (folder / "my c++").symlink_to(compiler)
    monkeypatch.setenv("CXX", str(folder / "my c++"))
    monkeypatch.setenv("REALNESS_CACHE", str(folder / "cache"))
    plan = build.make_plan(emulate=True, units=[source], extra_flags=("-I", str(folder)))
    assert plan.linker == str(folder / "my c++")
    library = ctypes.CDLL(str(build.cached_library(plan)))
    assert library.realness_answer() == 42


def test_a_changed_header_in_any_path_is_compiled_again(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ninja reads the headers' paths from what the compiler wrote."""
    header = tiny.parent / "a b$c" / "answer.h"
    header.parent.mkdir()
    header.write_text("#define ANSWER 42\n")
    tiny.write_text('#include "answer.h"\nextern "C" int realness_answer() { return ANSWER; }\n')
    flags = ("-I", str(header.parent))
    plan = build.make_plan(emulate=True, units=[tiny], extra_flags=flags)
    objects = tiny.parent / "objects"
    build.compile_library(plan, objects)
    header.write_text("#error changed\n")
    with pytest.raises(build.BuildError, match="changed"):
        build.compile_library(plan, objects)


@pytest.mark.parametrize("name", ["with space", "$HOME", "a:b"])
def test_a_toolkit_in_any_path_is_called(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A stand-in for nvcc, which leaves a mark in its library, and a stand-in for cudart."""
    home = tiny.parent / name
    for folder in ("bin", "lib64"):
        (home / folder).mkdir(parents=True)
    nvcc = home / "bin/nvcc"
    nvcc.write_text(
        "#!/bin/sh\n"
        "for out do :; done\n"
        "echo 'extern \"C\" int realness_mark() { return 7; }' |\n"
        '  exec g++ -x c++ -fPIC -MD -MF "$out.d" -c - -o "$out"\n'
    )
    nvcc.chmod(0o755)
    subprocess.run(["ar", "rcs", home / "lib64/libcudart_static.a"], check=True)
    monkeypatch.setenv("CUDA_HOME", str(home))
    plan = build.make_plan(cuda=True, units=[tiny])
    assert {unit.compiler for unit in plan.units} == {str(nvcc), build.find_compiler()}
    library = ctypes.CDLL(str(build.cached_library(plan)))
    assert (library.realness_answer(), library.realness_mark()) == (42, 7)


def test_a_failure_is_remembered_until_asked_again(tiny: Path) -> None:
    tiny.write_text("#error broken on purpose\n")
    plan = build.make_plan(emulate=True, units=[tiny])
    with pytest.raises(build.BuildError, match="broken on purpose"):
        build.cached_library(plan)
    tiny.write_text(TINY)
    with pytest.raises(build.BuildError, match="an earlier build failed"):
        build.cached_library(plan)
    assert build.cached_library(plan, retry=True).exists()


@pytest.mark.parametrize("end", ["kill -TERM $$", "echo interrupted by user; exit 2"])
def test_an_interruption_is_not_remembered(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """A run that is killed while it compiles must not leave the next one without kernels."""
    plan = build.make_plan(emulate=True, units=[tiny])
    with monkeypatch.context() as patch:
        patch.setattr(build, "find_ninja", lambda: ["sh", "-c", end])
        with pytest.raises(build.BuildInterrupted, match="was interrupted"):
            build.cached_library(plan)
    assert build.cached_library(plan).exists()


def test_the_key_depends_on_flags_and_torch(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {build.make_plan(emulate=True, units=[tiny]).key}
    keys.add(build.make_plan(emulate=True, units=[tiny], extra_flags=("-g",)).key)
    other = build.Torch(build.find_torch().folder, "9.9", False)
    monkeypatch.setattr(build, "find_torch", lambda: other)
    keys.add(build.make_plan(emulate=True, units=[tiny]).key)
    assert len(keys) == 3


def test_architectures_follow_torchs_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    assert [flag.rpartition("code=")[2] for flag in build.architecture_flags()] == [
        "sm_80",
        "sm_90",
        "compute_90",
    ]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0a;10.0+PTX")
    assert [flag.rpartition("code=")[2] for flag in build.architecture_flags()] == [
        "sm_90a",
        "sm_100",
        "compute_100",
    ]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Hopper")
    with pytest.raises(build.BuildError, match=r"'Hopper'; expected a form like 9.0"):
        build.architecture_flags()


def test_a_wheel_without_a_compiler_warns_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    monkeypatch.setenv("REALNESS_BUILD", "auto")
    with pytest.warns(UserWarning, match=r"no C\+\+ compiler") as caught:
        assert not build.build_for_wheel(tiny.parent / "package")
    assert len(caught) == 1
    monkeypatch.setenv("REALNESS_BUILD", "require")
    with pytest.raises(build.BuildError, match=r"no C\+\+ compiler"):
        build.build_for_wheel(tiny.parent / "package")


def test_a_wheel_gets_the_library_and_its_manifest(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "find_nvcc", lambda: None)
    monkeypatch.setattr(build, "sources", lambda: [tiny])
    package = tiny.parent / "package"
    assert build.build_for_wheel(package)
    levels = [1, 3, 4] if platform.machine() == "x86_64" else [1]
    for level in levels:
        monkeypatch.setattr(build, "cpu_level", lambda level=level: level)
        name = build.LIBRARY_NAME if level == 1 else f"librealness_v{level}.so"
        assert build.bundled_library(package) == package / "lib" / name
        assert not build.has_cuda(package / "lib" / name)
    (package / "lib" / "librealness_cuda.so").touch()
    assert build.has_cuda(package / "lib" / build.LIBRARY_NAME)


def test_a_wheels_library_serves_every_torch_but_only_its_own_sources(tmp_path: Path) -> None:
    folder = tmp_path / "lib"
    folder.mkdir()
    (folder / build.LIBRARY_NAME).touch()
    manifest = folder / "librealness.json"
    for sources, torch_version, expected in (
        (build.source_digest(), "2.10.0", folder / build.LIBRARY_NAME),
        ("of other sources", torch.__version__, None),
    ):
        manifest.write_text(json.dumps({"sources": sources, "torch": torch_version, "cuda": False}))
        assert build.bundled_library(tmp_path) == expected


def test_the_build_file_imports_no_torch() -> None:
    code = (
        "import importlib.util as u, sys; spec = u.spec_from_file_location('b', sys.argv[1])"
        "; b = u.module_from_spec(spec); sys.modules['b'] = b"
        "; spec.loader.exec_module(b); b.make_plan(cuda=False); assert 'torch' not in sys.modules"
    )
    result = python("-c", code, build.__file__)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_never_means_the_reference() -> None:
    x, code = "torch.ones(1, 2), torch.ones(2)", "import torch, realness.kernels as k"
    code += f"; print(k.bias_act({x}, 'relu').tolist())"
    result = python("-c", code, REALNESS_BUILD="never")
    assert result.stdout.strip() == "[[2.0, 2.0]]", result.stderr
    assert "PyTorch reference (REALNESS_BUILD=never)" in result.stderr
    chosen = code.replace("; print", "\nwith k.implementation('cpu'): print")
    refused = python("-c", chosen, REALNESS_BUILD="never")
    assert "impl='cpu' is not available here (REALNESS_BUILD=never)" in refused.stderr


def test_require_wants_kernels_for_the_device_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without nvcc, a machine with a GPU would silently run the reference."""
    path = tmp_path / build.LIBRARY_NAME
    path.with_suffix(".json").write_text(json.dumps({"cuda": False}))
    monkeypatch.setattr(build, "cached_library", lambda plan, **options: path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(build.BuildError, match="no kernels for it, and nvcc was not found"):
        library.find_library("require")
    assert library.find_library("auto") == path


@pytest.mark.slow
def test_the_report_names_the_library() -> None:
    result = python("-m", "realness.kernels")
    assert result.returncode == 0, result.stderr
    assert str(library.status().library) in result.stdout
    assert "on cpu          compiled" in result.stdout


def test_a_bare_import_is_refused() -> None:
    result = python("-c", "import kernels")
    assert "import it as realness.kernels" in result.stderr


def test_every_folder_with_a_kernel_is_listed() -> None:
    assert sorted(library.OPS) == [path.stem for path in build.sources()]
