"""Maps the top-level folders to the package `realness` and compiles the kernels if possible.

Other projects also use names like `trainer`, `kernels` and `launch`, so the folders are imported as
`realness.trainer`, `realness.kernels`, and so on. `realness` itself lies in `.typings/`: in the
root it would hide the installed package from whatever is started there. Everything else is declared
in pyproject.toml.
"""

import importlib.util
import sys
from pathlib import Path

from setuptools import Distribution, find_namespace_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

FOLDERS = ("trainer", "kernels", "data_pipeline", "launch")
PACKAGE = ".typings/realness"


def packages() -> list[str]:
    """Every package, and every folder of kernel sources, under its installed name."""
    inner = [
        f"realness.{name}"
        for folder in FOLDERS
        for name in (folder, *(f"{folder}.{inner}" for inner in _inside(folder)))
    ]
    return ["realness", *inner]


def _inside(folder: str) -> list[str]:
    return find_namespace_packages(folder, exclude=["*__pycache__*", "lib"])


class BuildWithKernels(build_py):
    """Adds the compiled kernels to the package; an editable install compiles on first use."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            _kernel_builder().build_for_wheel(Path(self.build_lib) / "realness" / "kernels")


class PlatformWheel(bdist_wheel):
    """The library uses torch's stable ABI and not Python's: any Python 3, this platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


class PlatformDistribution(Distribution):
    """Declares that the wheel holds compiled code, which setuptools cannot detect."""

    def has_ext_modules(self) -> bool:
        return True


def _kernel_builder():
    """kernels/build.py, loaded by path: the package itself needs torch to be imported."""
    path = Path(__file__).parent / "kernels" / "build.py"
    spec = importlib.util.spec_from_file_location("realness_kernel_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


setup(
    package_dir={"realness": PACKAGE, **{f"realness.{folder}": folder for folder in FOLDERS}},
    packages=packages(),
    package_data={
        "realness": ["py.typed"],
        "realness.kernels": ["**/*.cu", "**/*.cuh", "**/*.h", "lib/*"],
    },
    distclass=PlatformDistribution,
    cmdclass={"build_py": BuildWithKernels, "bdist_wheel": PlatformWheel},
)
