"""Builds what is measured, each thing in a process of its own, and keeps it: an interrupted run goes on."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from rar.runtime.bundle.files import write_json
from rar.runtime.errors import RarError

from .process import in_a_process
from .usage import available, memory

_MADE = "made.json"
_SAMPLE_SECONDS = 0.02


def made(folder: Path, settings: Mapping[str, Any], make: Callable[[Path], None], spare: int = 0) -> dict[str, Any]:
    """Makes a folder of files, unless it is there and was made with the same settings.

    Args:
        folder: The folder.
        settings: All that the files depend on; JSON.
        make: Writes them into a folder that is there and empty; pickled, and run in a process of its own.
        spare: See `watched`.

    Returns:
        What it cost: `seconds`, `cpu_seconds`, and `peak_bytes`, the most memory that the process had at a time besides
        mapped files.

    Raises:
        RarError: The process raised it, or ended.
    """
    told = _read(folder / _MADE)
    if told is not None and told["settings"] == json.loads(json.dumps(settings)):
        return dict(told["cost"])
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    for old in (folder, unfinished):
        shutil.rmtree(old, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with in_a_process(partial(_open_maker, make, unfinished)) as ask, watched(ask("pid"), spare) as peak:
        cost = ask("make")
    cost["peak_bytes"] = peak[0]
    write_json(unfinished / _MADE, {"settings": settings, "cost": cost})
    os.replace(unfinished, folder)
    return dict(cost)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return told


def _open_maker(make: Callable[[Path], None], folder: Path) -> Callable[[str], Any]:
    def serve(task: str) -> Any:
        if task == "pid":
            return os.getpid()
        began, before = perf_counter(), _cpu_seconds()
        make(folder)
        return {"seconds": perf_counter() - began, "cpu_seconds": _cpu_seconds() - before}

    return serve


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def watched(process: int, spare: int = 0) -> Iterator[list[int]]:
    """Watches a process from outside: what it runs may hold its interpreter's lock for minutes.

    Args:
        process: Its id.
        spare: Bytes of memory that the machine keeps: where fewer are left, the process is killed, lest the system
            choose another one.

    Returns:
        One number: the most memory that it had at a time so far besides mapped files.

    Raises:
        RarError: It was killed.
    """
    peak, killed, over = [0], threading.Event(), threading.Event()

    def watch() -> None:
        while not over.wait(_SAMPLE_SECONDS):
            with suppress(RarError, ProcessLookupError):  # it has ended
                peak[0] = max(peak[0], memory(process).anonymous)
                if spare and available() < spare:
                    os.kill(process, signal.SIGKILL)
                    killed.set()
                    return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    except RarError as error:
        if killed.is_set():
            raise RarError(f"killed at {peak[0] / 1e9:.1f} GB: the machine had no more memory for it") from error
        raise
    finally:
        over.set()
        watcher.join()
