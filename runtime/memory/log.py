"""The log of changes since a memory was built, beside the bundle's manifest.

    head     `rar log 1` and a line end, the fingerprint of the memory it belongs to (64 bytes), their CRC32
    record   mark, length of the content, the CRC32 of the record before (or of the head), the CRC32 of all that and
             of the content; then the content

Each call appends one record and flushes it to the disk before it returns. A crash can only cut off the last record,
whose call never returned; that record is dropped. The chain of CRC32s rejects records of another log. A valid record
after an invalid one shows damage, not a crash.
"""

from __future__ import annotations

import errno
import os
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from ..bundle.files import atomic_file, fsync
from ..bundle.regular import open_regular
from ..errors import BundleError, InputError

_MAGIC = b"rar log "
_VERSION = b"1\n"
_HEAD = len(_MAGIC) + len(_VERSION) + 64 + 4
_MARK = b"\xabREC"
_MARKS = re.compile(re.escape(_MARK))
_RECORD = struct.Struct("<4sIII")
# The limit per call: a quarter of a million vectors of 512 dimensions.
MAX_CONTENT = 1 << 28
# The limit of a log: four million vectors of 512 dimensions. `Memory.save` compacts long before.
MAX_LOG = 1 << 32
# How often the bytes after the last valid record may be checked for another one.
_PASSES = 8


@dataclass(frozen=True)
class Position:
    """The end of the last good record, where reading and writing continue."""

    inode: int
    offset: int
    crc: int


@dataclass(frozen=True)
class Tail:
    """What was read from a log: the records' contents, their end, and the number of bytes after it."""

    contents: list[bytes]
    position: Position
    rest: int


def read(path: Path, fingerprint: str) -> Tail | None:
    """Reads a log, in time and memory in proportion to its size.

    Args:
        path: The log.
        fingerprint: The memory's fingerprint.

    Returns:
        None if there is no log of this memory.

    Raises:
        BundleError: The log is damaged, has a newer format, is no regular file or too large, or cannot be read.
    """
    content, inode = _content(path, 0)
    crc = None if content is None else _check_head(path, bytes(content[:_HEAD]), fingerprint)
    if content is None or crc is None:
        return None
    tail = _records(content, Position(inode, _HEAD, crc), _HEAD)
    if _altered(content, tail.position.offset):
        raise BundleError(
            f"{path}: altered: a change in it cannot be read, but later ones can. Copy the bundle again, or delete "
            "this file to go back to the memory without its changes"
        )
    return tail


def read_on(path: Path, since: Position) -> Tail | None:
    """Reads what was appended to a log since an earlier reading.

    Returns:
        None if that is unknown: the log was replaced or cut, or does not continue with valid records.

    Raises:
        BundleError: The log cannot be read.
    """
    content, inode = _content(path, since.offset)
    if content is None or inode != since.inode:
        return None
    tail = _records(content, since, 0)
    return None if tail.rest else tail


def _content(path: Path, start: int) -> tuple[memoryview | None, int]:
    """A file's bytes from `start`, None if it is shorter or missing; and its inode."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size > MAX_LOG:
                raise OSError(errno.EFBIG, f"has more than {MAX_LOG} bytes")
            if start > status.st_size:
                return None, status.st_ino
            file.seek(start)
            return memoryview(file.read(status.st_size - start)), status.st_ino
    except FileNotFoundError:
        return None, 0
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read ({error.strerror}); check the file, or delete it to go back to the memory without "
            "its changes"
        ) from error


def _records(content: memoryview, since: Position, start: int) -> Tail:
    """The valid records of the bytes from `start`, which lies at the position `since` of the log."""
    contents, at, crc = [], start, since.crc
    while (record := _record(content, at)) is not None and record[0] == crc:
        _, crc, body = record
        contents.append(bytes(body))
        at += _RECORD.size + len(body)
    return Tail(contents, Position(since.inode, since.offset + at - start, crc), len(content) - at)


def _check_head(path: Path, head: bytes, fingerprint: str) -> int | None:
    """The head's CRC32; None if it belongs to another memory."""
    checked, crc = head[:-4], int.from_bytes(head[-4:], "little")
    if len(head) == _HEAD and head.startswith(_MAGIC) and not head.startswith(_MAGIC + _VERSION):
        raise BundleError(f"{path}: of a newer format; upgrade rar-runtime on this device")
    if len(head) < _HEAD or not checked.startswith(_MAGIC) or zlib.crc32(checked) != crc:
        raise BundleError(
            f"{path}: not a memory's log, or altered. Copy the bundle again, or delete this file to go back to the "
            "memory without its changes"
        )
    return crc if checked.endswith(fingerprint.encode()) else None


