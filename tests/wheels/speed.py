"""`python -m wheels.speed ONE.so OTHER.so`: two builds of the extension, turn by turn, in ratio.

Each build is a process of its own. Processor seconds are compared, so that what else runs on the machine counts little,
and what they compute is compared bit for bit.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

_PICTURES = {"348x348": (348, 348), "512x512": (512, 512), "1080p": (1080, 1920)}
_SIDE = 224
_REGIONS = 8
_ENTRIES, _DIM, _QUERIES = 20_000, 512, 8

Job = Callable[[], Any]


def main() -> int:
    """See the module. Ends with 1 where a bit differs."""
    parser = argparse.ArgumentParser(prog="wheels.speed", description="Compares two builds of the extension.")
    parser.add_argument(
        "builds", nargs="+", metavar="FILE.so", help="two; with one, serves its turns to the first process"
    )
    parser.add_argument("--rounds", type=int, default=7, help="turns each (default: %(default)s)")
    args = parser.parse_args()
    if len(args.builds) == 1:  # as it starts itself
        return _serve(args.builds[0])
    command = [sys.executable, "-m", "wheels.speed"]
    one, other = (
        subprocess.Popen([*command, build], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for build in args.builds[:2]
    )
    names = _ask(one, "names")
    same = True
    for name in names:
        equal = _ask(one, f"bits {name}") == _ask(other, f"bits {name}")
        turns = [(_ask(one, f"time {name}"), _ask(other, f"time {name}")) for _ in range(args.rounds)]
        mine, theirs = (np.array(times) for times in zip(*turns, strict=True))
        bits = "equal" if equal else "DIFFER"
        ratios = f"median {np.median(theirs) / np.median(mine):.2f}, best {theirs.min() / mine.min():.2f}"
        print(
            f"{name:32} {1e3 * mine.min():8.2f} ms, times that: {ratios}; bits {bits}",
            flush=True,
        )
        same &= equal
    for process in (one, other):
        process.communicate()
    return int(not same)


def _ask(process: subprocess.Popen[str], words: str) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    print(words, file=process.stdin, flush=True)
    return json.loads(process.stdout.readline())


def _serve(build: str) -> int:
    """Answers with the jobs' names, a job's bits or its processor seconds, line by line."""
    name = "rar.runtime._native"
    spec = importlib.util.spec_from_file_location(name, build)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # both on one core: the other's neighbour may be busy
    jobs = _jobs(native)
    for line in sys.stdin:
        what, _, job = line.strip().partition(" ")
        answer: Any = list(jobs)
        if what == "bits":
            found = jobs[job]()
            arrays = found if isinstance(found, tuple) else (found,)
            answer = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()
        elif what == "time":
            began = time.thread_time()
            jobs[job]()
            jobs[job]()
            answer = (time.thread_time() - began) / 2
        print(json.dumps(answer), flush=True)
    return 0


def _jobs(native: Any) -> dict[str, Job]:
    """What is timed, at each level of instructions."""
    from rar.benchmarks.preprocess import MEAN, STD, photo
    from rar.runtime.picture.boxes import Blur
    from rar.runtime.picture.preprocess import Preprocess

    chance = np.random.default_rng(0)
    pictures = {name: photo(chance, *shape) for name, shape in _PICTURES.items()}
    frame = pictures["1080p"]
    corners = chance.uniform(0, (1500, 800), (_REGIONS, 2))
    boxes = np.hstack([corners, corners + chance.uniform(50, 250, (_REGIONS, 2))]).astype(np.float32)
    blurs = {
        "no blur": None,
        "box": Blur(0.05),
        "Gaussian": Blur(10.0, "pixels"),
        "Pillow's": Blur(10.0, "pixels", "pillow"),
    }
    vectors = chance.standard_normal((_ENTRIES, _DIM)).astype(np.float16)
    queries = chance.standard_normal((_QUERIES, _DIM)).astype(np.float32)
    labels = np.zeros(_ENTRIES, np.int32)
    jobs: dict[str, Job] = {}
    for level in native.simd_levels():
        os.environ["RAR_SIMD"] = level
        prepare = Preprocess(_SIDE, MEAN.tolist(), STD.tolist(), threads=1)
        for name, pixels in pictures.items():
            jobs[f"{level}, {name}"] = partial(prepare, [pixels])
        for name, blur in blurs.items():
            jobs[f"{level}, {_REGIONS} regions, {name}"] = partial(prepare.regions, frame, boxes, 1.5, blur)

        def nearest(level: str = level) -> Any:
            os.environ["RAR_SIMD"] = level  # read at each search
            return native.nearest(vectors, queries, 10, labels, None, 1, None)

        jobs[f"{level}, {_ENTRIES} vectors"] = nearest
    return jobs


if __name__ == "__main__":
    sys.exit(main())
