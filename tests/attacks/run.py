"""Uses bundles as a user would who does not know that they are hostile, and prints how each was refused.

    python tests/attacks/run.py BUNDLE...

A process of its own, from which a child is forked for each bundle: it may hang, or take memory, and is stopped then.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rar.export.inspect.bundle import describe, verify
from rar.runtime import Bundle, Memory, Recognizer
from rar.runtime.errors import RarError

# A child's memory above what it has when it is forked, in bytes, and its seconds.
_MEMORY = 3 << 30
_SECONDS = 60


def _search(root: Path) -> None:
    memory = Memory.open(root)
    memory.search(np.eye(memory.dim, dtype=np.float32), k=1)
    memory.search(np.eye(memory.dim, dtype=np.float32), k=1, exact=True)


def _recognise(root: Path) -> None:
    with Recognizer.open(root, "cpu", threads=1) as recognizer:
        for result in recognizer.recognize([np.zeros((20, 20, 3), np.uint8)], k=1):
            if result.error is not None:
                raise result.error


def _add(root: Path) -> None:
    memory = Memory.open(root)
    memory.add(np.eye(memory.dim, dtype=np.float32)[:1], ["new"])
    memory.compact()
    memory.close()


STEPS: dict[str, Callable[[Path], object]] = {
    "describe": lambda root: describe(Bundle.open(root)),
    "search": _search,
    "recognise": _recognise,
    "verify": lambda root: list(verify(root)),
    "add": _add,
}


def use(root: Path) -> tuple[int, str]:
    """0 and the first refusal if there was one, else 1 and what went wrong."""
    refusals = []
    for name, step in STEPS.items():
        try:
            step(root)
        except RarError as error:
            refusals.append(f"{name}: {' '.join(str(error).split())[:200]}")
        except BaseException as error:
            return 1, f"{name} raised {error!r}"[:300]
    return (0, refusals[0]) if refusals else (1, "was accepted")


def main(bundles: list[str]) -> None:
    for bundle in bundles:
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            os.close(reading)
            signal.alarm(_SECONDS)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
            code, text = use(Path(bundle))
            os.write(writing, text.encode(errors="backslashreplace"))
            os._exit(code)
        os.close(writing)
        with os.fdopen(reading, "rb") as told:
            text = told.read().decode()
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        print("refused" if code == 0 else f"FAILED ({code})", f"{peak // 1024} MB", bundle, text, sep="\t", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
