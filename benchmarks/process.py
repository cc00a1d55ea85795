"""Runs measurements in a separate process, so that modules loaded by others do not slow them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from rar.runtime.errors import RarError

Asked = TypeVar("Asked")
Reply = TypeVar("Reply")


@contextmanager
def variables(**values: str) -> Iterator[None]:
    """Sets variables of the environment, of processes that are started meanwhile too."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def in_a_process(opener: Callable[[], Callable[[Asked], Reply]]) -> Iterator[Callable[[Asked], Reply]]:
    """Opens something in a fresh process that lives as long as the context.

    Args:
        opener: Runs there; it, the requests and the replies are pickled.

    Raises:
        RarError: The process raised it, or ended.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, opener), daemon=True)
    process.start()
    theirs.close()

    def ask(asked: Asked) -> Reply:
        try:
            ours.send(asked)
            answer: Reply | RarError = ours.recv()
        except (EOFError, ConnectionError) as error:
            process.join()
            raise RarError(f"the measured process ended with exit code {process.exitcode}") from error
        if isinstance(answer, RarError):
            raise answer
        return answer

    try:
        yield ask
    except BaseException:
        process.terminate()  # nobody waits for what it is doing now
        raise
    finally:
        ours.close()
        process.join()


def _serve(connection: Connection, opener: Callable[[], Callable[[Any], Any]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks is interrupted too, and ends this one
    # EOFError: the other end was closed.
    with suppress(EOFError, BrokenPipeError):
        try:
            opened = opener()
            while True:
                connection.send(opened(connection.recv()))
        except RarError as error:
            connection.send(error)
