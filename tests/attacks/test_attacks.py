"""Every hostile bundle is refused by an error of our own: none is obeyed, waited for, or takes the machine's memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from attacks.make import ATTACKS, PRECIOUS, make_all

RUN = Path(__file__).with_name("run.py")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """The folder of the attacks, and of each what `run.py` printed."""
    folder = tmp_path_factory.mktemp("attacks") / "all"
    bundles = make_all(folder)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(RUN), *map(str, bundles)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    lines = [line.split("\t") for line in run.stdout.splitlines()]
    return folder, {Path(line[2]).parent.name: line for line in lines}


@pytest.mark.parametrize("name", ATTACKS)
def test_it_is_refused(told: tuple[Path, dict[str, list[str]]], name: str) -> None:
    folder, lines = told
    assert lines[name][0] == "refused", lines[name]
    assert (folder / name / "precious").read_text() == PRECIOUS
    assert not (folder / name / "pwned").exists()


def test_the_bundle_that_they_were_made_of_is_accepted(told: tuple[Path, dict[str, list[str]]]) -> None:
    folder, _ = told
    run = subprocess.run([sys.executable, str(RUN), str(folder / "good")], capture_output=True, text=True, check=False)
    assert "was accepted" in run.stdout, run.stdout + run.stderr
