"""`python -m realness.kernels`: shows which kernels are built and used on this machine, and why."""

from __future__ import annotations

import argparse
import logging

import torch

from . import build, library


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m realness.kernels", description=__doc__)
    parser.add_argument("--rebuild", action="store_true", help="retry a failed build")
    parser.add_argument(
        "--bundle", action="store_true", help="build kernels/lib, which travels with the sources"
    )
    arguments = parser.parse_args()
    if arguments.bundle and not build.build_for_wheel(build.PACKAGE_DIR):
        raise SystemExit("nothing was built")
    logging.basicConfig(format="%(message)s")
    found = library.status(rebuild=arguments.rebuild)
    print(f"torch           {torch.__version__} (CUDA {torch.version.cuda or 'none'})")
    print(f"nvcc            {build.find_nvcc() or 'not found'}")
    print(f"REALNESS_BUILD  {build.build_mode()}")
    print(f"cache           {build.cache_folder()}")
    print(f"library         {found.library or 'none'}")
    if found.library is None:
        print(f"                {found.reason}")
    else:
        kinds = "cpu and cuda" if build.has_cuda(found.library) else "cpu only"
        print(f"                built for {kinds}")
    for device in ("cpu", "cuda"):
        used = "compiled" if device in found.devices else "PyTorch reference"
        if device == "cuda" and not torch.cuda.is_available():
            used = "no device here"
        print(f"on {device:<13}{used}")


if __name__ == "__main__":
    main()
