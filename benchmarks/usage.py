"""The memory of a process, as Linux tells of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rar.runtime.errors import RarError


@dataclass(frozen=True)
class Memory:
    """Bytes of memory of a process; what it maps of files counts where it was read.

    Attributes:
        resident: Now.
        peak: The most at a time since its program began.
        anonymous: Now, without what is part of a file.
    """

    resident: int
    peak: int
    anonymous: int


def memory(process: int | None = None) -> Memory:
    """The memory of a process; none where it has just ended.

    Args:
        process: Its id; this process by default.

    Raises:
        RarError: There is no such process, or this is no Linux.
    """
    # Not `getrusage`, whose peak begins with that of the process that started this one.
    try:
        lines = Path(f"/proc/{process or 'self'}/status").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise RarError(f"the memory of a process is read from /proc, which is not there ({error})") from error
    told = dict(line.split(":", 1) for line in lines if ":" in line)
    return Memory(*(1024 * int(told.get(key, "0").split()[0]) for key in ("VmRSS", "VmHWM", "RssAnon")))


def available() -> int:
    """Bytes of memory that the machine can still give to a process.

    Raises:
        RarError: This is no Linux.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise RarError(f"the machine's memory is read from /proc, which is not there ({error})") from error
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
