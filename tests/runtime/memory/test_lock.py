"""One writer at a time, and the second is told who the first is."""

import json
import os
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest

from rar.runtime import BundleError
from rar.runtime.memory.lock import NAME, WriterLock

HOLD = """
import sys
from pathlib import Path
from rar.runtime.memory.lock import WriterLock
lock = WriterLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_the_second_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    told = json.loads((tmp_path / NAME).read_text())
    assert (told["pid"], told["host"]) == (os.getpid(), os.uname().nodename)
    with pytest.raises(BundleError, match=rf"being changed by process {os.getpid()} on {told['host']}, since 2"):
        WriterLock(tmp_path)
    assert lock.held
    lock.release()
    assert not lock.held
    assert list(tmp_path.iterdir()) == []
    WriterLock(tmp_path).release()


def test_it_is_let_go_of_with_its_owner(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    del lock
    WriterLock(tmp_path)


def test_another_process_holds_it_until_it_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BundleError, match=f"process {holder.pid} on"):
            WriterLock(tmp_path)
        holder.kill()
    WriterLock(tmp_path).release()


@pytest.mark.parametrize("content", [b"", b"{", b"null", b'{"pid": 3}', b"\xff\xff"])
def test_what_a_killed_holder_left_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    lock = WriterLock(tmp_path)
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(BundleError, match="being changed by another process"):
        WriterLock(tmp_path)
    lock.release()


def test_many_at_a_time_hold_it_one_by_one(tmp_path: Path) -> None:
    with get_context("fork").Pool(4) as pool:
        counts = pool.map(_count_up, [tmp_path] * 4)
    assert int((tmp_path / "count").read_text()) == sum(counts) == 200


def _count_up(folder: Path) -> int:
    done = 0
    while done < 50:
        try:
            lock = WriterLock(folder)
        except BundleError:
            continue
        file = folder / "count"
        file.write_text(str(int(file.read_text() if file.exists() else 0) + 1))
        lock.release()
        done += 1
    return done


def test_a_forked_child_does_not_hold_it(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    child = os.fork()
    if child == 0:
        held = lock.held
        lock.release()
        os._exit(int(held))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (tmp_path / NAME).exists()
    with pytest.raises(BundleError, match="being changed"):
        WriterLock(tmp_path)


@pytest.mark.parametrize("place", ["nowhere", "file"])
def test_a_folder_that_cannot_be_written_to(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="cannot be changed"):
        WriterLock(tmp_path / place)
