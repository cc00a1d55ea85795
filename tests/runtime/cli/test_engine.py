"""`rar-recognize --engine`: which options go together, and what is said where Ray is not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rar.runtime.cli.recognize import main


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["x.jpg", "--resume"], "--resume goes only with --engine"),
        (["x.jpg", "--address", "auto"], "--address goes only with --engine"),
        (["x.jpg", "--id", "number"], "--id goes only with --engine"),
        (["x.jpg", "--out", "o"], "--out goes only with --boxes"),
        (["x.jpg", "--engine", "ray"], "--out with a folder"),
        (["x.jpg", "--engine", "ray", "--out", "o", "--json"], "leave --json out"),
        (["--engine", "ray", "--out", "o"], "give pictures"),
        (["--boxes", "b.json", "--engine", "ray", "--out", "o"], "--engine goes not with --boxes"),
    ],
)
def test_options_that_do_not_go_together(capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert main(["bundle", *options]) == 2
    assert message in capsys.readouterr().err


def test_without_ray_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in [name for name in sys.modules if name.startswith("rar.serving.ray")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["bundle", str(tmp_path), "--engine", "ray", "--out", str(tmp_path / "out")]) == 2
    assert "pip install 'rar-runtime[ray]'" in capsys.readouterr().err
