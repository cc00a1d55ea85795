"""The code blocks of the README and of docs, as the tests read them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# docs/report.md is what `rar-bench report` wrote.
DOCUMENTS = (ROOT / "README.md", *(path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "report.md"))
LANGUAGES = ("python", "sh", "text")
_BLOCK = re.compile(r"^(?:<!-- needs: (?P<needs>.+?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """One code block.

    Attributes:
        language: One of `LANGUAGES`; `text` is output or a drawing.
        text: The lines between the fences.
        needs: What it needs that a test does not have, from a comment before it (`<!-- needs: a GPU -->`); or "".
        place: Document and line, for messages.
    """

    language: str
    text: str
    needs: str
    place: str


def blocks(path: Path) -> list[Block]:
    """The blocks of a document in its order."""
    content = path.read_text(encoding="utf-8")
    return [
        Block(
            match["language"],
            match["text"],
            match["needs"] or "",
            f"{path.name}:{content.count(chr(10), 0, match.start('text'))}",
        )
        for match in _BLOCK.finditer(content)
    ]


def prose(path: Path) -> str:
    """A document without its blocks."""
    return _BLOCK.sub("", path.read_text(encoding="utf-8"))


def needing(needs: str, document: str) -> list[Block]:
    """The blocks of a document in docs/ that need the same."""
    return [block for block in blocks(ROOT / "docs" / document) if block.needs == needs]


def with_own(text: str, own: Mapping[str, object]) -> str:
    """A block with a test's own names for what only the document has; each must be there."""
    for name, value in own.items():
        assert name in text, f"{name} is not in {text}"
        text = text.replace(name, str(value))
    return text


def typed(language: str, text: str, folder: Path, **variables: str) -> str:
    """What a block prints that is run in a folder by a process of its own."""
    process = started(text, folder, language, **variables)
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, f"{text}\n{out[-2000:]}\n{err[-4000:]}"
    return out


def started(text: str, folder: Path, language: str = "sh", **variables: str) -> subprocess.Popen[str]:
    """A process that runs a block in a folder; our commands and those of the packages here are on its path."""
    command = ["bash", "-euo", "pipefail", "-c", f"exec {text}"] if language == "sh" else [sys.executable, "-c", text]
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PATH": path, **variables}
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
