"""Locks end with the process that took them, and with nothing else."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rar.runtime.bundle.lock import Lock, folder_lock, open_folder

# A parent that locks, forks a child that sleeps, and is gone.
ORPHAN = """
import os, sys, time
from pathlib import Path
from rar.runtime.bundle.lock import Lock, folder_lock, open_folder
root = Path(sys.argv[1])
lock = Lock(lambda: open_folder(root))
lock.take(wait=False)
if os.fork() == 0:
    print("child", os.getpid(), lock.file, flush=True)
    sys.stdout.close()
    os.close(1)
    time.sleep(60)
    os._exit(0)
os.wait3(os.WNOHANG)
time.sleep(60)
"""


def test_a_forked_child_does_not_keep_what_its_dead_parent_held(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ORPHAN, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        _, child, file = parent.stdout.readline().split()
        try:
            lock = Lock(lambda: open_folder(tmp_path))
            with pytest.raises(BlockingIOError):
                lock.take(wait=False)
            parent.kill()
            parent.wait()
            lock.take(wait=False)
            assert file == "-1"
        finally:
            os.kill(int(child), 9)


def test_one_at_a_time_in_threads_and_processes(tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            for _ in range(50):
                with folder_lock(tmp_path):
                    seen = int(count.read_text())
                    time.sleep(0.0002)
                    count.write_text(str(seen + 1))
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert count.read_text() == "200"


def test_who_waited_for_a_folder_that_was_moved_has_the_one_at_its_place(tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    root.mkdir()
    holder = Lock(lambda: open_folder(root))
    holder.take(wait=False)
    child = os.fork()
    if child == 0:
        code = 1
        with folder_lock(root):
            code = int(not (root / "new").exists())
        os._exit(code)
    time.sleep(0.2)
    root.rename(tmp_path / "moved")
    root.mkdir()
    (root / "new").touch()
    holder.close()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_it_knows_whether_its_file_still_lies_at_the_path(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    lock = Lock(lambda: os.open(path, os.O_RDWR))
    assert lock.lies_at(path)
    path.rename(tmp_path / "moved")
    assert not lock.lies_at(path)
    path.touch()
    assert not lock.lies_at(path)
    lock.close()
    assert not lock.lies_at(path)


def test_it_ends_with_its_owner(tmp_path: Path) -> None:
    lock = Lock(lambda: open_folder(tmp_path))
    lock.take(wait=False)
    del lock
    file = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(file)
