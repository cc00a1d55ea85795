"""The code blocks of the README and of docs run; where a block needs what is not here, its names are checked."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boxes
import clips
import pytest
from documents import DOCUMENTS, LANGUAGES, ROOT, Block, blocks, prose
from PIL import Image

from rar.export.cli import main

TEXTS = {"cat": ["an animal with pointed ears"], "coffee": ["a cup of hot brown drink"]}


OURS = {"rar-export", "rar-recognize", "rar-bench", "rar-serve"}
OTHERS = {"curl", "echo", "eval", "pip", "python3", "ray", "rsync", "serve", "sudo", "tritonserver"}


def runs(block: Block) -> bool:
    """Whether a block is run: it needs nothing, or a package (by its name alone) that is installed."""
    return block.language != "text" and (not block.needs or _installed(block.needs))


def _installed(needs: str) -> bool:
    return needs.isidentifier() and importlib.util.find_spec(needs) is not None


RUN = [path for path in DOCUMENTS if any(map(runs, blocks(path)))]
_TABLE = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")[1]
EXTRAS = set(re.findall(r"^(\w+) = \[", _TABLE.split("\n[")[0], re.M))
NEEDING = [block for path in DOCUMENTS for block in blocks(path) if block.needs]


@pytest.fixture
def reader(
    starter: Path, labelled_folder: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Where a reader of the documents is: a bundle and pictures, by the names that are written there."""
    cat, coffee = (labelled_folder / name / "0.jpg" for name in ("cat", "coffee"))
    shutil.copytree(labelled_folder, tmp_path / "photos")
    for name in ("astronaut.png", "hubble_deep_field.jpg"):  # the documents ask for five candidates
        (tmp_path / "photos" / name[:4]).mkdir()
        shutil.copy(next(path for path in photos if path.name == name), tmp_path / "photos" / name[:4])
    assert main(["memory", str(starter), "--images", str(tmp_path / "photos"), "--out", str(tmp_path / "bundle")]) == 0
    (tmp_path / "BUNDLE").symlink_to("bundle")
    shutil.copytree(labelled_folder, tmp_path / "more")
    # One picture a class: a ranker looks at each.
    shutil.copytree(labelled_folder, tmp_path / "held-out", ignore=shutil.ignore_patterns("[12].*"))
    for name in ("a.jpg", "b.jpg", "photo.jpg", "folder/one.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(cat, tmp_path / name)
    for name in ("mug/1.jpg", "mug/2.jpg", "mug/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(coffee, tmp_path / name)
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in TEXTS))
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    Image.fromarray(boxes.mosaic(labelled_folder)).save(tmp_path / "frame.jpg")
    shutil.copy(tmp_path / "frame.jpg", tmp_path / "photos" / "cat")
    boxes.write(tmp_path, boxes.annotations(["cat/frame.jpg"]), "annotations.json")
    boxes.write(tmp_path, [{"image_id": 10, "category_id": 1, "bbox": [80, 0, 80, 80], "score": 0.8}], "detector.json")
    clips.write_clip(tmp_path / "clip.mp4", [cat, coffee])
    for name in ("results", "older"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "benchmarks/results/accuracy-grocery.json", tmp_path / "older" / "accuracy.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_commands(block: Block) -> None:
    paths = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        env={**os.environ, "PATH": paths}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{block.place}: {done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("document", RUN, ids=lambda path: path.name)
def test_what_is_written_runs(document: Path, reader: Path) -> None:
    names: dict[str, Any] = {}
    for block in filter(runs, blocks(document)):
        if block.language == "sh":
            run_commands(block)
        else:
            exec(compile(block.text, block.place, "exec"), names)  # noqa: S102  # what the reader would type


@pytest.mark.parametrize("block", NEEDING, ids=lambda block: block.place)
def test_names_are_right_where_a_block_needs_what_is_not_here(block: Block) -> None:
    if block.language == "python":
        for name, attribute in imported(block.text):
            if name.startswith("rar."):
                module = _module(name)
                assert hasattr(module, attribute), f"{block.place}: {name}.{attribute}"
        return
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for line in block.text.splitlines():
        assert set(extras(line)) <= EXTRAS, line
        for words in commands(line):
            program = words[0].removeprefix("venv/bin/")
            if program == "make":
                assert set(words[1:]) <= set(targets), line
            elif program == "python" and words[1:2] == ["-m"]:
                assert importlib.util.find_spec(words[2]) is not None, line
            else:  # tests/test_commands.py parses ours
                assert program in OURS | OTHERS, line


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("rar"):
            raise
        pytest.skip(f"needs {error.name}")


def imported(text: str) -> Iterator[tuple[str, str]]:
    """The modules that a block imports from, and what."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            assert node.module is not None
            yield from ((node.module, alias.name) for alias in node.names)


def extras(line: str) -> list[str]:
    """The extras in `.[cpu,export]`."""
    return [name for group in re.findall(r"\.\[([\w,]+)\]", line) for name in group.split(",")]


def commands(line: str) -> list[list[str]]:
    """A line's commands, without its comment."""
    words, found = shlex.split(line, comments=True), [[]]
    for word in words:
        if word == "&&":
            found.append([])
        else:
            found[-1].append(word)
    return [command for command in found if command]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_each_block_says_what_it_is(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert {block.language for block in blocks(document)} <= set(LANGUAGES)
    assert text.count("```") == 2 * len(blocks(document))
    assert text.count("<!-- needs:") == sum(bool(block.needs) for block in blocks(document)), "a mark without a block"
    indented = re.findall(r"^\n    .*", prose(document), re.M)
    assert not indented, "a block without a fence is not run"


def test_extras_in_the_text_are_there() -> None:
    for document in DOCUMENTS:
        assert set(extras(document.read_text(encoding="utf-8"))) <= EXTRAS, document.name
