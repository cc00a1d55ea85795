"""`rar-export completion`: what a shell completes by it."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from rar.export.cli import main

pytest.importorskip("shtab")


def completed(script: str, *words: str) -> list[str]:
    """What bash offers for the last of the words."""
    program = words[0].replace("-", "_")
    code = f"""{script}
COMP_WORDS=({" ".join(f"'{word}'" for word in words)}); COMP_CWORD={len(words) - 1}
_shtab_{program} {words[0]} '{words[-1]}' '{words[-2]}'; printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    return sorted(set(done.stdout.split()))


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_options_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert completed(script, "rar-export", "in") == ["inspect"]
    assert completed(script, "rar-export", "inspect", "--ht") == ["--html"]
    assert completed(script, "rar-export", "memory", "--reducer", "p") == ["pca"]
    assert main(["completion", "bash", "rar-recognize"]) == 0
    assert completed(capsys.readouterr().out, "rar-recognize", "--sh") == ["--show"]


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_have_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "inspect" in capsys.readouterr().out
