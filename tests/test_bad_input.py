"""Every command ends on what it cannot use with one line and exit code 2, never with a traceback."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rar.export import cli as export
from rar.runtime.cli import recognize

# What is typed after each command. Every word in capitals is replaced: one by what cannot be used, the others by what
# can.
COMMANDS = [
    "rar-export starter OUT",
    "rar-export clip OUT --hf DIR",
    "rar-export clip OUT --onnx DIR",
    "rar-export clip OUT --model ViT-B-32 --pretrained FILE",
    "rar-export mllm OUT --model DIR",
    "rar-export memory BUNDLE --images SRC",
    "rar-export memory BUNDLE --classes FILE",
    "rar-export memory BUNDLE --descriptions FILE",
    "rar-export memory BUNDLE --embeddings NPY --labels FILE",
    "rar-export memory BUNDLE --classes CLASSES --tags FILE",
    "rar-export memory BUNDLE --classes CLASSES --out OUT",
    "rar-export add BUNDLE --images SRC",
    "rar-export add BUNDLE --embeddings NPY --labels FILE",
    "rar-export remove BUNDLE LABEL",
    "rar-export compact BUNDLE",
    "rar-export vectors BUNDLE OUT",
    "rar-export tune BUNDLE --val SRC",
    "rar-export exemplars BUNDLE --images SRC",
    "rar-export finetune OUT --bundle BUNDLE --images SRC",
    "rar-export engine BUNDLE",
    "rar-export grain train OUT --annotations FILE",
    "rar-export grain annotate OUT --images SRC --mllm DIR",
    "rar-export grain export FILE OUT",
    "rar-export inspect BUNDLE",
    "rar-export inspect BUNDLE --html page.html --pictures SHOWN",
    "rar-export triton BUNDLE OUT",
    "rar-export push BUNDLE user/name",
    "rar-export push bundle REPO",
    "rar-export pull user/name OUT",
    "rar-export pull REPO out",
    "rar-export verify BUNDLE",
    "rar-recognize BUNDLE PICTURE",
    "rar-recognize BUNDLE --boxes FILE --images DIR",
]
LONG = "x" * 300
NOT_UTF8 = os.fsdecode(b"caf\xe9")
# What lies in the place of each word, by name; none of them is there but `folder`, `file` and `binary`.
BAD = {
    "missing": "nowhere",
    "long": LONG,
    "not UTF-8": NOT_UTF8,
    "control characters": "a\nb\x1b[2J",
    "under a file": "file/under",
    "folder": "folder",
    "binary": "binary",
    "address": "http://[bad/",
}
# What a word can be of the above.
FINE = {
    "OUT": {"missing", "not UTF-8", "control characters", "folder", "address"},
    "DIR": set[str](),
    "SHOWN": {"folder"},  # pictures that are not there are not shown
    "PICTURE": {"binary"},  # it fails alone, and its row says so
    "LABEL": set[str](),
    "REPO": {"under a file"},  # a user's repository
}


# All commands open a bundle in one way: these are tried with one of them.
ONCE = {"long", "control characters", "under a file", "folder", "address"}


def cases() -> Iterator[tuple[str, str, str]]:
    for line in COMMANDS:
        for word in {word for word in line.split() if word.isupper()} - {"CLASSES"}:
            once = ONCE if word == "BUNDLE" and line != "rar-export verify BUNDLE" else set()
            for kind in BAD.keys() - FINE.get(word, set()) - once:
                yield line, word, kind


@pytest.fixture
def place(tmp_path: Path, names_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a command."""
    shutil.copytree(names_bundle, tmp_path / "bundle", copy_function=os.link)  # nothing is written in place
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("a file")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0\xd8\1\0" * 9)  # no text in UTF-16 either
    (tmp_path / "classes").write_text("cat\n")
    np.save(tmp_path / "vectors.npy", np.ones((1, 32), np.float32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words: list[str]) -> int:
    program, *rest = words
    main = {"rar-export": export.main, "rar-recognize": recognize.main}[program]
    try:
        return main(rest)
    except SystemExit as end:
        return int(end.code or 0)


def refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """Runs a command that must end with exit code 2, one line on stderr and nothing on stdout."""
    capsys.readouterr()
    assert run(words) == 2
    out, err = capsys.readouterr()
    # tqdm's bars may stand before it on the line, and libraries may warn.
    lines = [line for line in err.splitlines() if line.startswith(words[0])]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert out == ""
    return lines[0]


@pytest.mark.parametrize(("line", "word", "kind"), sorted(cases()))
def test_what_cannot_be_used_is_one_line_and_exit_code_2(
    place: Path, capsys: pytest.CaptureFixture[str], line: str, word: str, kind: str
) -> None:
    good = {
        "BUNDLE": "bundle", "OUT": "out", "FILE": "classes", "NPY": "vectors.npy", "SRC": "folder", "DIR": "folder",
        "SHOWN": "folder",         "CLASSES": "classes", "LABEL": "cat", "PICTURE": "file",
    }  # fmt: skip
    before = sorted(path.name for path in place.iterdir())
    words = [BAD[kind] if part == word else good.get(part, part) for part in line.split()]
    message = refused(capsys, words)
    assert message.isprintable()
    assert sorted(path.name for path in place.iterdir()) == before


def test_every_command_is_tried() -> None:
    def leaves(parser: argparse.ArgumentParser, name: str) -> Iterator[str]:
        commands = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        for action in commands:
            for command, inner in action.choices.items():
                yield from leaves(inner, f"{name} {command}")
        if not commands:
            yield name

    every = {*leaves(export.parser(), "rar-export"), *leaves(recognize.parser(), "rar-recognize")}
    every -= {"rar-export completion"}  # it reads nothing
    assert every == {name for name in every if any(f"{line} ".startswith(f"{name} ") for line in COMMANDS)}


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [
        ("rar-recognize bundle file", "onnxruntime", "cpu"),
        ("rar-export tune bundle --val pictures", "onnxruntime", "cpu"),
        ("rar-export memory bundle --classes classes", "onnxruntime", "cpu"),
        ("rar-export engine bundle --target sm86", "onnx", "tensorrt"),
        ("rar-export clip out --hf folder", "transformers", "export"),
        ("rar-export vectors bundle v.parquet", "pyarrow", "interchange"),
        ("rar-export completion bash", "shtab", "completion"),
    ],
)
def test_the_missing_extra_is_named(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    module: str,
    extra: str,
) -> None:
    (place / "pictures" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(place / "pictures" / "cat" / "1.png")
    for name in list(sys.modules):
        if name.partition(".")[0] == module or name.startswith("rar.export.engine.") or "faiss" in name:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    message = refused(capsys, command.split())
    extras = message.partition("rar-runtime[")[2].partition("]")[0].split(",")
    assert extra in extras, message


def test_a_command_without_pytorch_does_not_ask_for_it(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == "onnx" or name.startswith(("rar.export.graphs", "rar.export.encoder.ready")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "pip install 'rar-runtime[cpu,starter]'" in refused(
        capsys, ["rar-export", "clip", "out", "--onnx", "folder"]
    )


class TestNamesThatAreNotUtf8:
    def test_folders_and_pictures(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        bundle = place / NOT_UTF8
        (place / "bundle").rename(bundle)
        folder = place / f"{NOT_UTF8}-pictures" / "cat"
        folder.mkdir(parents=True)
        Image.new("RGB", (40, 40), "red").save(picture := folder / f"{NOT_UTF8}.png")
        assert run(["rar-export", "memory", str(bundle), "--images", str(folder.parent), "--dim", "none"]) == 0
        assert run(["rar-export", "add", str(bundle), "--images", str(folder.parent)]) == 0
        assert run(["rar-export", "inspect", str(bundle)]) == 0
        assert run(["rar-export", "verify", str(bundle)]) == 0
        assert run(["rar-recognize", str(bundle), str(picture), "--rank", "none", "--json"]) == 0
        assert "cat" in capsys.readouterr().out

    def test_a_class_is_refused(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = place / "pictures" / NOT_UTF8
        folder.mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(folder / "1.png")
        for command in ("memory bundle --images", "add bundle --images"):
            assert "rename it" in refused(capsys, ["rar-export", *command.split(), "pictures"])


class TestAnnotations:
    @pytest.mark.parametrize("address", ["http://[bad/", "http://[bad/a/b.jpg", "//[x"])
    def test_an_address_that_is_none(self, place: Path, capsys: pytest.CaptureFixture[str], address: str) -> None:
        content = {
            "images": [{"id": 1, "coco_url": address}],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [],
        }
        (place / "boxes.json").write_text(json.dumps(content))
        message = refused(
            capsys, ["rar-recognize", "bundle", "--boxes", "boxes.json", "--images", "folder", "--out", "out.json"]
        )
        assert "is no address" in message

    @pytest.mark.parametrize("name", [LONG + ".jpg", f"folder/{LONG}.jpg", f"{LONG}/a.jpg"])
    def test_a_name_that_is_too_long_costs_that_picture_alone(
        self, place: Path, capsys: pytest.CaptureFixture[str], name: str
    ) -> None:
        Image.new("RGB", (40, 40), "red").save(place / "folder" / "fine.png")
        content = {
            "images": [{"id": 1, "file_name": name}, {"id": 2, "file_name": "fine.png"}],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 20, 20]} for i in (1, 2)],
        }
        (place / "boxes.json").write_text(json.dumps(content))
        words = [
            "rar-recognize",
            "bundle",
            "--boxes",
            "boxes.json",
            "--images",
            "folder",
            "--rank",
            "none",
            "--out",
            "out.json",
        ]
        capsys.readouterr()
        assert run(words) == 2
        assert "Traceback" not in capsys.readouterr().err
        assert [row["image_id"] for row in json.loads((place / "out.json").read_text())] == [2]