def _record(content: memoryview, at: int) -> tuple[int, int, memoryview] | None:
    """The valid record that begins at this offset, if any: the previous CRC32, its own, and its content."""
    head = content[at : at + _RECORD.size]
    if len(head) < _RECORD.size:
        return None
    mark, length, before, crc = _RECORD.unpack(head)
    body = content[at + _RECORD.size : at + _RECORD.size + length]
    if mark != _MARK or len(body) < length or zlib.crc32(body, zlib.crc32(head[:-4])) != crc:
        return None
    return before, crc, body


def _altered(content: memoryview, at: int) -> bool:
    """Whether a valid record follows the last one that was read: a crash leaves none there.

    A crash leaves one torn record, in which hardly any bytes look like the beginning of another. If checking those that
    do takes more than a few passes over the bytes, someone wrote them there.
    """
    left = _PASSES * (len(content) - at)
    for mark in _MARKS.finditer(content, at):
        head = content[mark.start() : mark.start() + _RECORD.size]
        length = _RECORD.unpack(head)[1] if len(head) == _RECORD.size else 0
        if length > len(content) - mark.start():
            continue
        left -= _RECORD.size + length
        if left < 0 or _record(content, mark.start()) is not None:
            return True
    return False


class LogWriter:
    """Appends to a memory's log. The caller holds the memory's lock.

    Args:
        path: The log; created if the memory has none.
        fingerprint: The memory's fingerprint.
        position: The end of the last good record; None to create the log.

    Raises:
        BundleError: The log cannot be written.
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
            self._file = open_regular(path, os.O_RDWR)
        except OSError as error:
            raise BundleError(f"{path}: cannot be written ({error.strerror}); nothing was changed") from error
        self.position = position
        if os.fstat(self._file).st_ino != position.inode:
            self.close()
            raise BundleError(f"{path}: was replaced while the memory was being changed; open the bundle again")

    def append(self, content: bytes) -> Position:
        """Appends a record and flushes it to the disk.

        Raises:
            InputError: The content is too large.
            BundleError: The log cannot be written; it did not change.
        """
        if len(content) > MAX_CONTENT:
            raise InputError(f"{len(content)} bytes in one change; make it in parts of up to {MAX_CONTENT}")
        before = self.position
        head = _RECORD.pack(_MARK, len(content), before.crc, 0)[:-4]
        crc = zlib.crc32(content, zlib.crc32(head))
        record = memoryview(head + crc.to_bytes(4, "little") + content)
        if before.offset + len(record) > MAX_LOG:
            raise BundleError(f"{self._path}: is full; fold it into the memory with `rar-export compact`")
        try:
            # The remains of a crash may lie there.
            os.ftruncate(self._file, before.offset)
            written = 0
            while written < len(record):
                written += os.pwrite(self._file, record[written:], before.offset + written)
            os.fdatasync(self._file)
            # It may have been deleted meanwhile: the record would be nowhere.
            if not os.path.samestat(os.fstat(self._file), os.lstat(self._path)):
                raise OSError(errno.ESTALE, "was deleted or replaced")
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
            pass  # the next append tries again, and a reader drops an incomplete record

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
