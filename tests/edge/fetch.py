"""What an emulated processor needs: fetched once, unpacked under a folder of ours, installed nowhere."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement
from wheels import build

ROOT = Path(__file__).resolve().parents[2]
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Debian bookworm's.
PYTHON = "3.11"
# What the tests that run there import.
TOOLS = ("pytest", "hypothesis", "scipy")


class AbsentError(Exception):
    """Something that cannot be had here: the message names it, says why and what to run."""


@dataclass(frozen=True)
class Debian:
    """Packages of one Debian release, with all that they depend on.

    Attributes:
        what: What they are to us, for messages.
        suite: The release.
        architecture: Debian's name of the processor they are for.
        packages: Their names.
        only: What is kept of them, as paths; empty for all.
    """

    what: str
    suite: str
    architecture: str
    packages: tuple[str, ...]
    only: tuple[str, ...] = ()

    def unpack(self, into: Path) -> Path:
        """The folder with their files; a second call fetches nothing.

        Raises:
            AbsentError: They cannot be fetched.
        """
        return made(into, repr(self), self._fetch)

    def _fetch(self, folder: Path) -> None:
        for program in ("apt-get", "dpkg-deb"):
            if shutil.which(program) is None:
                raise self._absent(f"there is no {program} here", "run `make edge` on Debian or what derives from it")
        if not KEYRING.is_file():
            raise self._absent(f"there is no {KEYRING}", "run `apt-get install debian-archive-keyring`")
        with tempfile.TemporaryDirectory() as work:
            state = Path(work)
            for name in ("lists/partial", "archives/partial"):
                (state / name).mkdir(parents=True)
            (state / "status").touch()  # nothing is installed: so all that the packages depend on is fetched
            (state / "debian.sources").write_text(
                f"Types: deb\nURIs: {self._mirror()}\nSuites: {self.suite}\nComponents: main\n"
                f"Architectures: {self.architecture}\nSigned-By: {KEYRING}\n"
            )
            settings = {
                "APT::Architecture": self.architecture,
                "APT::Architectures": self.architecture,
                "APT::Sandbox::User": "root",  # whoever runs this: the folder is ours alone
                "Debug::NoLocking": "1",
                "Dir::State": work,
                "Dir::State::status": f"{work}/status",
                "Dir::Cache": work,
                "Dir::Etc::sourcelist": f"{work}/debian.sources",
                "Dir::Etc::sourceparts": "-",
            }
            apt = ["apt-get", "-qq", "-y", *(f"-o{name}={value}" for name, value in settings.items())]
            self._run([*apt, "-oAPT::Update::Error-Mode=any", "update"])
            self._run([*apt, "--download-only", "--no-install-recommends", "install", *self.packages])
            for archive in sorted((state / "archives").glob("*.deb")):
                self._run(["dpkg-deb", "-x", str(archive), str(folder)])
        if self.only:
            kept = {folder / name for name in self.only}
            for path in folder.rglob("*"):
                if not path.is_dir() and path not in kept:
                    path.unlink()

    def _mirror(self) -> str:
        """Where this machine gets Debian's packages from."""
        if mirror := os.environ.get("RAR_DEBIAN"):
            return mirror
        listed = self._run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
        for uri in listed.split():
            if uri.rstrip("/").endswith("/debian"):
                return uri
        raise self._absent("apt here knows no mirror of Debian", "set RAR_DEBIAN to the address of one")

    def _run(self, command: Sequence[str]) -> str:
        return run(command, lambda why: self._absent(why, "set RAR_DEBIAN to a mirror that answers, or see `apt-get`"))

    def _absent(self, why: str, todo: str) -> AbsentError:
        names = " ".join(self.packages)
        return AbsentError(f"{self.what} ({names} of Debian {self.suite}, {self.architecture}): {why}; {todo}")


@dataclass(frozen=True)
class Aarch64:
    """A 64-bit ARM's Python with the runtime as it is shipped.

    Attributes:
        sysroot: Debian's Python and C library.
        packages: PyPI's wheels.
        own: Our wheel, unpacked.
    """

    sysroot: Path
    packages: Path
    own: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.sysroot / f"usr/bin/python{PYTHON}"

    @property
    def environment(self) -> Mapping[str, str]:
        """What its interpreter finds the packages by."""
        return {"PYTHONPATH": f"{self.own}{os.pathsep}{self.packages}"}


