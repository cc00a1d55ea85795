"""A pool of a device's memory: blocks are kept when they are given back, and every byte is accounted for."""

from __future__ import annotations

import weakref
from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass
from threading import RLock

from ..errors import OutOfMemoryError

_SMALLEST = 512


@dataclass(frozen=True)
class Usage:
    """Bytes of a pool.

    Attributes:
        held: In blocks that something holds.
        kept: In blocks that wait to be held again.
        peak: The most that both were together.
    """

    held: int
    kept: int
    peak: int


class Block:
    """Some memory; it goes back to its pool when nothing refers to it any more.

    Attributes:
        address: Where it is.
        size: Bytes, at least those asked for.
    """

    def __init__(self, address: int, size: int) -> None:
        self.address, self.size = address, size


class Pool:
    """Memory by the block; may be used from several threads.

    Args:
        allocate: Bytes -> address; raises `OutOfMemoryError` where there are none left.
        free: Gives an address of `allocate` back.
    """

    def __init__(self, allocate: Callable[[int], int], free: Callable[[int], None]) -> None:
        self._allocate, self._free = allocate, free
        self._kept: list[tuple[int, int]] = []  # (size, address), by size
        self._held = self._total = self._peak = 0
        # A block may be collected, and come back, in the middle of any call of the same thread.
        self._lock = RLock()

    def take(self, size: int) -> Block:
        """A block of at least that many bytes.

        Raises:
            OutOfMemoryError: The device has none left, not even after all that is kept was given back.
        """
        size = _rounded(size)
        with self._lock:
            place = bisect_left(self._kept, (size, 0))
            # A much larger block is left for what needs it.
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
        """How much is held, kept, and was at most."""
        with self._lock:
            return Usage(self._held, self._total - self._held, self._peak)

    def trim(self) -> None:
        """Gives all that is kept back to the device."""
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
    """Up by an eighth at most, so that sizes that differ little share blocks."""
    step = max(_SMALLEST, 1 << max(size - 1, 0).bit_length() >> 3)
    return max(-(-size // step), 1) * step
