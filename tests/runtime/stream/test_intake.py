"""A source is read as its pace says: batches in time, old items dropped and counted, nobody held up by it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rar.runtime import InputError
from rar.runtime.stream.intake import Intake, Pace, Taken, intake


def reader(source: Any, most: int, wait: float | None = None, policy: Any = "every") -> Intake[Any]:
    return intake(iter(source), Pace(most, wait, policy), lambda item: item, lambda item: item)


def items(taken: list[Taken[Any]]) -> list[Any]:
    return [one.item for one in taken]


class Gate:
    """A source that gives an item for each `open`, and waits in between as a camera does."""

    def __init__(self) -> None:
        self._open = threading.Semaphore(0)
        self.left = threading.Event()

    def open(self, items: int = 1) -> None:
        self._open.release(items)

    def __iter__(self) -> Iterator[int]:
        for item in count():
            self._open.acquire()
            if self.left.is_set():
                return
            yield item


@given(st.lists(st.integers(), max_size=40), st.lists(st.integers(1, 7), min_size=1, max_size=40), st.booleans())
def test_every_item_in_order_and_once(source: list[int], sizes: list[int], listed: bool) -> None:
    taken = intake(source if listed else iter(source), Pace(7), lambda item: item, lambda item: item)
    found: list[Taken[int]] = []
    for size in sizes + [7] * 40:
        some = taken.take(size)
        assert len(some) == min(size, len(source) - len(found))
        found += some
    assert [(one.place, one.item) for one in found] == list(enumerate(source))
    assert taken.over
    assert (taken.dropped, taken.closed) == (0, False)


@given(st.integers(0, 9), st.integers(1, 4), st.booleans())
def test_what_came_before_an_error_comes_first(good: int, most: int, listed: bool) -> None:
    def own(item: int) -> int:
        if item == good:
            raise KeyError(item)
        return item

    source = range(20)
    taken = intake(list(source) if listed else iter(source), Pace(most), own, own)
    found: list[int] = []
    while len(found) < good:
        found += items(taken.take(most))
    assert found == list(range(good))
    with pytest.raises(KeyError):
        taken.take(most)
    assert taken.over
    assert taken.take(most) == []


def test_a_slow_source_is_not_waited_for_longer_than_the_pace_says() -> None:
    gate = Gate()
    taken = reader(gate, 16, 0.02)
    found: list[Any] = []
    gate.open(3)
    while len(found) < 3:  # and never sixteen
        found += items(taken.take(16, 0.02))
    assert found == [0, 1, 2]
    taken.close()


def test_no_item_comes_after_the_time_that_one_is_waited_for() -> None:
    gate = Gate()
    taken = reader(gate, 4)
    assert taken.take(4, until=time.monotonic() + 0.01) == []
    assert not taken.over
    gate.open(4)
    assert items(taken.take(4)) == [0, 1, 2, 3]
    taken.close()


def test_a_source_that_is_not_asked_is_not_read_further_than_there_is_room() -> None:
    given: list[int] = []
    source = (given.append(i) or i for i in count())  # type: ignore[func-returns-value]
    taken = reader(source, 5)
    assert given == []
    for batch in range(3):
        assert items(taken.take(5)) == list(range(5 * batch, 5 * batch + 5))
    time.sleep(0.02)
    assert len(given) == 15
    taken.close()


def test_latest_keeps_the_newest_and_counts_the_others() -> None:
    begun, read = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        yield 0
        begun.wait(10)
        yield from range(1, 100)
        read.set()

    taken = reader(source(), 3, 0.0, "latest")
    assert items(taken.take(1)) == [0]
    begun.set()
    assert read.wait(10)
    assert [(one.place, one.item) for one in taken.take(3)] == [(97, 97), (98, 98), (99, 99)]
    assert taken.dropped == 96
    assert taken.take(3) == []


@pytest.mark.parametrize("policy", ["every", "latest"])
def test_closing_wakes_who_waits_while_the_source_still_does_not_answer(policy: Any) -> None:
    gate = Gate()
    taken = reader(gate, 4, policy=policy)
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(taken.take(4)))
    waiting.start()
    taken.close()
    waiting.join(10)
    assert found == [[]]
    assert taken.over
    assert taken.closed
    gate.left.set()
    gate.open()


def test_the_thread_that_was_left_behind_ends_with_the_next_item() -> None:
    before, gate = set(threading.enumerate()), Gate()
    taken = reader(gate, 2)
    gate.open()
    taken.take(2, 0.0)
    (thread,) = (new for new in threading.enumerate() if new not in before)
    taken.close()
    gate.open()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("pace", "message"),
    [
        ((0, None, "every"), "batch_size=0"),
        ((4, -1.0, "every"), "max_wait_ms=-1.0"),
        ((4, float("nan"), "every"), "max_wait_ms=nan"),
        ((4, 5.0, "newest"), "policy 'newest' is unknown; choose every, latest"),
    ],
)
def test_a_pace_that_cannot_be(pace: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Pace.of(*pace)
