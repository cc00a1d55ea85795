"""What a server takes from strangers, and who may ask it: its limits, and how a refusal is told."""

from __future__ import annotations

import hmac
from collections import OrderedDict
from dataclasses import dataclass
from http import HTTPStatus
from time import monotonic

from rar.runtime.errors import BusyError, InputError, OutOfMemoryError, RarError

# Clients whose rate is remembered; one that is forgotten has its whole allowance again.
_CLIENTS = 4096


class RefusalError(RarError):
    """A request that is not answered.

    Args:
        status: The HTTP status.
        message: What is wrong and what to do.
        retry_after: Seconds after which it may be tried again; None where that would not help.
    """

    def __init__(self, status: HTTPStatus, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True)
class Limits:
    """What is taken, and how long anything may take.

    Attributes:
        body: Bytes of one request's body.
        held: Bytes of all requests' bodies together, while they are read and answered.
        pictures: Pictures of one request.
        queue: Pictures that wait to be answered.
        connections: Open connections.
        rate: Requests a second of one client; it may save up as many as two seconds give. None for any number.
        timeout: Seconds until a picture is answered; then it is refused.
        slow: Seconds that a client may take to send a request's head, and then its body.
        drain: Seconds that running requests have when the server is told to end.

    Raises:
        InputError: One is not above zero.
    """

    body: int = 32 << 20
    held: int = 256 << 20
    pictures: int = 32
    queue: int = 256
    connections: int = 512
    rate: float | None = None
    timeout: float = 30.0
    slow: float = 10.0
    drain: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise InputError(f"the limit of {name} is {value}; give more than zero")


class Rate:
    """Requests a second of each client: a bucket of tokens for each."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._most = max(1.0, 2 * rate)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> None:
        """Counts a request.

        Raises:
            RefusalError: The client asks too often.
        """
        now = monotonic()
        left, since = self._left.pop(client, (self._most, now))
        left = min(self._most, left + (now - since) * self._rate)
        self._left[client] = (max(left - 1, 0.0) if left >= 1 else left, now)
        if len(self._left) > _CLIENTS:
            self._left.popitem(last=False)
        if left < 1:
            raise RefusalError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"more than {self._rate:g} requests a second; ask less often",
                (1 - left) / self._rate,
            )


@dataclass(frozen=True)
class Keys:
    """The API keys that are accepted; without any, everyone who reaches the server may ask."""

    accepted: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.accepted)

    def known(self, given: str) -> bool:
        """Whether it is one of them; a key that is nearly right takes as long as any other."""
        return any(hmac.compare_digest(given.encode(), key.encode()) for key in self.accepted)


def refusal(error: RarError) -> RefusalError:
    """An error of the runtime as what a stranger is told; where it is the server's own fault, without its paths."""
    if isinstance(error, RefusalError):
        return error
    if isinstance(error, BusyError):
        return RefusalError(HTTPStatus.CONFLICT, "another process is changing the memory; try again when it is done", 5)
    if isinstance(error, OutOfMemoryError):
        return RefusalError(
            HTTPStatus.SERVICE_UNAVAILABLE, "the device is out of memory; send fewer pictures at once", 5
        )
    if isinstance(error, ValueError):  # InputError and ImageError
        return RefusalError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
    return RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR, "the bundle cannot do this; the server's log says why")
