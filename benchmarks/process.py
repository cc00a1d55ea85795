"""Runs what is measured in a process of its own, where nothing that another one loaded slows it."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from rar.runtime.errors import RarError

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


@contextmanager
def in_a_process(opener: Callable[[], Callable[[Asked], Answer]]) -> Iterator[Callable[[Asked], Answer]]:
    """What an opener opens, in a fresh process for as long as the context lasts.

    Args:
        opener: Runs there; it, what it is asked and what it answers are pickled.

    Raises:
        RarError: The process answered with it, or ended.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, opener), daemon=True)
    process.start()
    theirs.close()

    def ask(asked: Asked) -> Answer:
        try:
            ours.send(asked)
            answer: Answer | RarError = ours.recv()
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
