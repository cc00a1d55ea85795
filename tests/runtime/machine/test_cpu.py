"""The instruction sets that results are said to hold for."""

import platform
from pathlib import Path

import pytest

from rar.runtime import native_features
from rar.runtime.machine.cpu import describe, instruction_sets

LINUX_NAMES = {"neon": "asimd", "fp16": "asimdhp", "dotprod": "asimddp"}


def test_they_are_those_that_the_kernel_lists() -> None:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    listed = next((line.split(":")[1].split() for line in lines if line.startswith(("flags", "Features"))), None)
    if listed is None:
        pytest.skip("this system lists no instruction sets")
    found = instruction_sets()
    assert {LINUX_NAMES.get(name, name) for name in found} <= set(listed)
    known = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
    assert {name for name in listed if name in known} <= {LINUX_NAMES.get(name, name) for name in found}


def test_our_own_kernels_need_what_is_there() -> None:
    needs = {"scalar": set(), "avx2": {"avx2", "fma"}, "avx512": {"avx512bw", "avx512_vnni"}, "neon": {"neon"}}
    for level in native_features()["available"]:
        assert needs[level] <= set(instruction_sets())


def test_one_line_names_machine_and_sets_and_not_the_processor() -> None:
    line = describe()
    assert line.startswith(f"{platform.machine()} with ")
    assert all(name in line for name in instruction_sets())
    assert "(R)" not in line
