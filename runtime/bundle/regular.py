"""Opens files that may come from a stranger: only regular ones, of a bounded size, without ever waiting.

A named pipe would block the process that opens it, a device never ends, and a link may lead to a file of the user's.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def open_regular(
    path: str | os.PathLike[str], flags: int = os.O_RDONLY, *, links: bool = False, folder: int | None = None
) -> int:
    """Opens a regular file.

    A file that is opened to be written must have no second name (hard link): it would be changed there too.

    Args:
        path: The file.
        flags: As for `os.open`.
        links: Whether links are followed; what they end at must be a regular file.
        folder: Descriptor of the folder that the path is relative to.

    Returns:
        The descriptor. A child process does not inherit it over `exec`.

    Raises:
        OSError: The file cannot be opened, or is no regular file.
    """
    safe = os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags | safe, 0o644, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP and not links:
            raise OSError(errno.ELOOP, "is a link; put the file itself there", os.fspath(path)) from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is no regular file", os.fspath(path))
        if flags & (os.O_WRONLY | os.O_RDWR) and status.st_nlink > 1:
            raise OSError(errno.EMLINK, "has a second name (a hard link); put a copy there", os.fspath(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_regular(path: Path, most: int, *, links: bool = False) -> bytes:
    """A regular file's content.

    Args:
        path: The file.
        most: Bytes that it may have.
        links: Whether links are followed.

    Raises:
        OSError: The file cannot be read, is no regular file, or is larger.
    """
    with os.fdopen(open_regular(path, links=links), "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"has more than {most} bytes", str(path))
    return content
