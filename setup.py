"""Maps the top-level folders to the `rar` namespace package and builds the C++ extension."""

import os
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

# Pillow's coefficients are computed without fused multiply-add; contraction would change the last bit.
compile_args = ["-O3", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wpedantic"]
if os.environ.get("RAR_WERROR"):
    compile_args.append("-Werror")

ParallelCompile("NPY_NUM_BUILD_JOBS").install()

# Each folder with an `__init__.py` in these is a package of the namespace `rar`.
tops = ("runtime", "export", "serving", "benchmarks")

setup(
    packages=["rar." + ".".join(file.parent.parts) for top in tops for file in sorted(Path(top).rglob("__init__.py"))],
    package_dir={f"rar.{top}": top for top in tops},
    package_data={
        "rar.runtime": ["py.typed", "*.pyi"],
        "rar.export": ["py.typed"],
        "rar.export.page": ["*.css"],
        "rar.export.starter": ["adapter/*", "graphs/*", "classes.tsv", "packages.txt"],
        "rar.serving": ["py.typed", "page/*"],
        "rar.benchmarks": ["py.typed"],
        "rar.benchmarks.accuracy": ["*.json"],
    },
    ext_modules=[
        Pybind11Extension(
            "rar.runtime._native",
            sorted(str(path) for path in Path("cpp_ext").rglob("*.cpp")),
            depends=sorted(str(path) for path in Path("cpp_ext").rglob("*.h")),
            include_dirs=["cpp_ext"],
            cxx_std=17,
            extra_compile_args=compile_args,
            extra_link_args=["-pthread"],
        )
    ],
    cmdclass={"build_ext": build_ext},
    zip_safe=False,
)