def emulators(cache: Path) -> Path:
    """The folder with `qemu-aarch64` and `qemu-x86_64`: of release 10, older ones die in ONNX Runtime's start.

    Raises:
        AbsentError: They cannot be fetched.
    """
    only = ("usr/bin/qemu-aarch64", "usr/bin/qemu-x86_64")
    return Debian("emulator", "trixie", host(), ("qemu-user",), only).unpack(cache / "qemu") / "usr/bin"


def aarch64(cache: Path, wheel: Path | None = None) -> Aarch64:
    """All that runs on a 64-bit ARM.

    Args:
        cache: Where it is kept.
        wheel: Our wheel; None to build one where the sources have changed.

    Raises:
        AbsentError: A part of it cannot be fetched, or our wheel cannot be built.
    """
    sysroot = Debian("sysroot", "bookworm", "arm64", (f"python{PYTHON}", "libstdc++6")).unpack(
        cache / "aarch64/sysroot"
    )
    packages = _wheels(cache / "aarch64/packages")
    if wheel is None:
        (wheel,) = made(cache / "aarch64/wheel", _digest(), _build).glob("*.whl")
    return Aarch64(sysroot, packages, _unpacked(wheel, cache / "aarch64/own"))


def made(folder: Path, stamp: str, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills, unless it was filled for the same stamp before; all of it or nothing."""
    note = folder / ".made-for"
    if note.is_file() and note.read_text(encoding="utf-8") == stamp:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        staged = Path(work) / folder.name
        staged.mkdir()
        print(f"edge: makes {folder}", file=sys.stderr)  # what a command prints is its answer
        make(staged)
        (staged / note.name).write_text(stamp, encoding="utf-8")
        staged.rename(folder)
    return folder


def run(
    command: Sequence[str], absent: Callable[[str], AbsentError], environment: Mapping[str, str] | None = None
) -> str:
    """A command's standard output."""
    env = {**os.environ, "LC_ALL": "C", **(environment or {})}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=env, check=False)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-500:]
        raise absent(f"{Path(command[0]).name} ended with {done.returncode}: {said}")
    return done.stdout


def host() -> str:
    """Debian's name of this machine's architecture."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def _wheels(folder: Path) -> Path:
    """What the runtime and its tests import, in the versions that are installed here: only the processor differs."""
    needed = [Requirement(line) for line in requires("rar-runtime") or ()]
    names = [part.name for part in needed if part.marker is None or part.marker.evaluate({"extra": "cpu"})]
    pins = [_pinned(name) for name in (*names, *TOOLS)]
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(36, 16, -1)]  # bookworm's glibc and older
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--progress-bar=off", "--no-compile"]
    pip += ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}", *platforms]

    def absent(why: str) -> AbsentError:
        return AbsentError(f"aarch64 wheels of {' '.join(pins)}: {why}; see `pip download --platform`")

    def install(into: Path) -> None:
        run([*pip, f"--target={into}", *pins], absent)

    return made(folder, " ".join(pins), install)


def _pinned(name: str) -> str:
    try:
        return f"{name}=={version(name)}"
    except PackageNotFoundError:  # such as onnxruntime where onnxruntime-gpu is installed
        return name


def _digest() -> str:
    """Tells whether what our wheel is made of has changed."""
    digest = hashlib.sha256()
    parts = [ROOT / "setup.py", ROOT / "pyproject.toml", *(ROOT / "cpp_ext").rglob("*"), *(ROOT / "runtime").rglob("*")]
    for path in sorted(parts):
        if path.is_file() and re.fullmatch(r"\.(py|pyi|toml|cpp|h|typed)", path.suffix or f".{path.name}"):
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _build(folder: Path) -> None:
    """Our wheel, as `make wheels` builds it."""
    try:
        if (python := build.python(PYTHON)) is None:
            raise build.WheelError(f"no Python {PYTHON} here to build it with; run `pyenv install {PYTHON}`")
        with tempfile.TemporaryDirectory() as source:
            build.wheel([python, "-m", "pip"], PYTHON, "aarch64", build.sdist(Path(source)), folder)
    except build.WheelError as error:
        raise AbsentError(f"our own aarch64 wheel: {error}") from error


def _unpacked(wheel: Path, folder: Path) -> Path:
    """What is in a wheel."""

    def unpack(into: Path) -> None:
        with ZipFile(wheel) as archive:
            archive.extractall(into)

    return made(folder, hashlib.sha256(wheel.read_bytes()).hexdigest(), unpack)
