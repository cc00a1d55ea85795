"""Every error that a command can end with says what to do, not only what is wrong."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from rar.runtime import errors

ROOT = Path(__file__).parents[1]
OURS = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, errors.RarError)}
# A step after the fault, or a fault that is told as what is wanted.
_SAYS = re.compile(r"; |\b(give|must|needs?|choose|use|copy|takes?|builds|goes)\b", re.IGNORECASE)
FILES = [
    path
    for top in ("export", "runtime/cli", "runtime/bundle", "runtime/memory", "runtime/picture", "runtime/video")
    for path in sorted((ROOT / top).rglob("*.py"))
]


def told(node: ast.expr) -> str | None:
    """The fixed words of a message; None where it has none or ends with another error's, after a colon."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
    words = [text for text in texts if isinstance(text, str)]
    if texts[-1] is None and len(texts) > 1 and str(texts[-2]).endswith(": "):
        return None
    return "".join(words) if any(re.search(r"\w{3}", text) for text in words) else None


def silent(source: str) -> list[str]:
    """The messages in a file that name no step."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    raised = (call for call in calls if isinstance(call.func, ast.Name) and call.func.id in OURS and call.args)
    messages = (told(call.args[0]) for call in raised)
    return [message for message in messages if message is not None and not _SAYS.search(message)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_message_names_a_step(path: Path) -> None:
    assert silent(path.read_text(encoding="utf-8")) == []


def test_a_message_without_a_step_is_found() -> None:
    assert silent("raise InputError(f'{path}: is broken')") == [": is broken"]
    assert silent("raise InputError(f'{path}: is broken; copy it again')") == []
    assert silent("raise ImageError(f'{path}: {error}')") == []
    assert silent("raise ImageError(f'region {place}: {problem}')") == []
    assert silent("raise OSError('is broken')") == []
