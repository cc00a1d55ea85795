"""What belongs to one process: of its threads, a forked child has only the one that forked."""

from __future__ import annotations

import ctypes
import os
from typing import Any
from weakref import WeakSet

from ..errors import InputError

_BOUND: WeakSet[Any] = WeakSet()


def check_process(owner: int, what: str) -> None:
    """Checks that this is the process that opened something.

    Raises:
        InputError: It is a fork of it.
    """
    if os.getpid() != owner:
        raise InputError(
            f"{what} was opened in process {owner} and does not work in a fork of it, which has none of its threads; "
            "open the bundle in each process, after the fork (gunicorn: `post_fork`; multiprocessing: `initializer` or "
            "the start method `spawn`)"
        )


def bind(owned: object) -> None:
    """Marks an object that a forked child must not destroy: its destructor would wait for threads that are not there.

    The child keeps it until it ends, and then ends without the destructors of the object's library, which would wait
    likewise. The object's memory is shared with the parent as long as nobody writes to it.
    """
    _BOUND.add(owned)


def _keep() -> None:
    if not _BOUND:
        return
    for owned in list(_BOUND):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(owned))
    # C's handlers run when Python itself has ended in order, the last one first: before those of libraries that were
    # loaded before the fork. `_exit` takes the status that `on_exit` passes.
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit") and hasattr(libc, "fcloseall"):
        libc.on_exit(libc._exit, None)
        libc.on_exit(libc.fcloseall, None)  # before it, what C has buffered is written


os.register_at_fork(after_in_child=_keep)
