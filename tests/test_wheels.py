"""What `make wheels` looks for and refuses; the wheels themselves are built and tested by it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from wheels import build, check
from wheels.__main__ import main


def interpreter(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\nexit 3\n")
    path.chmod(0o755)
    return path


def test_the_newest_python_of_pyenv_is_taken_or_the_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert build.python("3.12") is None
    on_path = interpreter(tmp_path / "bin/python3.12")
    assert build.python("3.12") == str(on_path)
    interpreter(tmp_path / "pyenv/versions/3.12.9/bin/python3")
    newest = interpreter(tmp_path / "pyenv/versions/3.12.10/bin/python3")
    assert build.python("3.12") == str(newest)


def test_where_no_python_is_at_hand_nothing_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("wheels.__main__.DIST", tmp_path / "dist")
    (tmp_path / "dist").mkdir()
    assert main(["3.10", "3.12"]) == 2
    assert (tmp_path / "dist").is_dir()  # an older release stays
    assert "no Python 3.10 here, so no wheel for it; `pyenv install 3.10`" in capsys.readouterr().err


def test_a_command_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(build.WheelError, match=r"(?s)^an environment of .* ended with 3:\n$"):
        check.environment(str(interpreter(tmp_path / "bin/python3")), tmp_path / "venv")


@pytest.mark.parametrize("machine", build.MACHINES)
def test_setuptools_compiles_for_the_other_processor(machine: str, tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    told = build.compiler("3.12", machine)
    code = "import sysconfig; print(sysconfig.get_platform())"
    asked = subprocess.run([sys.executable, "-c", code], env=dict(told), capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == f"linux-{machine}"
    assert told["CXX"].endswith(f"zig c++ -target {machine}-linux-gnu.2.28")
    assert told["SETUPTOOLS_EXT_SUFFIX"] == f".cpython-312-{machine}-linux-gnu.so"


@pytest.mark.skipif(not (build.ROOT / ".git").exists(), reason="not a checkout")
def test_a_wheel_without_a_tracked_file_is_refused(tmp_path: Path) -> None:
    left_out = "export/starter/adapter/adapter_model.safetensors"
    tracked = build.run(["git", "ls-files", "runtime", "export", "benchmarks"], "git").split()
    for names in (set(tracked), set(tracked) - {left_out}):
        with zipfile.ZipFile(tmp_path / f"{len(names)}.whl", "w") as archive:
            for name in names:
                archive.writestr(f"rar/{name}", "")
    check.complete(tmp_path / f"{len(tracked)}.whl")
    with pytest.raises(build.WheelError, match=f"lacks {left_out}; name"):
        check.complete(tmp_path / f"{len(tracked) - 1}.whl")
