"""A real `rar-serve` on loopback."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

Start = Callable[..., "contextlib.AbstractContextManager[Served]"]


@dataclass
class Served:
    """A server's process, and a client of it."""

    process: subprocess.Popen[str]
    url: str
    client: httpx.Client

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1].strip("/"))

    def recognize(self, picture: bytes | Path, **asked: Any) -> httpx.Response:
        """Sends one picture as it is."""
        content = picture if isinstance(picture, bytes) else picture.read_bytes()
        return self.client.post(
            "/recognize", content=content, params=asked, headers={"content-type": "application/octet-stream"}
        )

    def teach(self, label: str, *pictures: Path) -> httpx.Response:
        files = [("image", (path.name, path.read_bytes())) for path in pictures]
        return self.client.post("/memory", files=files, data={"labels": label})

    def end(self) -> int:
        """Tells it to end, and waits."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def served(bundle: Path, *options: object, key: str | None = None) -> Iterator[Served]:
    """A server of a bundle, until the block ends; then it must end well."""
    command = [sys.executable, "-m", "rar.serving.http.command", bundle, "--port", 0, "--provider", "cpu", *options]
    environment = {name: value for name, value in os.environ.items() if name != "RAR_API_KEY"}
    if key is not None:
        environment["RAR_API_KEY"] = key
    process = subprocess.Popen(
        [str(word) for word in command], stderr=subprocess.PIPE, text=True, env=environment, bufsize=1
    )
    try:
        assert process.stderr is not None
        first = process.stderr.readline()
        found = re.fullmatch(r"rar-serve: (https?://\S+)/\n", first)
        assert found is not None, first + (process.stderr.read() if process.poll() is not None else "")
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        with httpx.Client(base_url=found[1], headers=headers, timeout=60) as client:
            yield Served(process, found[1], client)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def start() -> Start:
    """Starts a server: `with start(bundle, *options, key=None) as own`."""
    return served


@pytest.fixture(scope="module")
def own_bundle(pictures_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle of four classes, for one module's server."""
    import shutil

    return Path(shutil.copytree(pictures_bundle, tmp_path_factory.mktemp("served") / "bundle"))


@pytest.fixture(scope="module")
def server(own_bundle: Path, labelled_folder: Path) -> Iterator[Served]:
    """A server with the usual settings, that all tests of a module share."""
    with served(own_bundle, "--pictures", labelled_folder, "--threads", 1) as own:
        yield own
