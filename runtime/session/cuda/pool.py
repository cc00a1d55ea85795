"""A pool of a device's memory: it caches freed blocks and accounts for every byte."""

from __future__ import annotations

import weakref
from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass
from threading import RLock

from ...errors import OutOfMemoryError

_SMALLEST = 512


@dataclass(frozen=True)
class Usage:
    """Bytes of a pool.

    Attributes:
        held: Bytes in blocks in use.
        kept: Bytes in cached free blocks.
        peak: The highest sum of both.
    """

    held: int
    kept: int
    peak: int


class Block:
    """A block of memory; it returns to its pool when nothing refers to it any more.

    Attributes:
        address: Its address.
        size: Bytes, at least as many as requested.
    """

    def __init__(self, address: int, size: int) -> None:
        self.address, self.size = address, size


class Pool:
    """A pool of memory blocks; several threads may use it.

    Args:
        allocate: Bytes -> address; raises `OutOfMemoryError` if the device has no memory left.
        free: Frees an address from `allocate`.
    """

    def __init__(self, allocate: Callable[[int], int], free: Callable[[int], None]) -> None:
        self._allocate, self._free = allocate, free
        self._kept: list[tuple[int, int]] = []  # (size, address), by size
        self._held = self._total = self._peak = 0
        # Garbage collection may return a block in the middle of any call of the same thread.
        self._lock = RLock()

    def take(self, size: int) -> Block:
        """A block of at least that many bytes.

        Raises:
            OutOfMemoryError: The device has no memory left, even after all cached blocks were freed.
        """
        size = _rounded(size)
        with self._lock:
            place = bisect_left(self._kept, (size, 0))
            # A much larger block is left for larger requests.
            if place < len(self._kept) and self._kept[place][0] <= 2 * size:
                size, address = self._kept.pop(place)
            else:
                address = self._new(size)
            self._held += size
        block = Block(address, size)
        weakref.finalize(block, self._back, address, size)
        return block

    @property
    def usage(self) -> Usage:
        """Bytes in use, cached, and at peak."""
        with self._lock:
            return Usage(self._held, self._total - self._held, self._peak)

    def trim(self) -> None:
        """Returns all cached blocks to the device."""
        with self._lock:
            while self._kept:
                size, address = self._kept.pop()
                self._free(address)
                self._total -= size

    def _new(self, size: int) -> int:
        try:
            address = self._allocate(size)
        except OutOfMemoryError:
            self.trim()
            address = self._allocate(size)
        self._total += size
        self._peak = max(self._peak, self._total)
        return address

    def _back(self, address: int, size: int) -> None:
        with self._lock:
            self._held -= size
            insort(self._kept, (size, address))


def _rounded(size: int) -> int:
    """Rounds up by at most an eighth, so that similar sizes share blocks."""
    step = max(_SMALLEST, 1 << max(size - 1, 0).bit_length() >> 3)
    return max(-(-size // step), 1) * step
