"""The log of changes since a memory was built, beside the bundle's manifest.

    head     `rar log 1` and a line end, the fingerprint of the memory it belongs to (64 bytes), their CRC32
    record   mark, length of the content, the CRC32 of the record before (or of the head), the CRC32 of all that and
             of the content; then the content

Each call appends one record and flushes it to the disk before it returns. What a crash cuts off is the last record,
which was of a call that never returned; it is dropped. The chain keeps a record of another log from being taken, and a
record that checks behind one that does not tells damage from a crash.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from ..errors import BundleError, InputError
from ..files import atomic_file, fsync

_MAGIC = b"rar log "
_VERSION = b"1\n"
_HEAD = len(_MAGIC) + len(_VERSION) + 64 + 4
_MARK = b"\xabREC"
_RECORD = struct.Struct("<4sIII")
# Of one call; a quarter of a million vectors of 512 dimensions.
MAX_CONTENT = 1 << 28


@dataclass(frozen=True)
class Position:
    """The end of the last good record: where reading goes on, and writing."""

    inode: int
    offset: int
    crc: int


@dataclass(frozen=True)
class Tail:
    """What was read from a log: the contents of its records, where they end, and how many bytes are behind that."""

    contents: list[bytes]
    position: Position
    rest: int


def read(path: Path, fingerprint: str) -> Tail | None:
    """Reads a log.

    Args:
        path: The log.
        fingerprint: Of the memory.

    Returns:
        None where there is no log of this memory.

    Raises:
        BundleError: The log is damaged, of a newer format, or cannot be read.
    """
    content, inode = _content(path, 0)
    crc = None if content is None else _check_head(path, content[:_HEAD], fingerprint)
    if content is None or crc is None:
        return None
    tail = _records(content[_HEAD:], Position(inode, _HEAD, crc))
    if _altered(content, tail.position.offset):
        raise BundleError(
            f"{path}: altered: a change in it cannot be read, but later ones can. Copy the bundle again, or delete "
            "this file to go back to the memory without its changes"
        )
    return tail


def read_on(path: Path, since: Position) -> Tail | None:
    """Reads what was appended to a log since an earlier reading.

    Returns:
        None where that is not known: the log was replaced or cut, or does not go on in one piece.

    Raises:
        BundleError: The log cannot be read.
    """
    content, inode = _content(path, since.offset)
    if content is None or inode != since.inode:
        return None
    tail = _records(content, since)
    return None if tail.rest else tail


def _content(path: Path, start: int) -> tuple[bytes | None, int]:
    """A file's bytes from `start`, None if it is shorter or not there; and its inode."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if start > status.st_size:
                return None, status.st_ino
            file.seek(start)
            return file.read(), status.st_ino
    except FileNotFoundError:
        return None, 0
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def _records(content: bytes, since: Position) -> Tail:
    """The records that the bytes behind a position begin with."""
    contents, at, crc = [], 0, since.crc
    while (record := _record(content, at)) is not None and record[0] == crc:
        _, crc, body = record
        contents.append(body)
        at += _RECORD.size + len(body)
    return Tail(contents, Position(since.inode, since.offset + at, crc), len(content) - at)


def _check_head(path: Path, head: bytes, fingerprint: str) -> int | None:
    """The head's CRC32; None if it belongs to another memory."""
    own, crc = head[:-4], int.from_bytes(head[-4:], "little")
    if len(head) == _HEAD and head.startswith(_MAGIC) and not head.startswith(_MAGIC + _VERSION):
        raise BundleError(f"{path}: of a newer format; upgrade rar-runtime on this device")
    if len(head) < _HEAD or not own.startswith(_MAGIC) or zlib.crc32(own) != crc:
        raise BundleError(
            f"{path}: not a memory's log, or altered. Copy the bundle again, or delete this file to go back to the "
            "memory without its changes"
        )
    return crc if own.endswith(fingerprint.encode()) else None


def _record(content: bytes, at: int) -> tuple[int, int, bytes] | None:
    """The record that begins there, if one does and it checks: the CRC32 before, its own, and its content."""
    head = content[at : at + _RECORD.size]
    if len(head) < _RECORD.size:
        return None
    mark, length, before, crc = _RECORD.unpack(head)
    body = content[at + _RECORD.size : at + _RECORD.size + length]
    if mark != _MARK or len(body) < length or zlib.crc32(body, zlib.crc32(head[:-4])) != crc:
        return None
    return before, crc, body


def _altered(content: bytes, at: int) -> bool:
    """Whether a record that checks lies behind the last that was taken: a crash leaves none there."""
    while (at := content.find(_MARK, at)) >= 0:
        if _record(content, at) is not None:
            return True
        at += 1
    return False


class LogWriter:
    """Appends to a memory's log. The caller holds the memory's lock.

    Args:
        path: The log; made anew where there is none of this memory.
        fingerprint: Of the memory.
        position: The end of the last good record; None to make the log.

    Raises:
        BundleError: It cannot be written.
    """

    def __init__(self, path: Path, fingerprint: str, position: Position | None) -> None:
        self._path = path
        try:
            if position is None:
                head = _MAGIC + _VERSION + fingerprint.encode()
                crc = zlib.crc32(head)
                with atomic_file(path) as file:
                    file.write(head + crc.to_bytes(4, "little"))
                position = Position(path.stat().st_ino, _HEAD, crc)
            self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise BundleError(f"{path}: cannot be written ({error.strerror}); nothing was changed") from error
        self.position = position

    def append(self, content: bytes) -> Position:
        """Appends a record and flushes it to the disk.

        Raises:
            InputError: The content is too large.
            BundleError: It cannot be written; the log is as it was.
        """
        if len(content) > MAX_CONTENT:
            raise InputError(f"{len(content)} bytes in one change; make it in parts of up to {MAX_CONTENT}")
        before = self.position
        head = _RECORD.pack(_MARK, len(content), before.crc, 0)[:-4]
        crc = zlib.crc32(content, zlib.crc32(head))
        record = memoryview(head + crc.to_bytes(4, "little") + content)
        try:
            # What a crash cut off may lie there.
            os.ftruncate(self._file, before.offset)
            written = 0
            while written < len(record):
                written += os.pwrite(self._file, record[written:], before.offset + written)
            os.fdatasync(self._file)
        except BaseException as error:
            self._cut_back()
            if isinstance(error, OSError):
                raise BundleError(
                    f"{self._path}: cannot be written ({error.strerror}); the memory is as it was before"
                ) from error
            raise
        self.position = Position(before.inode, before.offset + len(record), crc)
        return self.position

    def _cut_back(self) -> None:
        try:
            os.ftruncate(self._file, self.position.offset)
            os.fdatasync(self._file)
        except OSError:
            pass  # the next append tries again, and a reader drops what is not whole

    def close(self) -> None:
        """Closes the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()


def remove(path: Path) -> None:
    """Deletes a log, if there is one."""
    path.unlink(missing_ok=True)
    fsync(path.parent)
