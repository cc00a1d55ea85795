"""Bundles of small made-up files, for the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rar.runtime.bundle.change import stage


def write(root: Path, component: str = "memory", content: bytes = b"first") -> None:
    with stage(root, component) as staging:
        (staging.folder / "inner").mkdir()
        (staging.folder / "inner" / "a.bin").write_bytes(content)
        (staging.folder / "b.json").write_text('{"b": 1}')
        staging.info["made"] = "by hand"


def fail(root: Path, error: type[BaseException]) -> None:
    """Fails between the first file of a component and the last."""
    with stage(root, "memory") as staging:
        (staging.folder / "part").write_bytes(b"x")
        raise error


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def set_path(manifest: Path, path: Any) -> None:
    content = json.loads(manifest.read_text())
    content["components"]["memory"]["files"]["b.json"]["path"] = path
    manifest.write_text(json.dumps(content))
