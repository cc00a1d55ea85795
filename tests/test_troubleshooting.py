"""`docs/troubleshooting.md` quotes messages that the code says."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from documents import ROOT

PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^\| `(.+?)` \|", PAGE, re.M)


@cache
def said() -> str:
    """Each text of the sources in a line, `…` for what is filled in."""
    texts = []
    for top in ("runtime", "export"):
        for path in sorted((ROOT / top).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {  # constants of the module, such as the manifest's name
                node.targets[0].id: node.value.value
                for node in tree.body
                if isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)
                and isinstance(node.value, ast.Constant)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
                elif isinstance(node, ast.JoinedStr):
                    texts.append("".join(_part(part, names) for part in node.values))
    return "\n".join(text.replace("\n", " ") for text in texts)


def _part(part: ast.expr, names: dict[str, object]) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    filled = part.value if isinstance(part, ast.FormattedValue) else part
    known = {"MANIFEST": "bundle.json", **names}
    return str(known[filled.id]) if isinstance(filled, ast.Name) and filled.id in known else "…"


def test_messages_are_quoted() -> None:
    assert len(QUOTED) >= 20
    assert PAGE.count("\n| `") == len(QUOTED)


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_said(message: str) -> None:
    fixed = [re.escape(part) for part in re.split("…", message) if part]
    assert any(len(part) > 8 for part in fixed)
    assert re.search(".*".join(fixed), said()), message
