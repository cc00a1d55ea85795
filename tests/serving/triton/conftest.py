"""The real Triton server, from NVIDIA's own wheel; it and the packages of its Python are fetched once, from PyPI."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import rar.runtime
import rar.serving

ROOT = Path(__file__).resolve().parents[3]
BUILT = ROOT / "build" / "triton"
# The wheel's stub of 2.51 dies with NumPy 2.
PACKAGES = ("numpy<2", "onnxruntime>=1.23,<2", "pillow>=11,<14", "usearch>=2.23,<2.25", "tokenizers", "ftfy", "tqdm")


@dataclass(frozen=True)
class Server:
    """A running server: its ports on 127.0.0.1, and what it writes."""

    http: int
    grpc: int
    log: Path


def fetch(name: str, *arguments: str) -> Path:
    """A folder of packages; a second call fetches nothing."""
    folder = BUILT / name
    if not folder.is_dir():
        part = BUILT / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--progress-bar", "off", "--target", str(part)]
        run = subprocess.run([*pip, *arguments], capture_output=True, text=True, check=False)
        if run.returncode:
            pytest.skip(f"{arguments} cannot be fetched: {run.stderr.strip().splitlines()[-1]}")
        part.rename(folder)
    return folder


@pytest.fixture(scope="session")
def tritonserver() -> tuple[Path, Path]:
    """The server's folder, with the stub of this Python, and the folder of its libraries."""
    wheel = fetch("server", "--no-deps", "nvidia-pytriton==0.7.0")
    server = wheel / "pytriton" / "tritonserver"
    stub = f"{sys.version_info.major}.{sys.version_info.minor}"
    target = server / "backends" / "python" / "triton_python_backend_stub"
    if not target.exists():
        source = server / "python_backend_stubs" / stub / target.name
        if not source.exists():
            pytest.skip(f"the wheel has no stub for Python {stub}")
        shutil.copy(source, target)
    for program in (server / "bin" / "tritonserver", target):
        program.chmod(0o755)
    return server, wheel / "nvidia_pytriton.libs"


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment of the system's Python, whose library the stub loads: the packages, and this code.

    The stub reads no variable but the path of programs: the environment whose `python3` comes first is its own.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    system = Path("/usr/bin") / version
    if not system.exists():
        pytest.skip(f"there is no {system}, whose library the server's stub loads")
    folder = tmp_path_factory.mktemp("environment")
    packages = folder / "lib" / version / "site-packages"
    (packages / "rar").mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").symlink_to(system)
    (folder / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (packages / "fetched.pth").write_text(f"{fetch('python', *PACKAGES)}\n")
    for package in (rar.runtime, rar.serving):
        assert package.__file__ is not None
        own = Path(package.__file__).parent
        (packages / "rar" / own.name).symlink_to(own)
    return folder


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def serve(
    tritonserver: tuple[Path, Path], environment: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Sequence[str]], Server]]:
    """Starts a server with the words after its name; it is there when its models are ready."""
    program, libraries = tritonserver
    running: list[subprocess.Popen[bytes]] = []

    def start(words: Sequence[str]) -> Server:
        log = tmp_path_factory.mktemp("triton") / "log"
        server = Server(free_port(), free_port(), log)
        command = [str(program / "bin" / "tritonserver"), *words, f"--backend-directory={program / 'backends'}"]
        command += ["--allow-metrics=false", "--disable-auto-complete-config"]
        command += [f"--http-port={server.http}", f"--grpc-port={server.grpc}"]
        path = os.pathsep.join([str(environment / "bin"), os.environ["PATH"]])
        # Its Python has packages of its own, not those that the tests run with.
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        env |= {"LD_LIBRARY_PATH": str(libraries), "PATH": path}
        with log.open("wb") as file:
            running.append(subprocess.Popen(command, stdout=file, stderr=file, env=env))
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{server.http}/v2/health/ready", timeout=5)
                return server
            except (urllib.error.URLError, OSError):
                if running[-1].poll() is not None:
                    break
                time.sleep(0.1)
        pytest.fail(f"the server does not start: {log.read_text()[-3000:]}")

    yield start
    for process in running:
        process.terminate()
        process.wait(60)
