"""What the answers to requests share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from rar.runtime import Recognizer
from rar.runtime.cli.printable import finite

from .batching import Answered, Ask, Batcher, Boxes
from .guard import ClientGone
from .limits import Limits, RefusalError
from .metrics import Metrics
from .thumbnails import Thumbnails

T = TypeVar("T")

# Changes of the memory that wait for each other.
_CHANGES = 16


@dataclass
class Service:
    """One recognizer that is asked over HTTP.

    Attributes:
        recognizer: It.
        batcher: What asks it.
        limits: What is taken.
        metrics: What was counted.
        thumbnails: Small pictures of the memory's entries.
        name: The model's name in the Open Inference Protocol.
    """

    recognizer: Recognizer
    batcher: Batcher
    limits: Limits
    metrics: Metrics
    thumbnails: Thumbnails
    name: str
    _changing: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "rar-change"))
    _changes: int = 0

    async def answer(
        self, request: Request, pictures: list[bytes], ask: Ask, seconds: float, boxes: Boxes | None = None
    ) -> list[Answered]:
        """Answers pictures, unless the client hangs up.

        Raises:
            RefusalError, RarError: As `Batcher.answer`.
            ClientGone: The client hung up.
        """
        # Before anything waits: what does not fit the memory is told at once.
        self.recognizer.memory.check_k(ask.k, ask.labels, ask.tags)
        asked = self.batcher.answer(pictures, ask, seconds, None if boxes is None else [boxes])
        answers = await _unless_gone(request, asked)
        self.metrics.count(answers)
        return answers

    async def change(self, what: str, call: Callable[[], T]) -> T:
        """Changes the memory, one change after the other, and lets other processes change it afterwards.

        Raises:
            RefusalError: Too many changes wait.
            RarError: As the call.
        """
        if self._changes >= _CHANGES:
            raise RefusalError(
                HTTPStatus.SERVICE_UNAVAILABLE, "too many changes of the memory wait; try again later", 1
            )
        self._changes += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._changing, self._alone, what, call)
        finally:
            self._changes -= 1

    def _alone(self, what: str, call: Callable[[], T]) -> T:
        memory = self.recognizer.memory
        try:
            result = call()
            memory.save()
        finally:
            memory.close()
        self.metrics.changes.labels(what).inc()
        return result

    def close(self) -> None:
        """Ends the threads; what waits is answered first."""
        self._changing.shutdown()
        self.batcher.close()
        self.thumbnails.close()


def service(request: Request) -> Service:
    """The service that a request came to."""
    found: Service = request.app.state.service
    return found


def answer(content: Any, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None) -> Response:
    """A response of JSON; numbers that it does not have are null."""
    text = json.dumps(finite(content), ensure_ascii=False, allow_nan=False)
    return Response(text.encode("utf-8", "replace"), status, headers, "application/json")


async def _unless_gone(request: Request, asked: Awaitable[T]) -> T:
    """Waits for an answer, or for the client to hang up; then the answer is cancelled."""
    answering = asyncio.ensure_future(asked)
    gone = asyncio.ensure_future(_hang_up(request))
    try:
        await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise ClientGone
        return answering.result()
    finally:
        gone.cancel()
        answering.cancel()


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
