"""Locks between processes: the kernel releases them with the process, so a killed one leaves nothing to clean up.

`flock` belongs to the opened file, which a forked child shares: the child would keep the lock after its parent's end.
So a forked child closes every lock at once.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakSet

# Held while a lock's file is opened and noted, and while the process forks: no child has a lock that is not noted.
# The same thread may come here again, through the garbage collector.
_guard = threading.RLock()


class Lock:
    """An exclusive lock on an open file or folder, from `take` until `close`, garbage collection or the process's end.

    Args:
        opened: Opens the file or folder and returns its descriptor, which the lock then owns.

    Attributes:
        file: The descriptor; -1 once closed, and in a forked child.
    """

    def __init__(self, opened: Callable[[], int]) -> None:
        self.file = -1
        with _guard:
            self.file = opened()
            _opened.add(self)

    def take(self, *, wait: bool) -> None:
        """Takes the lock.

        Raises:
            BlockingIOError: Another holds it, and `wait` is false.
            OSError: The file system has no locks.
        """
        fcntl.flock(self.file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))

    def lies_at(self, path: str | Path) -> bool:
        """Whether the path still leads to the file that was opened: it may have been deleted, moved or replaced."""
        try:
            return self.file >= 0 and os.path.samestat(os.fstat(self.file), os.lstat(path))
        except OSError:
            return False

    def close(self) -> None:
        """Releases the lock."""
        if self.file >= 0:
            file, self.file = self.file, -1
            os.close(file)

    def __del__(self) -> None:
        self.close()


_opened: WeakSet[Lock] = WeakSet()


def _close_all() -> None:
    try:
        for lock in list(_opened):
            lock.close()
    finally:
        _guard.release()


os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_close_all)


def open_folder(path: Path) -> int:
    """Opens a folder for a `Lock`."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


@contextmanager
def folder_lock(root: Path) -> Iterator[None]:
    """Lets one thread of one process at a time change what lies in a folder; the others wait, so only for short work.

    Raises:
        OSError: There is no such folder.
    """
    while True:
        lock = Lock(lambda: open_folder(root))
        try:
            with suppress(OSError):  # some network file systems lock no folder
                lock.take(wait=True)
            # While this waited, the folder may have been moved and another put in its place.
            if os.path.samestat(os.fstat(lock.file), os.stat(root)):
                yield
                return
        finally:
            lock.close()
