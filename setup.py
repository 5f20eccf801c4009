"""Maps the top-level folders to the package `realness` and compiles the kernels where it can.

`trainer`, `kernels` and `launch` are names that others use too, so the folders are imported as
`realness.trainer`, `realness.kernels`, and so on. Everything else is declared in pyproject.toml.
"""

from setuptools import find_packages, setup

FOLDERS = ("trainer", "kernels", "data_pipeline", "launch")


def packages() -> list[str]:
    """Every package, under its installed name."""
    return [
        f"realness.{name}"
        for folder in FOLDERS
        for name in (folder, *(f"{folder}.{inner}" for inner in find_packages(folder)))
    ]


setup(
    package_dir={f"realness.{folder}": folder for folder in FOLDERS},
    packages=packages(),
    package_data={"realness.kernels": ["**/*.cu", "**/*.cuh", "**/*.cpp", "**/*.h"]},
)
