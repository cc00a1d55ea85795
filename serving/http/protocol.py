"""The server's connections: a client that sends its request's head too slowly loses its own, and so do too many."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .limits import Limits

_FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
# Seconds that a connection stays open for the client's next request.
_KEEP_ALIVE = 15


def protocol(limits: Limits) -> type[H11Protocol]:
    """Uvicorn's protocol within the limits."""

    class Limited(H11Protocol):
        """A connection.

        uvicorn ends one that is idle between two requests. It waits without end for a head that does not come whole.
        """

        late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self._end(_FULL)
            else:
                self._expect_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_waiting()
            elif self.late is None and not self.transport.is_closing():
                self._expect_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _expect_head(self) -> None:
            self.late = self.loop.call_later(limits.slow, self._end, _LATE)

        def _stop_waiting(self) -> None:
            if self.late is not None:
                self.late.cancel()
                self.late = None

        def _end(self, told: bytes) -> None:
            self.late = None
            if not self.transport.is_closing():
                self.transport.write(told)
                self.transport.close()

    return Limited


class Server(uvicorn.Server):
    """uvicorn's server, which ends with status 0 when it is told to end and has answered what was asked."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, which then sends the signal to itself once more."""
        with contextlib.suppress(KeyboardInterrupt), super().capture_signals():
            yield
            self._captured_signals.clear()


def configured(app: Any, limits: Limits, host: str, port: int, certificate: tuple[str, str] | None) -> Server:
    """A server of an application.

    Args:
        app: It.
        limits: What is taken.
        host: Where it listens.
        port: Likewise; 0 for any.
        certificate: The files of the certificate and its key, for HTTPS; None for HTTP.
    """
    cert, key = certificate or (None, None)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol(limits),
        ws="none",
        lifespan="off",
        access_log=False,
        server_header=False,
        log_level="warning",
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(max(1, limits.drain)),
        ssl_certfile=cert,
        ssl_keyfile=key,
    )
    return Server(config)
