"""How many cores this process may use; every thread pool takes its size from here."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use at a time, at least one.

    The process's affinity and the quotas of its control groups decide. `os.cpu_count` counts all cores of the machine:
    64 where a container may use one. A quota is rounded down to whole cores: one thread too many uses up the quota, and
    the kernel then stops all threads of the group.

    Args:
        root: The folder that holds `proc` and `sys`.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(allowed, _quota(root))))


def _quota(root: Path) -> float:
    """Cores that the process's control groups grant; infinity without a limit."""
    mounted = root / "sys/fs/cgroup"
    least = math.inf
    for line in _words(root / "proc/self/cgroup", "\n"):
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:  # version 2; beside version 1 it is mounted one folder deeper
            mounts, files = (mounted, mounted / "unified"), ["cpu.max"]
        elif "cpu" in controllers.split(","):
            mounts, files = (mounted / controllers, mounted / "cpu"), ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        # A parent group may grant less. Inside a container the path may be the host's, of which only the mounted
        # folder itself is there.
        parts = [part for part in group.split("/") if part not in ("", "..")]
        for mount in mounts:
            for depth in range(len(parts) + 1):
                folder = mount.joinpath(*parts[:depth])
                least = min(least, _cores([word for file in files for word in _words(folder / file)]))
    return least


def _cores(words: list[str]) -> float:
    """A quota and its period in microseconds as cores; `max` and -1 are no limit."""
    try:
        quota, period = map(int, words)
    except ValueError:
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


def _words(path: Path, separator: str | None = None) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").split(separator)
    except OSError:
        return []
