"""Kills a writer at random moments, again and again, and compares what it leaves with what it had completed.

    python tests/kill_writer.py FOLDER KILLS SEED

A process of its own, from which each writer is forked: a fork costs milliseconds, and no thread is running here.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import sys
import time
from copy import deepcopy
from pathlib import Path

from memory_model import Model, build, vectors_of

from rar.runtime import Bundle, Memory
from rar.runtime.memory import compact

# Where the writer stands: calls begun, calls completed.
_PLACE = struct.Struct("qq")
_MOST_CALLS = 12
# Seconds that no writer needs.
_HANGS = 120
# Pictures from which on classes go rather than come.
_MANY = 500
_LEFT = {"bundle.json", "memory", "memory-2", "memory.log", "memory.lock"}


def change(memory: Memory | None, model: Model, seed: int) -> None:
    """One seeded change of the model, and of a memory if one is given."""
    chance = random.Random(seed)
    kind = chance.choice(["add", "add", "add", "remove", "relabel", "compact"])
    if len(model.entries["pictures"]) > _MANY:
        kind = "remove"
    if kind == "add" or len(model.classes) < 3:
        labels = [f"class {chance.randrange(12)}" for _ in range(chance.randint(1, 40))]
        sources = [f"{seed}/{i}" for i in range(len(labels))]
        vectors = vectors_of(len(labels), seed)
        if memory is not None:
            memory.add(vectors, labels, sources=sources)
        model.add(labels, vectors, sources)
    elif kind == "remove":
        label = chance.choice(model.classes)
        if memory is not None:
            memory.remove(label)
        model.remove(label)
    elif kind == "relabel":
        old, new = chance.choice(model.classes), f"class {chance.randrange(12)}"
        if old != new:
            if memory is not None:
                memory.relabel(old, new)
            model.relabel(old, new)
    elif memory is not None:
        memory.compact()


def write(root: Path, model: Model, seed: int, place: mmap.mmap) -> None:
    """Changes until it is killed."""
    memory = Memory.open(root)
    for call in range(_MOST_CALLS):
        place[:] = _PLACE.pack(call + 1, call)
        change(memory, model, seed + call)
        place[:] = _PLACE.pack(call + 1, call + 1)


def kill_one(root: Path, model: Model, seed: int) -> tuple[Model, str]:
    """Starts a writer and kills it; the model of what it left, and how far it had come.

    Raises:
        AssertionError: It left something else than its completed calls, and perhaps the one it was at.
    """
    chance = random.Random(-seed)
    place = mmap.mmap(-1, _PLACE.size)
    place[:] = _PLACE.pack(0, 0)
    child = os.fork()
    if child == 0:
        try:
            write(root, deepcopy(model), seed, place)
        finally:
            os._exit(0)
    until, patience = chance.randint(0, _MOST_CALLS), chance.uniform(0, 0.01)
    deadline = time.monotonic() + _HANGS
    while _PLACE.unpack(place[:])[0] < until and os.waitpid(child, os.WNOHANG) == (0, 0):
        assert time.monotonic() < deadline, f"the writer hangs: {_PLACE.unpack(place[:])}"
    time.sleep(patience)
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        pass  # it was through
    begun, completed = _PLACE.unpack(place[:])
    Bundle.open(root).verify()
    memory = Memory.open(root)
    for call in range(completed):
        change(None, model, seed + call)
    try:
        model.check_memory(memory)
    except AssertionError:
        if begun == completed:
            raise
        # The call it was at had reached the disk and had not returned yet.
        change(None, model, seed + completed)
        model.check_memory(memory)
    return model, f"{completed}/{begun}"


def main(folder: str, kills: int, seed: int) -> None:
    """Kills that many writers of one memory, one after the other."""
    root = Path(folder) / "bundle"
    model = build(root)
    compact._SMALL = 20  # so that parts are extended as well as rewritten
    for kill in range(kills):
        model, places = kill_one(root, model, 1000 * (seed + kill))
        print(f"kill {kill}: {places}, {len(model.classes)} classes, {len(model.entries['pictures'])} pictures")
    memory = Memory.open(root)
    memory.add(vectors_of(1, 0), ["last"])
    left = {path.name for path in root.iterdir()} - _LEFT
    assert not left, left
    folders = [path.name for path in root.iterdir() if path.is_dir()]
    assert len(folders) == 1, folders


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
