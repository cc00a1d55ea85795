"""The table at the end of `rar-export memory`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rar.export.cli import main
from rar.export.memory.build import MemorySource, build_memory
from rar.export.memory.table import table
from rar.runtime import Bundle, Memory

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def own(names_bundle: Path, writable: Callable[[Path], Path]) -> Path:
    return writable(names_bundle)


def test_classes_with_something_to_mend_come_first(own: Path, tmp_path: Path, capsys: Capture) -> None:
    for name, count in (("apple", 2), ("cherry", 1)):
        (tmp_path / f"photos/{name}").mkdir(parents=True)
        for number in range(count):
            Image.effect_noise((32, 32), 90).save(tmp_path / f"photos/{name}/{number}.png")
    (tmp_path / "names.txt").write_text("banana\n")
    (tmp_path / "texts.json").write_text('{"apple": ["red and round"], "banana": ["long and yellow"]}')
    argv = ["memory", str(own), "--images", str(tmp_path / "photos"), "--classes", str(tmp_path / "names.txt")]
    assert main([*argv, "--descriptions", str(tmp_path / "texts.json"), "--dim", "none"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=3) for line in lines[:4]] == [
        ["class", "pictures", "texts", "warnings"],
        ["banana", "0", "2", "no picture: found by its name alone"],
        ["cherry", "1", "1", "one picture: add more, no description"],
        ["apple", "2", "2"],
    ]
    assert lines[-1] == f"next: `rar-recognize {own} PICTURE`, or `rar-export inspect {own} --html OUT.html` to look"


def test_a_large_memory_is_shortened_and_names_cannot_steer_the_terminal(own: Path) -> None:
    names = ["a\u202eb", "long" * 30, *(f"class {number}" for number in range(98))]
    build_memory(Bundle.open(own), MemorySource(classes=names), dim="none", provider="cpu")
    lines = table(Memory.open(own), None).splitlines()
    assert lines[1].split() == ["a\\u202eb", "1"]
    assert lines[2].split() == [f"{('long' * 30)[:37]}...", "1"]
    assert len(lines) == 22
    assert lines[-1] == "  ... and 80 more classes, none of them with a warning"
    warned = table(Memory.open(own), ["class 97"]).splitlines()
    assert warned[-1] == "  ... and 80 more classes, 79 of them with a warning"
