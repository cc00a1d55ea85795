"""One writer at a time: an advisory lock on a file in the bundle, which says who holds it."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from ..errors import BundleError

NAME = "memory.lock"


class WriterLock:
    """Held from when it is made until `release`, the end of the process, or until it is forgotten.

    The kernel lets go of it with the process, so a killed writer leaves nothing that must be cleared away.

    Args:
        root: The bundle.

    Raises:
        BundleError: Another holds it, or the folder cannot be written to.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / NAME
        self._process = os.getpid()
        self._file = -1
        while not self._lock():
            pass
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        content = json.dumps({"pid": self._process, "host": os.uname().nodename, "since": since}).encode()
        with suppress(OSError):  # a full disk: the lock holds all the same, it only does not say whose it is
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, content, 0)

    def _lock(self) -> bool:
        """Whether the lock could be taken; if not, the holder before deleted the file in between."""
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise BundleError(
                f"{self._path.parent}: the memory cannot be changed ({error.strerror}: {NAME}); make it writable"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(file)
            os.close(file)
            raise BundleError(
                f"{self._path.parent}: the memory is being changed by {holder}; wait until that is done"
            ) from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(self._path)):
                self._file = file
                return True
        os.close(file)
        return False

    @property
    def held(self) -> bool:
        """Whether this process holds it: a forked child does not."""
        return self._file >= 0 and self._process == os.getpid()

    def release(self) -> None:
        """Lets go."""
        if self.held:
            with suppress(OSError):
                self._path.unlink()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        self.release()


def _holder(file: int) -> str:
    try:
        content = json.loads(os.pread(file, 4096, 0))
        return f"process {content['pid']} on {content['host']}, since {content['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
