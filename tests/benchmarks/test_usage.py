"""The memory of a process is what it holds, from inside and from outside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rar.benchmarks.usage import memory
from rar.runtime.errors import RarError

MIB = 2**20


def test_what_is_held_counts_and_what_was_let_go_stays_in_the_peak() -> None:
    before = memory()
    held = bytearray(b"x" * (64 * MIB))
    during = memory()
    assert during.resident - before.resident > 60 * MIB
    assert during.anonymous - before.anonymous > 60 * MIB
    del held
    after = memory()
    assert after.resident < during.resident - 60 * MIB
    assert after.peak >= during.resident


def test_the_peak_is_not_that_of_the_process_that_started_it() -> None:
    held = bytearray(b"x" * (256 * MIB))
    program = "from rar.benchmarks.usage import memory; print(memory().peak)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < len(held)


def test_pages_of_a_file_are_not_anonymous(tmp_path: Path) -> None:
    file = tmp_path / "pages"
    file.write_bytes(b"x" * (64 * MIB))
    program = (
        "import mmap, sys; file = open(sys.argv[1]); pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ); "
        "sum(pages[::4096]); print(); input()"
    )
    command = [sys.executable, "-c", program, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        told = memory(child.pid)
        child.communicate(b"\n")
    assert told.resident > 64 * MIB > told.anonymous > 0
    with pytest.raises(RarError, match="/proc"):
        memory(child.pid)
