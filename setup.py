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

setup(
    packages=[
        "rar.runtime",
        "rar.runtime.memory",
        "rar.runtime.mllm",
        "rar.runtime.session",
        "rar.export",
        "rar.export.engine",
        "rar.export.finetune",
        "rar.export.grain",
        "rar.export.interchange",
        "rar.export.mllm",
        "rar.benchmarks",
        "rar.benchmarks.accuracy",
        "rar.benchmarks.detection",
        "rar.benchmarks.grain",
        "rar.benchmarks.latency",
        "rar.benchmarks.memory",
        "rar.benchmarks.peers",
        "rar.benchmarks.rank",
        "rar.benchmarks.report",
    ],
    package_dir={
        "rar.runtime": "runtime",
        "rar.runtime.memory": "runtime/memory",
        "rar.runtime.mllm": "runtime/mllm",
        "rar.runtime.session": "runtime/session",
        "rar.export": "export",
        "rar.export.engine": "export/engine",
        "rar.export.finetune": "export/finetune",
        "rar.export.grain": "export/grain",
        "rar.export.interchange": "export/interchange",
        "rar.export.mllm": "export/mllm",
        "rar.benchmarks": "benchmarks",
        "rar.benchmarks.accuracy": "benchmarks/accuracy",
        "rar.benchmarks.detection": "benchmarks/detection",
        "rar.benchmarks.grain": "benchmarks/grain",
        "rar.benchmarks.latency": "benchmarks/latency",
        "rar.benchmarks.memory": "benchmarks/memory",
        "rar.benchmarks.peers": "benchmarks/peers",
        "rar.benchmarks.rank": "benchmarks/rank",
        "rar.benchmarks.report": "benchmarks/report",
    },
    package_data={
        "rar.runtime": ["py.typed", "*.pyi"],
        "rar.export": ["py.typed", "starter_adapter/*"],
        "rar.benchmarks": ["py.typed"],
        "rar.benchmarks.accuracy": ["*.json"],
        "rar.benchmarks.report": ["*.css"],
    },
    ext_modules=[
        Pybind11Extension(
            "rar.runtime._native",
            sorted(str(path) for path in Path("cpp_ext").glob("*.cpp")),
            depends=sorted(str(path) for path in Path("cpp_ext").glob("*.h")),
            cxx_std=17,
            extra_compile_args=compile_args,
            extra_link_args=["-pthread"],
        )
    ],
    cmdclass={"build_ext": build_ext},
    zip_safe=False,
)
