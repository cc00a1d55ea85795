"""A forked child hangs nowhere: what cannot work there says so, and all else works."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# The child does what stands in place of DO, and ends as a process of `multiprocessing` or as a plain fork does.
_FORKED = """
import gc, os, sys, threading
import numpy as np
from rar.runtime import Frame, InputError, Memory, Preprocess, Recognizer
pictures = [np.full((90, 120, 3), 60 * i, np.uint8) for i in range(4)]
pre = Preprocess(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), threads=4)
expected = pre(pictures)
rec = Recognizer.open(sys.argv[1], "cpu", threads=3)
rec.recognize(pictures, k=2, rank="wca")
stream = rec.stream(iter(pictures * 9), k=1, rank="none", batch_size=1)
next(stream)
memory = Memory.open(sys.argv[1], threads=4)
vectors = np.eye(memory.dim, dtype=np.float32)
found = [one[0].label for one in memory.search(vectors, k=1)]
def refused(call):
    try:
        call()
    except InputError as error:
        assert "does not work in a fork" in str(error), error
    else:
        raise SystemExit("it was not refused")
child = os.fork()
if not child:
    DO
    gc.collect()
    os._exit(0) if sys.argv[2] == "hard" else sys.exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert rec.recognize(pictures, k=1, rank="none")[0].error is None
assert [one[0].label for one in memory.search(vectors, k=1)] == found
rec.close()
sys.exit(code)
"""


@pytest.mark.parametrize("end", ["hard", "soft"])
@pytest.mark.parametrize(
    "do",
    [
        "pass",
        "del pre, rec, memory, stream",
        "rec.close(); rec.close()",
        "np.testing.assert_array_equal(pre(pictures), expected)",
        "assert [one[0].label for one in memory.search(vectors, k=1)] == found",
        "assert [one[0].label for one in rec.memory.search(vectors, k=1)]",
        "refused(lambda: rec.recognize(pictures, k=1, rank='none'))",
        "refused(lambda: rec.recognize(pictures, k=1, rank='wca'))",
        "refused(lambda: rec.stream(pictures))",
        "refused(lambda: rec.stream_regions([Frame(pictures[0], [[0, 0, 9, 9]])]))",
        "refused(lambda: next(rec.queries(pictures)))",
        "refused(lambda: next(stream))",
        "refused(lambda: rec.clip.embed_pixels(np.zeros((1, 3, 32, 32), np.float32)))",
        "assert rec.clip.embed_names(['cat']).shape == (1, 32)",  # a graph that was not opened before the fork
        "own = Recognizer.open(sys.argv[1], 'cpu', threads=3); assert own.recognize(pictures, k=1)[0].error is None",
        "[thread.start() or thread.join() for thread in [threading.Thread(target=pre, args=(pictures,))] * 1]",
    ],
)
def test_in_a_forked_child(pictures_bundle: Path, do: str, end: str) -> None:
    command = [sys.executable, "-c", _FORKED.replace("DO", do), str(pictures_bundle), end]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_child_of_a_process_whose_other_thread_changes_the_memory(pictures_bundle: Path, tmp_path: Path) -> None:
    own = shutil.copytree(pictures_bundle, tmp_path / "own")
    code = """
import os, sys, threading
from rar.runtime import BundleError, Memory
memory = Memory.open(sys.argv[1])
held, done = threading.Event(), threading.Event()
def change():
    with memory._changing():  # as `add` does while pictures are embedded or written
        held.set()
        done.wait()
thread = threading.Thread(target=change)
thread.start()
held.wait()
child = os.fork()
if not child:
    assert memory.labels
    try:
        memory.remove("cat")
    except BundleError as error:
        assert f"process {os.getppid()}" in str(error), error
    else:
        raise SystemExit("two processes change one memory")
    os._exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
done.set()
thread.join()
memory.remove("cat")
assert "cat" not in Memory.open(sys.argv[1]).labels
sys.exit(code)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(own)], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("status", [0, 7])
def test_a_child_s_output_and_status_are_its_own(pictures_bundle: Path, status: int) -> None:
    code = """
import os, sys
from rar.runtime import Recognizer
rec = Recognizer.open(sys.argv[1], "cpu", threads=3)
child = os.fork()
if not child:
    print("from the child")
    sys.exit(int(sys.argv[2]))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    command = [sys.executable, "-c", code, str(pictures_bundle), str(status)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.stdout, done.stderr) == (f"from the child\n{status}\n", "")
