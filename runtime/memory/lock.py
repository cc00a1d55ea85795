"""One writer at a time: a lock on a file in the bundle that names its holder."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from ..bundle.hub import check_own
from ..bundle.lock import Lock, open_folder
from ..bundle.regular import open_regular
from ..errors import BundleError, BusyError

NAME = "memory.lock"


class WriterLock:
    """Held from construction until `release`, the end of the process, or garbage collection.

    The kernel releases it with the process, so a killed writer leaves nothing to clean up. Whoever deletes the lock's
    file or moves the bundle ends it: `check` finds that out, and is called before each write while the bundle's folder
    is locked (`bundle.lock.folder_lock`). So no two processes write, whatever happens to the file.

    Args:
        root: The bundle.

    Raises:
        BusyError: Another process holds it.
        BundleError: The folder cannot be written to, or lies in a hub's cache.
    """

    def __init__(self, root: Path) -> None:
        check_own(root)
        self._path = root / NAME
        self._name = str(self._path)
        self._process = os.getpid()
        while (taken := self._take()) is None:
            pass
        self._lock, self._folder = taken
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        content = json.dumps({"pid": self._process, "host": os.uname().nodename, "since": since}).encode()
        with suppress(OSError):  # a full disk: the lock still holds, it only does not name its holder
            os.ftruncate(self._lock.file, 0)
            os.pwrite(self._lock.file, content, 0)

    def _take(self) -> tuple[Lock, Lock] | None:
        """The locked file and its folder, opened; None if the previous holder deleted the file in between."""
        try:
            # The folder stays open, to delete the file from it wherever it is moved.
            folder = Lock(lambda: open_folder(self._path.parent))
            lock = Lock(lambda: open_regular(NAME, os.O_RDWR | os.O_CREAT, folder=folder.file))
        except OSError as error:
            raise BundleError(
                f"{self._path.parent}: the memory cannot be changed ({error.strerror}: {NAME}); make it writable"
            ) from error
        try:
            lock.take(wait=False)
        except OSError as error:
            holder = _holder(lock.file)
            lock.close()
            folder.close()
            raise BusyError(
                f"{self._path.parent}: the memory is being changed by {holder}; wait until that is done"
            ) from error
        if lock.lies_at(self._name):
            return lock, folder
        lock.close()
        folder.close()
        return None

    @property
    def held(self) -> bool:
        """Whether this process holds it: a forked child does not, nor a process whose bundle was moved away."""
        return self._process == os.getpid() and self._lock.lies_at(self._name)

    def check(self) -> None:
        """Checks that this process still holds it.

        Raises:
            BundleError: It does not: the bundle was moved or replaced, or the lock's file was deleted.
        """
        if not self.held:
            raise BundleError(
                f"{self._path.parent}: was moved or replaced, or its {NAME} deleted, while its memory was being "
                "changed; this change was not made. Open the bundle again where it is now"
            )

    def release(self) -> None:
        """Releases the lock."""
        if not hasattr(self, "_lock"):
            return
        with suppress(OSError):
            # The file that lies where this one was made, wherever the folder is now: only if it is this one.
            if self._process == os.getpid() and self._lock.file >= 0:
                there = os.stat(NAME, dir_fd=self._folder.file, follow_symlinks=False)
                if os.path.samestat(there, os.fstat(self._lock.file)):
                    os.unlink(NAME, dir_fd=self._folder.file)
        self._lock.close()
        self._folder.close()

    def __del__(self) -> None:
        self.release()


def _holder(file: int) -> str:
    try:
        content = json.loads(os.pread(file, 4096, 0))
        return f"process {content['pid']} on {content['host']}, since {content['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
