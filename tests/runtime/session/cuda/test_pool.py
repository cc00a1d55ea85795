"""Blocks of real memory, from the C library, are taken, kept, found again, and given back."""

from __future__ import annotations

import ctypes
import gc
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rar.runtime.errors import OutOfMemoryError
from rar.runtime.session.cuda.pool import Block, Pool


class Memory:
    """malloc and free, up to a limit."""

    def __init__(self, limit: int = 1 << 40) -> None:
        self._libc = ctypes.CDLL(None)
        self._libc.malloc.restype = ctypes.c_void_p
        self._libc.malloc.argtypes = [ctypes.c_size_t]
        self._libc.free.argtypes = [ctypes.c_void_p]
        self.limit, self.sizes, self.calls = limit, dict[int, int](), 0

    @property
    def held(self) -> int:
        return sum(self.sizes.values())

    def allocate(self, size: int) -> int:
        if self.held + size > self.limit:
            raise OutOfMemoryError("no memory left")
        address = int(self._libc.malloc(size))
        self.sizes[address] = size
        self.calls += 1
        return address

    def free(self, address: int) -> None:
        del self.sizes[address]
        self._libc.free(address)


def make(limit: int = 1 << 40) -> tuple[Pool, Memory]:
    memory = Memory(limit)
    return Pool(memory.allocate, memory.free), memory


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 100_000)), max_size=40))
def test_blocks_never_overlap_and_every_byte_is_accounted_for(steps: list[tuple[bool, int]]) -> None:
    pool, memory = make()
    blocks: list[Block] = []
    for taken, number in steps:
        if taken:
            block = pool.take(number)
            assert block.size >= number
            ctypes.memset(block.address, 1, block.size)  # it is all there
            blocks.append(block)
            del block
        elif blocks:
            blocks.pop(number % len(blocks))
        usage = pool.usage
        assert usage.held == sum(block.size for block in blocks)
        assert usage.held + usage.kept == memory.held <= usage.peak
        spans = sorted((block.address, block.address + block.size) for block in blocks)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    blocks.clear()
    pool.trim()
    assert pool.usage.held == pool.usage.kept == memory.held == 0


def test_a_block_that_was_given_back_is_taken_again() -> None:
    pool, memory = make()
    for size in (100_000, 99_000, 60_000, 100_000):
        pool.take(size)
    assert memory.calls == 1
    small = pool.take(10)  # not for this
    assert memory.calls == 2
    assert pool.usage.held == small.size


def test_what_is_kept_goes_back_before_memory_is_said_to_end() -> None:
    pool, memory = make(limit=1_000_000)
    for size in (300_000, 500_000):
        pool.take(size)
    assert pool.usage.kept == memory.held > 700_000
    block = pool.take(900_000)
    assert memory.held == block.size
    with pytest.raises(OutOfMemoryError):
        pool.take(900_000)
    assert pool.usage.held == block.size


def test_threads_share_a_pool() -> None:
    pool, memory = make()

    def work(number: int) -> bool:
        block = pool.take(1000 + number)
        ctypes.memset(block.address, number, block.size)
        return ctypes.string_at(block.address, block.size) == bytes([number]) * block.size

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, [number % 200 for number in range(2000)]))
    gc.collect()
    assert pool.usage.held == 0
    assert memory.held == pool.usage.kept
