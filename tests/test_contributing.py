"""The tree in CONTRIBUTING.md is the tree of folders, and the paths it names are there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TOPS = ("runtime", "export", "serving", "cpp_ext", "benchmarks")
SOURCES = (".py", ".cpp", ".h")
_ROOM = re.compile(r"^    ( *)(\w+)/ +(\S.*)$", re.MULTILINE)


def written() -> list[str]:
    """The folders of the tree, in its order."""
    folders: list[str] = []
    above: list[str] = []
    for indent, name, _ in _ROOM.findall(TEXT):
        above = [*above[: len(indent) // 4], name]
        folders.append("/".join(above))
    return folders


def test_each_folder_of_sources_has_its_line() -> None:
    there = {
        str(path.parent.relative_to(ROOT))
        for top in TOPS
        for path in (ROOT / top).rglob("*")
        if path.suffix in SOURCES and "__pycache__" not in path.parts
    }
    assert sorted(written()) == sorted(there)


def test_paths_that_are_named_are_there() -> None:
    named = re.findall(rf"`((?:{'|'.join((*TOPS, 'tests'))})/[\w/]+(?:\.\w+)?/?)`", TEXT)
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_runtime_has_few_files_at_the_top() -> None:
    # Whoever adds one puts it into a room, or says here why it is part of the loop.
    top = {path.name for path in (ROOT / "runtime").glob("*.py")}
    assert top == {"__init__.py", "batch.py", "errors.py", "loop.py", "recognizer.py", "result.py", "stages.py"}
