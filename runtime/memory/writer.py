"""What a process holds while it changes a memory: the lock and the open log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..bundle.change import stage
from ..bundle.lock import folder_lock
from ..bundle.manifest import Bundle, signature
from ..bundle.unfinished import sweep
from ..errors import BundleError
from . import log
from .changes import Change, encode
from .compact import write_generation
from .lock import WriterLock
from .view import LOG, View


class Writer:
    """Holds a memory's lock from construction until `close`.

    Args:
        root: The bundle.

    Raises:
        BundleError: Another process changes the memory, or the folder cannot be written to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = WriterLock(root)
        self._log: log.LogWriter | None = None
        sweep(root, "memory")

    @property
    def alive(self) -> bool:
        """Whether this process still holds the lock; see `WriterLock.held`."""
        return self._lock.held

    def write(self, view: View, change: Change) -> View:
        """Writes a change to the disk and returns the view with it.

        Args:
            view: The current view; `follow` was called since the lock is held.
            change: The change.

        Raises:
            InputError: The change does not apply to this memory, or is too large.
            BundleError: The change cannot be written; nothing changed.
        """
        state = view.state.apply(change)
        content = encode(change)
        with self._locked():
            if self._log is None or self._log.position != view.position:
                self._close_log()
                self._log = log.LogWriter(self._root / LOG, view.fingerprint, view.position)
            position = self._log.append(content)
            return replace(view, state=state, log=signature(self._root / LOG), position=position)

    def compact(self, view: View) -> None:
        """Folds the changes into a new generation of the memory's files.

        Raises:
            BundleError: The files cannot be written; nothing changed.
        """
        bundle = Bundle.open(self._root)
        try:
            with stage(self._root, "memory", onto=bundle.component("memory"), check=self._lock.check) as staging:
                write_generation(bundle, view.state, staging)
        except OSError as error:
            raise BundleError(f"{self._root}: cannot be written ({error}); the memory is as it was") from error
        # It names the previous generation and would not be read any more.
        self._close_log()
        with self._locked():
            log.remove(self._root / LOG)

    def close(self) -> None:
        """Releases the lock."""
        self._close_log()
        self._lock.release()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The folder is locked and this process still holds the writer's lock: no other writes until the block ends.

        Raises:
            BundleError: The bundle is gone, or this process lost the lock.
        """
        try:
            with folder_lock(self._root):
                self._lock.check()
                yield
        except OSError as error:
            raise BundleError(f"{self._root}: cannot be changed ({error.strerror}); check the path") from error

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None
