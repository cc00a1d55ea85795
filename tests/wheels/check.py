"""A wheel or the source archive where it is installed: it must import, and its kernels must be exact."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

from edge import fetch

from .build import ROOT, WheelError, run

TOOLS = ("onnx", "pytest", "hypothesis", "scipy")
WHEEL_TESTS = ("tests/runtime/machine/test_cores.py", "tests/runtime/bundle/test_external_data.py")
# Each form of the kernels against Pillow and NumPy.
EXACT_TESTS = (
    "tests/runtime/picture/test_preprocess.py",
    "tests/runtime/picture/test_preprocess_simd.py",
    "tests/runtime/picture/test_boxes.py",
)
_LEVELS = "import json; from rar.runtime import native_features; print(json.dumps(native_features()['available']))"


def complete(wheel: Path) -> None:
    """Holds what is in a wheel to the files that are under version control, where those are known.

    Raises:
        WheelError: One is missing.
    """
    if not (ROOT / ".git").exists():
        return
    tracked = run(["git", "ls-files", "runtime", "export", "benchmarks"], "git").split()
    with ZipFile(wheel) as archive:
        there = set(archive.namelist())
    missing = [name for name in tracked if f"rar/{name}" not in there and not name.startswith("benchmarks/results/")]
    if missing:
        raise WheelError(f"{wheel.name}: lacks {', '.join(missing[:5])}; name them in `package_data` of setup.py")


def environment(python: str, folder: Path) -> Path:
    """A new environment; its interpreter.

    Raises:
        WheelError: That Python cannot make one.
    """
    shutil.rmtree(folder, ignore_errors=True)
    run([python, "-m", "venv", str(folder)], f"an environment of {python}")
    return folder / "bin/python"


def install(inside: Path, package: Path, *also: str) -> None:
    """Installs a wheel or source archive with the extra `cpu`.

    Raises:
        WheelError: It cannot be installed.
    """
    pip = [str(inside), "-m", "pip", "install", "--quiet", "--progress-bar=off"]
    run([*pip, f"{package}[cpu]", *also], f"the installation of {package.name}")


def levels(inside: Path) -> list[str]:
    """The forms of the kernels that an installation has on this machine, slowest first."""
    found: list[str] = json.loads(run([str(inside), "-c", _LEVELS], f"the import in {inside}"))
    return found


def whole(inside: Path) -> None:
    """Runs what the source archive alone must be able to: the import, and a command.

    Raises:
        WheelError: It does not.
    """
    levels(inside)
    helped = run([str(inside.with_name("rar-recognize")), "--help"], f"rar-recognize in {inside.parent}")
    if "usage: rar-recognize" not in helped:
        raise WheelError(f"{inside.parent}/rar-recognize --help printed no usage: {helped[:200]!r}")


def exact(inside: Path, at: Sequence[str]) -> None:
    """Runs the tests of a wheel's own, then those of the kernels at each of these levels.

    Raises:
        WheelError: One failed.
    """
    pytest = [str(inside), "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider"]
    run([*pytest, *WHEEL_TESTS], f"the tests in {inside}")
    for level in at:
        said = run([*pytest, *EXACT_TESTS], f"the kernels {level} in {inside}", {"RAR_SIMD": level})
        print(f"wheels: {inside.parent.parent.parent.name} {level}: {said.splitlines()[-1]}", flush=True)


def emulated(wheel: Path) -> None:
    """Runs a wheel for a 64-bit ARM on the ARM that has every form of the kernels, emulated.

    Raises:
        edge.fetch.AbsentError: The emulator or its Python cannot be fetched.
        WheelError: It fails there.
    """
    cache = fetch.ROOT / "build/edge"
    there = fetch.aarch64(cache, wheel)
    python = [str(fetch.emulators(cache) / "qemu-aarch64"), "-cpu", "max", "-L", str(there.sysroot), str(there.python)]
    what = f"{wheel.name} on an emulated ARM"
    found = json.loads(run([*python, "-c", _LEVELS], what, there.environment))
    if found != ["scalar", "neon", "dotprod", "i8mm"]:
        raise WheelError(f"{what}: has the kernels {found} only; the compiler left some out")
    pytest = ["-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "-k", "not too_large and not open_clip"]
    said = run([*python, *pytest, *EXACT_TESTS], what, there.environment)
    print(f"wheels: aarch64 {' '.join(found)}: {said.splitlines()[-1]}", flush=True)
