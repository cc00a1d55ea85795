"""The code blocks of the README and of docs, as the tests read them."""

from __future__ import annotations

import re
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
