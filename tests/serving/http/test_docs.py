"""What docs/http.md shows is what happens: its commands and its client run."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

TEXT = (Path(__file__).parents[3] / "docs/http.md").read_text(encoding="utf-8")
COMMANDS = [line for line in TEXT.splitlines() if re.match(r"(echo .* \| )?curl ", line)]


@pytest.fixture
def folder(labelled_folder: Path, tmp_path: Path) -> Path:
    """Where the pictures lie that the document names."""
    shutil.copy(labelled_folder / "cat/0.jpg", tmp_path / "cat.jpg")
    shutil.copy(labelled_folder / "coffee/0.jpg", tmp_path / "cup.jpg")
    return tmp_path


def test_its_commands_run_in_order(server: Any, folder: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    assert len(COMMANDS) > 10
    for line in COMMANDS:
        typed = line.replace("http://127.0.0.1:8000", server.url).replace("curl ", "curl -sS --fail-with-body ", 1)
        if "--json" in typed and "--json" not in subprocess.run(
            ["curl", "--help", "all"], capture_output=True, text=True, check=False
        ).stdout:  # fmt: skip
            typed = re.sub(r"--json (\S+|'[^']*')", r"-H 'Content-Type: application/json' --data \1", typed)
        done = subprocess.run(["bash", "-c", typed], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        assert done.stdout.startswith(("{", "#")), line


def test_its_client_is_answered(
    server: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tritonclient.http", reason="Triton's client is not installed")
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    monkeypatch.chdir(folder)
    exec(code.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}"), {})  # noqa: S102  # our own document
    assert "cat" in capsys.readouterr().out


def test_its_limits_are_the_limits() -> None:
    from rar.serving.http.command import _LIMITS, _parser

    told = set(re.findall(r"\| `(--[\w-]+)`", TEXT))
    assert {flag for flag, _ in _LIMITS.values()} - {"--drain"} == told - {"--max-pixels"}
    options = {option: action for action in _parser()._actions for option in action.option_strings}
    defaults = {
        "--max-body": 32 << 20, "--max-pictures": 32, "--max-pixels": 50_000_000, "--max-held": 256 << 20,
        "--queue": 256, "--timeout": 30, "--slow": 10, "--connections": 512, "--rate": None,
    }  # fmt: skip
    assert {flag: options[flag].default for flag in defaults} == defaults
