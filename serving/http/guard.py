"""What every request passes before it is looked at: where it comes from, who sends it, how much and how slowly."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from http import HTTPStatus
from time import monotonic
from typing import Any

from rar.runtime.errors import RarError

from .limits import Keys, Limits, Rate, RefusalError, refusal
from .metrics import Metrics

_LOG = logging.getLogger("rar.serving")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

# The page asks for the key itself; a load balancer that asks whether the server lives has none.
_OPEN = ("/page/", "/healthz", "/v2/health/", "/openapi.json")
# Nothing from elsewhere is loaded or told where it came from, and nobody shows the page inside of theirs.
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}
# Seconds in which the rest of a refused body is read: a client that still writes would not see the answer.
_LINGER = 1.0


class ClientGone(Exception):  # noqa: N818  # nothing is wrong
    """The client hung up: nobody is there to be answered."""


class Guard:
    """Middleware that refuses what is over the limits, and gives every answer its headers.

    Args:
        app: What answers.
        limits: What is taken.
        keys: Who may ask.
        names: Names that the server may be called by where it has no keys, besides addresses and `localhost`.
        metrics: Where requests are counted.
    """

    def __init__(self, app: App, limits: Limits, keys: Keys, names: tuple[str, ...], metrics: Metrics) -> None:
        self._app = app
        self._limits = limits
        self._keys = keys
        self._names = names
        self._metrics = metrics
        self._rate = None if limits.rate is None else Rate(limits.rate)
        self._held = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, started = monotonic(), False
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        body = _Body(self, receive, headers)

        async def answered(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                given = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *given]
                self._metrics.requests.labels(_place(scope), str(message["status"])).inc()
            await send(message)

        try:
            self._check(scope, headers)
            body.check()
            await self._app(scope, body.receive, answered)
        except ClientGone:
            self._metrics.requests.labels(_place(scope), "gone").inc()
        except Exception as error:
            if not isinstance(error, RarError) or refusal(error).status == HTTPStatus.INTERNAL_SERVER_ERROR:
                _LOG.exception("%s %s failed", scope["method"], _place(scope))
            if started:
                raise
            told = error if isinstance(error, RarError) else RarError()
            await body.linger()
            await _refuse(answered, refusal(told))
        finally:
            body.release()
            self._metrics.seconds.labels(_place(scope)).observe(monotonic() - start)

    def hold(self, count: int) -> None:
        """Counts bytes of bodies that are held, or, with a minus, no longer."""
        self._held += count
        self._metrics.held.set(self._held)

    def check_room(self, count: int, held: int) -> None:
        """Checks that there is room for a body of so many bytes, of which some are held already.

        Raises:
            RefusalError: There is not.
        """
        if count > self._limits.body:
            raise RefusalError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"a request may have {self._limits.body} bytes; send fewer or smaller pictures",
            )
        if self._held + count - held > self._limits.held:
            raise RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, "too much is being sent at once; try again later", 1)

    @property
    def slow(self) -> float:
        """Seconds that a body may take."""
        return self._limits.slow

    def _check(self, scope: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        host = headers.get("host", "")
        if not self._keys and not _is_ours(host, self._names):
            # A page elsewhere whose name was made to point here could read and change everything.
            raise RefusalError(
                HTTPStatus.MISDIRECTED_REQUEST, f"this server is not called {host!r:.200}; start it with --name HOST"
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise RefusalError(HTTPStatus.FORBIDDEN, "pages of other servers may not ask this one")
        path = scope["path"]
        if self._rate is not None:
            self._rate.take(scope["client"][0] if scope.get("client") else "")
        if not self._keys or path == "/" or path.startswith(_OPEN):
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not given:
            raise RefusalError(HTTPStatus.UNAUTHORIZED, "an API key is needed: Authorization: Bearer KEY")
        if not self._keys.known(given):
            raise RefusalError(HTTPStatus.UNAUTHORIZED, "the API key is not known here")


class _Body:
    """A request's body as it comes in: its bytes are counted, and so is the time."""

    def __init__(self, guard: Guard, receive: Receive, headers: Mapping[str, str]) -> None:
        self._guard = guard
        self._receive = receive
        self._expects = headers.get("expect", "").lower() == "100-continue"
        self._told = headers.get("content-length", "")
        self._count = 0
        self._held = 0
        self._until = monotonic() + guard.slow
        self._over = False

    def check(self) -> None:
        """Checks the length that the head tells.

        Raises:
            RefusalError: It is too much.
        """
        if self._told.isdigit():
            self._guard.check_room(int(self._told), 0)

    async def receive(self) -> Message:
        """The next part of the body, and after it the client's end.

        Raises:
            RefusalError: It is too much, or comes too slowly.
            ClientGone: The client hung up.
        """
        if self._over:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._until - monotonic()))
        except asyncio.TimeoutError:
            raise RefusalError(
                HTTPStatus.REQUEST_TIMEOUT, f"the body did not come within {self._guard.slow:g} s; send less"
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        self._count += len(part)
        if self._count > self._held:
            self._guard.check_room(self._count, self._held)
            self._guard.hold(self._count - self._held)
            self._held = self._count
        self._over = not message.get("more_body", False)
        return message

    async def linger(self) -> None:
        """Reads on for a moment, for nothing."""
        if self._over or self._expects:
            return
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._discard(), _LINGER)

    async def _discard(self) -> None:
        while not self._over:
            message = await self._receive()
            self._over = message["type"] == "http.disconnect" or not message.get("more_body", False)

    def release(self) -> None:
        """The request is over."""
        self._guard.hold(-self._held)
        self._held = 0


def _is_ours(host: str, names: tuple[str, ...]) -> bool:
    """Whether a `Host` is an address, `localhost`, or one of the names."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() in ("localhost", *(one.lower() for one in names)):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _place(scope: Mapping[str, Any]) -> str:
    """What answers, by its name: what strangers type makes no new counters."""
    return str(getattr(scope.get("endpoint"), "__name__", "other"))


async def _refuse(send: Send, told: RefusalError) -> None:
    content = json.dumps({"error": str(told)}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(content)), "connection": "close"}
    if told.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(told.retry_after)))
    if told.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": int(told.status), "headers": raw})
    await send({"type": "http.response.body", "body": content})
