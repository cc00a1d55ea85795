"""Every pool of threads is as large as the cores that the process may use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_POOLS = """
import json, os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from rar.runtime import Bundle, Preprocess, Recognizer
from rar.runtime.machine.cores import usable_cores
from rar.runtime.session import OnnxSession
threads = lambda: len(os.listdir("/proc/self/task"))
graph = Bundle.open(sys.argv[1]).graph("clip", "visual.onnx")
first = OnnxSession(graph, threads=1)  # the library's own threads are there from now on
before = threads()
session = OnnxSession(graph)
found = {"cores": usable_cores(), "session": 1 + threads() - before}
recognizer = Recognizer.open(sys.argv[1], "cpu")
found["decoding"] = recognizer._feed.decoders._max_workers
found["memory"] = recognizer.memory._threads
found["preprocess"] = Preprocess(8, (0, 0, 0), (1, 1, 1)).threads
before = threads()
asked = OnnxSession(graph, threads=2)
found["asked for two"] = 1 + threads() - before
print(json.dumps(found))
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: nothing to be held to")
def test_every_pool_keeps_to_the_affinity(pictures_bundle: Path) -> None:
    command = [sys.executable, "-c", _POOLS, str(pictures_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    ones = dict.fromkeys(["cores", "session", "decoding", "memory", "preprocess"], 1)
    assert json.loads(done.stdout) == {**ones, "asked for two": 2}
