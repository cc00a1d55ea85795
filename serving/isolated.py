"""A recognizer in a process of its own: a picture that ends it, by a bug of a decoder, costs no answer but its own.

The process is a plain child that speaks over a socket pair; it holds nothing of its parent but the arguments of
`Recognizer.open`. It ends when the parent does.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from rar.runtime.errors import ImageError, RarError
from rar.runtime.loop import Asked
from rar.runtime.picture.given import Given
from rar.runtime.result import Result

from .row import Row, to_row

# What a pipe says whose other end is gone.
_GONE = (EOFError, ConnectionError)


@dataclass(frozen=True)
class Machine:
    """What answers.

    Attributes:
        provider: What runs the encoder.
        instruction_sets: Of its processor, and which of them our own kernels use.
    """

    provider: str
    instruction_sets: str


class Isolated:
    """Opens a bundle in a child process and recognises pictures there; one caller at a time.

    Example:
        >>> isolated = Isolated("bundle", {"provider": "cpu", "threads": 1}, {"k": 5})
        >>> rows = isolated.rows(["cat.jpg", "dog.jpg"])

    Args:
        bundle: The bundle's folder.
        opened: Arguments of `Recognizer.open`.
        asked: Arguments of `Recognizer.recognize`.

    Attributes:
        machine: What answers.
        deaths: How often the child ended on its own.

    Raises:
        RarError: As `Recognizer.open`; or the child ended while it opened the bundle.
    """

    def __init__(self, bundle: str | os.PathLike[str], opened: Mapping[str, Any], asked: Asked) -> None:
        self._recipe = (os.fspath(bundle), dict(opened), asked)
        self.deaths = 0
        self.machine = self._start()

    def rows(self, pictures: Sequence[Given]) -> list[Row]:
        """One row a picture, in order.

        Where the child ends, the rest is given to a new one, picture by picture, until one ends it alone: that one's
        row says so.

        Raises:
            RarError: As `Recognizer.recognize`.
        """
        rows: list[Row] = []
        alone = False
        while len(rows) < len(pictures):
            rest = pictures[len(rows) :]
            came, died = self._ask(rest[:1] if alone else rest)
            rows += came
            if not died:
                continue
            how = self._restart()
            if alone:
                error = ImageError(f"the process that reads it ends ({how}), alone too; leave the picture out")
                rows.append(to_row(Result(error=error), self.machine.provider))
            alone = not alone
        return rows

    def close(self) -> None:
        """Ends the child."""
        self._pipe.close()
        self._child.wait()

    def _ask(self, pictures: Sequence[Given]) -> tuple[list[Row], bool]:
        """The rows that came, and whether the child ended before it had sent all."""
        rows: list[Row] = []
        try:
            self._pipe.send(list(pictures))
            while len(rows) < len(pictures):
                rows.append(self._receive())
        except _GONE:
            return rows, True
        return rows, False

    def _receive(self) -> Any:
        came = self._pipe.recv()
        if isinstance(came, Exception):
            raise came
        return came

    def _restart(self) -> str:
        """Starts a new child; says how the one before ended."""
        self.deaths += 1
        self._pipe.close()
        code = self._child.wait()
        how = signal.Signals(-code).name if code < 0 else f"status {code}"
        self.machine = self._start()
        return how

    def _start(self) -> Machine:
        ours, theirs = socket.socketpair()
        with theirs:
            # What this process found on its path, the child must find too: engines add folders to it.
            path = os.pathsep.join(folder for folder in sys.path if folder)
            self._child = subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import serve; serve({theirs.fileno()})"],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
            )
        self._pipe = Connection(ours.detach())
        try:
            self._pipe.send(self._recipe)
            machine: Machine = self._receive()
        except _GONE as error:
            code = self._child.wait()
            raise RarError(f"{self._recipe[0]}: the process that opens it ends (status {code}); see its log") from error
        return machine


def serve(descriptor: int) -> None:
    """The child: opens the bundle, then answers what is sent, until the other end is closed."""
    from rar.runtime import Recognizer, native_features
    from rar.runtime.machine.cpu import instruction_sets

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to hear; this one then sees the pipe close
    pipe = Connection(descriptor)
    try:
        bundle, opened, asked = pipe.recv()
        with Recognizer.open(bundle, **opened) as recognizer:
            pipe.send(Machine(recognizer.provider, " ".join((*instruction_sets(), f"rar:{native_features()['simd']}"))))
            while True:
                for result in recognizer.stream(pipe.recv(), **asked):
                    pipe.send(to_row(result, recognizer.provider))
    except _GONE:
        return
    except Exception as error:
        pipe.send(error if isinstance(error, RarError) else RarError(f"{type(error).__name__}: {error}"))
