"""Pictures of several requests share a batch. It is cut when the model becomes free, and never while it is busy.

A batch that is cut by time waits for the model as it is, while pictures that come meanwhile must wait for the next. So
threads that each answer one batch at a time take what is there when they are ready, up to the size of a batch: alone, a
picture waits for nobody; under load, batches are whole.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from threading import Condition, Thread
from time import monotonic
from typing import Any

from rar.runtime import Frame, Recognizer, Result
from rar.runtime.errors import RarError

from .limits import RefusalError

_LOG = logging.getLogger("rar.serving")

Boxes = tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Ask:
    """What is asked of a picture; only those that ask the same share a batch. See `rar.runtime.loop.Asked`.

    Attributes:
        timely: Whether a ranking that would come too late is left out.
    """

    k: int | None = None
    rank: str | None = None
    gate: str = "off"
    labels: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None
    unknown: str = "answer"
    timely: bool = False

    def words(self, left: float) -> dict[str, Any]:
        """The keywords for the recognizer; `left` is in seconds."""
        deadline = max(1.0, 1e3 * left) if self.timely else None
        return {
            **{"k": self.k, "rank": self.rank, "gate": self.gate, "labels": self.labels, "tags": self.tags},
            **{"unknown": self.unknown, "deadline_ms": deadline},
        }


@dataclass(frozen=True)
class Answered:
    """A picture's answer.

    Attributes:
        results: One, or one for each of its boxes.
        waited: Seconds until its batch was picked up.
        batch: How many pictures it shared that batch with, itself counted.
    """

    results: Sequence[Result]
    waited: float
    batch: int


@dataclass(eq=False)
class _Waiting:
    """A picture that waits; `future` belongs to `loop`, and is cancelled when nobody wants the answer any more."""

    picture: bytes
    boxes: Boxes | None
    ask: Ask
    until: float
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Answered]
    since: float = field(default_factory=monotonic)


class Batcher:
    """Answers pictures of many requests with one recognizer.

    Args:
        recognizer: Stays open until the batcher is closed.
        size: Pictures of a batch.
        workers: Batches that are answered side by side.
        queue: Pictures that may wait.
    """

    def __init__(self, recognizer: Recognizer, size: int, workers: int, queue: int) -> None:
        self._recognizer = recognizer
        self._size = size
        self._most = queue
        self._changed = Condition()
        self._queue: deque[_Waiting] = deque()
        self._closed = False
        self._pace = 0.1  # seconds a picture, of late
        self._threads = [Thread(target=self._work, name=f"rar-answer-{i}") for i in range(workers)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Pictures that wait."""
        return len(self._queue)

    async def answer(
        self, pictures: Sequence[bytes], ask: Ask, seconds: float, boxes: Sequence[Boxes] | None = None
    ) -> list[Answered]:
        """Answers a request's pictures, in order. If it is cancelled, those that still wait are dropped.

        Args:
            pictures: The files' bytes.
            ask: What is asked of them.
            seconds: After which nobody waits for the answer any more.
            boxes: The boxes in each picture that are recognised instead of the whole; None for none.

        Raises:
            RefusalError: There is no room, or no answer in time.
            RarError: As `Recognizer.recognize` and `recognize_regions`.
        """
        loop, until = asyncio.get_running_loop(), monotonic() + seconds
        own = [None] * len(pictures) if boxes is None else boxes
        items = [_Waiting(p, b, ask, until, loop, loop.create_future()) for p, b in zip(pictures, own, strict=True)]
        self._put(items)
        try:
            return await asyncio.wait_for(asyncio.gather(*(item.future for item in items)), seconds)
        except asyncio.TimeoutError:
            raise self._busy(f"not answered within {seconds:g} s; send fewer pictures, or later") from None
        finally:
            for item in items:
                item.future.cancel()

    def close(self) -> None:
        """Answers what waits, and ends the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _busy(self, message: str) -> RefusalError:
        """A refusal that says when the pictures that wait now will be answered."""
        return RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, message, max(1.0, len(self._queue) * self._pace))

    def _put(self, items: Sequence[_Waiting]) -> None:
        with self._changed:
            if self._closed:
                raise RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, "the server is ending; ask another one", 5)
            waiting = sum(not item.future.cancelled() for item in self._queue)
            if waiting + len(items) > self._most:
                raise self._busy(f"{waiting} pictures wait already, and {self._most} may; try again later")
            self._queue.extend(items)
            self._changed.notify()

    def _take(self) -> list[_Waiting]:
        """The longest waiting picture and those that ask the same, up to a batch; none at the end."""
        with self._changed:
            while True:
                while self._queue and self._queue[0].future.cancelled():
                    self._queue.popleft()
                if self._queue or self._closed:
                    break
                self._changed.wait()
            batch: list[_Waiting] = []
            left: deque[_Waiting] = deque()
            for item in self._queue:
                if item.future.cancelled():
                    continue
                fits = not batch or (item.ask == batch[0].ask and (item.boxes is None) == (batch[0].boxes is None))
                (batch if fits and len(batch) < self._size else left).append(item)
            self._queue = left
            if left:
                self._changed.notify()
            return batch

    def _work(self) -> None:
        while batch := self._take():
            start = monotonic()
            try:
                results = self._results(batch, min(item.until for item in batch) - start)
            except Exception as error:
                if not isinstance(error, RarError):
                    _LOG.exception("a batch of %d pictures failed", len(batch))
                _tell(batch, error)
                continue
            answers = [
                Answered(found, start - item.since, len(batch)) for item, found in zip(batch, results, strict=True)
            ]
            self._pace += 0.2 * ((monotonic() - start) / len(batch) - self._pace)
            _tell(batch, answers)

    def _results(self, batch: Sequence[_Waiting], left: float) -> list[list[Result]]:
        words = batch[0].ask.words(left)
        if batch[0].boxes is None:
            pictures = [item.picture for item in batch]
            return [[result] for result in self._recognizer.stream(pictures, batch_size=self._size, **words)]
        frames = [Frame(item.picture, item.boxes or ()) for item in batch]
        return list(self._recognizer.stream_regions(frames, **words))


def _tell(batch: Sequence[_Waiting], answers: Sequence[Answered] | Exception) -> None:
    """Hands answers, or the error of all, to those that wait for them."""

    def tell(items: Sequence[tuple[_Waiting, Answered | Exception]]) -> None:
        for item, answer in items:
            if item.future.done():
                continue
            if isinstance(answer, Exception):
                item.future.set_exception(answer)
            else:
                item.future.set_result(answer)

    told = [(item, answers if isinstance(answers, Exception) else answers[i]) for i, item in enumerate(batch)]
    try:
        batch[0].loop.call_soon_threadsafe(tell, told)
    except RuntimeError:  # the server has ended, and nobody waits
        _LOG.debug("answers came after the end")
