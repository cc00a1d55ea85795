"""Recognition as a Ray Serve application: pictures over HTTP, batches of what comes together, on all nodes.

    serve run rar.serving.app:app bundle=/srv/bundle k=5 replicas=2
    curl --data-binary @cat.jpg http://127.0.0.1:8000/

The answer is one row as JSON (`rar.serving.row`); a picture that cannot be read has the status 422, one too large
413. Each node has the bundle at the same path, and each replica follows the changes of its node's memory; `change`
changes it on all nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response

from rar.runtime import Recognizer
from rar.runtime.cli.printable import json_line
from rar.runtime.errors import InputError, RarError
from rar.runtime.loop import Asked

from .row import Row, to_row

# A batch is what came while the one before was answered, so a larger one gains little.
_BATCH = 16
_MOST_BYTES = 64 << 20
_CHANGES = ("add", "remove", "relabel")


class Recognition:
    """One replica.

    Args:
        bundle: The bundle's folder, at the same path on each node.
        opened: Further arguments of `Recognizer.open`.
        asked: Arguments of `Recognizer.recognize`.
    """

    def __init__(self, bundle: str, opened: Mapping[str, Any], asked: Asked) -> None:
        self._recognizer = Recognizer.open(bundle, **opened)
        self._asked = asked

    async def __call__(self, request: Request) -> Response:
        """Answers one picture, the request's body."""
        picture = bytearray()
        async for chunk in request.stream():
            picture += chunk
            if len(picture) > _MOST_BYTES:
                return _answer({"error": f"more than {_MOST_BYTES} bytes; send a smaller picture"}, 413)
        if not picture:
            return _answer({"error": "no picture; send its bytes as the body"}, 400)
        row: Row = await self.rows(bytes(picture))
        return _answer({**row}, 200 if row["error"] is None else 422)

    @serve.batch(max_batch_size=_BATCH, batch_wait_timeout_s=0.0)  # type: ignore[untyped-decorator]
    async def rows(self, pictures: list[bytes]) -> list[Row]:
        """Answers what came together.

        It blocks on purpose: while it does, no batch is cut, and the next one is all that came meanwhile. In a thread
        of its own, batches would be cut by time, and wait; that halved the requests a second.
        """
        recognizer = self._recognizer
        results = recognizer.stream(pictures, batch_size=_BATCH, **self._asked)
        return [to_row(result, recognizer.provider) for result in results]

    def home(self) -> tuple[str, str]:
        """The node, and the replica on it."""
        return ray.get_runtime_context().get_node_id(), serve.get_replica_context().replica_id.unique_id

    def change(self, chosen: Collection[str], what: str, arguments: tuple[Any, ...]) -> str | None:
        """Changes this node's memory, if it is this replica's turn; says what went wrong."""
        node, replica = self.home()
        if replica not in chosen:
            return None
        try:
            getattr(self._recognizer.memory, what)(*arguments)
        except RarError as error:
            return f"node {node[:8]}: {error}"
        finally:
            self._recognizer.memory.close()  # gives back the lock: the next change may be another replica's
        return None


def app(arguments: Mapping[str, str]) -> serve.Application:
    """The application, for `serve run` and `serve.run`.

    Args:
        arguments: `bundle`, and where wanted `k`, `rank`, `provider`, `threads` of a replica (1), and `replicas` (1).

    Raises:
        InputError: One is missing, unknown, or no number.
    """
    numbers = {"k": None, "threads": 1, "replicas": 1}
    if unknown := set(arguments) - {*numbers, "bundle", "rank", "provider"}:
        raise InputError(f"{unknown.pop()}: is no argument; give bundle, k, rank, provider, threads, replicas")
    if "bundle" not in arguments:
        raise InputError("give bundle=FOLDER")
    try:
        k, threads, replicas = (
            default if name not in arguments else int(arguments[name]) for name, default in numbers.items()
        )
    except ValueError as error:
        raise InputError(f"k, threads and replicas are whole numbers ({error})") from error
    deploy = serve.deployment(
        name="recognition",
        max_ongoing_requests=4 * _BATCH,
        num_replicas=replicas,
        ray_actor_options={"num_cpus": threads},
    )
    opened = {"provider": arguments.get("provider", "auto"), "threads": threads}
    return deploy(Recognition).bind(arguments["bundle"], opened, {"k": k, "rank": arguments.get("rank")})


def change(handle: DeploymentHandle, what: str, *arguments: Any) -> None:
    """Changes the memory of each node's bundle once; all replicas follow.

    Example:
        >>> change(serve.get_app_handle("default"), "add", [picture], "my mug")

    Args:
        handle: Of the application.
        what: `add`, `remove` or `relabel`.
        *arguments: As that method of `Memory` takes them.

    Raises:
        InputError: There is no such change.
        RarError: It failed on a node; the message names it. Others may have changed.
    """
    if what not in _CHANGES:
        raise InputError(f"{what!r} is no change; choose {', '.join(_CHANGES)}")
    chosen = dict(handle.broadcast("home").results())
    told = handle.broadcast("change", list(chosen.values()), what, arguments).results()
    if wrong := [one for one in told if one is not None]:
        raise RarError(f"{len(wrong)} of {len(chosen)} nodes did not change: {'; '.join(wrong)}")


def _answer(content: dict[str, Any], status: int) -> Response:
    return Response(json_line(content), status, media_type="application/json")
