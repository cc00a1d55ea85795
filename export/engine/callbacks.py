"""What TensorRT calls while it builds: a logger, and a monitor that shows the phases as bars and lets Ctrl-C in.

Their bases belong to whichever library was loaded, so the classes are made where that is known.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

from tqdm import tqdm

from rar.runtime.session.tensorrt.library import Library

_log = logging.getLogger(__name__)


class Logger(Protocol):
    """An `ILogger`: errors are kept for the exception, the rest goes to `logging`."""

    errors: list[str]


class Monitor(Protocol):
    """An `IProgressMonitor`; `stopped` says whether Ctrl-C ended the build."""

    stopped: bool


def make_logger(library: Library) -> Logger:
    """A logger for one build."""
    api = library.module

    class Messages(api.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (api.ILogger.INTERNAL_ERROR, api.ILogger.ERROR):
                self.errors.append(" ".join(message.split()))
            else:
                _log.debug("%s", message)

    return cast(Logger, Messages())


@contextmanager
def make_monitor(library: Library, name: str) -> Iterator[Monitor]:
    """A monitor for one build, whose bars are gone afterwards."""

    class Bars(library.module.IProgressMonitor):  # type: ignore[misc, name-defined]
        # An exception must not pass through the library.
        def __init__(self) -> None:
            super().__init__()
            self.bars: dict[str, tqdm[Any]] = {}
            self.stopped = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            try:
                place, description = 1 + len(self.bars), f"{name}: {phase_name}"
                bar: tqdm[Any] = tqdm(total=num_steps, desc=description, position=place, leave=False, disable=None)
                self.bars[phase_name] = bar
            except KeyboardInterrupt:
                self.stopped = True

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                if bar := self.bars.get(phase_name):
                    bar.update(step - bar.n)
            except KeyboardInterrupt:
                self.stopped = True
            return not self.stopped

        def phase_finish(self, phase_name: str) -> None:
            try:
                if bar := self.bars.pop(phase_name, None):
                    bar.close()
            except KeyboardInterrupt:
                self.stopped = True

    monitor = Bars()
    try:
        yield monitor
    finally:
        for bar in monitor.bars.values():
            bar.close()
