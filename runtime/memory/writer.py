"""What a process holds that changes a memory: the lock and the open log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..bundle import Bundle, stage, sweep
from ..errors import BundleError
from . import log
from .changes import Change, encode
from .compact import write_generation
from .lock import WriterLock
from .view import LOG, View, signature


class Writer:
    """Holds a memory's lock from when it is made until `close`.

    Args:
        root: The bundle.

    Raises:
        BundleError: Another process changes the memory, or the folder cannot be written to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = WriterLock(root)
        # The log, and the memory that it belongs to.
        self._log: tuple[str, log.LogWriter] | None = None
        sweep(root, "memory")

    @property
    def alive(self) -> bool:
        """Whether this process holds the lock still: a forked child does not."""
        return self._lock.held

    def write(self, view: View, change: Change) -> View:
        """Makes a change, durably, and returns the view with it.

        Args:
            view: The memory as it is; `follow` was asked since the lock is held.
            change: The change.

        Raises:
            InputError: The change cannot be made of this memory, or is too large.
            BundleError: It cannot be written; all is as it was.
        """
        state = view.state.apply(change)
        if self._log is None or self._log[0] != view.fingerprint:
            self._close_log()
            self._log = (view.fingerprint, log.LogWriter(self._root / LOG, view.fingerprint, view.position))
        position = self._log[1].append(encode(change))
        return replace(view, state=state, log=signature(self._root / LOG), position=position)

    def compact(self, view: View) -> None:
        """Folds the changes into a new generation of the memory's files.

        Raises:
            BundleError: It cannot be written; all is as it was.
        """
        try:
            with stage(self._root, "memory") as staging:
                write_generation(Bundle.open(self._root), view.state, staging)
        except OSError as error:
            raise BundleError(f"{self._root}: cannot be written ({error}); the memory is as it was") from error
        # It names the generation before and would not be read any more.
        self._close_log()
        log.remove(self._root / LOG)

    def close(self) -> None:
        """Lets go of the lock."""
        self._close_log()
        self._lock.release()

    def _close_log(self) -> None:
        if self._log is not None:
            self._log[1].close()
            self._log = None
