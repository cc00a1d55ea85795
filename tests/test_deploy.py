"""What `docs/deploy` ships runs, and its units and images start it with arguments that it takes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rar.runtime.session import ORDER

DEPLOY = Path(__file__).resolve().parents[1] / "docs/deploy"


def watch(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DEPLOY / "watch.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_each_picture_of_the_folder_gives_a_line_and_moves_on(
    names_bundle: Path, class_pictures: list[Path], tmp_path: Path
) -> None:
    inbox, outbox = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    for number, path in enumerate(class_pictures):
        shutil.copy(path, inbox / f"{number:02}{path.suffix}")
    (inbox / "broken.jpg").write_bytes(b"no picture")
    (inbox / ".half-written").write_bytes(b"")
    for _ in range(2):  # the second finds nothing
        done = watch(names_bundle, inbox, outbox, "--provider", "cpu", "--once")
        assert done.returncode == 0, done.stderr
    assert "ready: {'clip/visual.onnx': 'cpu'}" in done.stderr
    lines = [json.loads(line) for line in (outbox / "results.jsonl").read_text().splitlines()]
    assert len(lines) == len(class_pictures) + 1
    assert [Path(line["path"]).name for line in lines if "error" in line] == ["broken.jpg"]
    assert all(line["provider"] == "cpu" and len(line["candidates"]) == 4 for line in lines if "error" not in line)
    assert [path.name for path in inbox.iterdir()] == [".half-written"]
    assert len(list(outbox.iterdir())) == len(lines) + 1


def test_a_device_that_is_not_there_ends_it_with_a_line(names_bundle: Path, tmp_path: Path) -> None:
    done = watch(names_bundle, tmp_path, tmp_path / "out", "--provider", "engine", "--once")
    if done.returncode == 0:
        pytest.skip("there is an engine for this machine's GPU")
    assert done.returncode == 2
    assert done.stderr.startswith("watch: ")


@pytest.mark.parametrize("name", ["jetson/rar.service", "server/rar.service"])
def test_units_start_the_service_with_a_provider_that_there_is(name: str) -> None:
    lines = (DEPLOY / name).read_text().splitlines()
    (start,) = [line for line in lines if line.startswith("ExecStart=")]
    match = re.fullmatch(r"ExecStart=\S+ \S+/watch\.py \S+ \S+ \S+ --provider (\S+)", start)
    assert match is not None
    assert match[1] in ORDER


@pytest.mark.parametrize("name", ["jetson/Containerfile", "server/Containerfile"])
def test_images_start_the_service_with_a_provider_that_there_is(name: str) -> None:
    lines = (DEPLOY / name).read_text().splitlines()
    (start,) = [json.loads(line.removeprefix("ENTRYPOINT ")) for line in lines if line.startswith("ENTRYPOINT ")]
    assert start[1:-1] == ["/watch.py", "/bundle", "/in", "/out", "--provider"]
    assert start[-1] in ORDER
