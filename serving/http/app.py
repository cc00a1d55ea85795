"""The routes put together."""

from __future__ import annotations

import json
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from rar.runtime.rank.rankers import RANKS

from . import inference, memory, recognition
from .guard import Guard
from .limits import Keys
from .metrics import CONTENT_TYPE
from .service import Service, answer, service

PAGE = Path(__file__).resolve().parents[1] / "page"


def application(own: Service, keys: Keys, names: tuple[str, ...]) -> Starlette:
    """The application of one service.

    Args:
        own: What it answers with.
        keys: Who may ask.
        names: What it may be called; see `Guard`.
    """
    guard = Middleware(Guard, limits=own.limits, keys=keys, names=names, metrics=own.metrics)
    app = Starlette(routes=routes(), middleware=[guard], exception_handlers={HTTPException: _told})
    app.state.service = own
    return app


def routes() -> list[BaseRoute]:
    """What can be asked."""
    models = "/v2/models/{name}"
    versions = (models, models + "/versions/{version}")
    return [
        Route("/", home),
        Mount("/page", StaticFiles(directory=PAGE), name="page"),
        Route("/openapi.json", described),
        Route("/healthz", healthy),
        Route("/metrics", measured),
        Route("/recognize", recognition.recognize, methods=["POST"]),
        Route("/memory", memory.listing),
        Route("/memory", memory.add, methods=["POST"]),
        Route("/memory/{label:path}", memory.entries),
        Route("/memory/{label:path}", memory.remove, methods=["DELETE"]),
        Route("/memory/{label:path}", memory.relabel, methods=["PATCH"]),
        Route("/thumbnail", memory.thumbnail),
        Route("/v2", inference.server),
        Route("/v2/health/live", inference.live),
        Route("/v2/health/ready", inference.ready),
        *(Route(path, inference.model) for path in versions),
        *(Route(path + "/ready", inference.model_ready) for path in versions),
        *(Route(path + "/infer", inference.infer, methods=["POST"]) for path in versions),
    ]


async def home(request: Request) -> Response:
    """The page."""
    return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})


async def described(request: Request) -> Response:
    """What can be asked, as OpenAPI."""
    return answer(openapi())


@lru_cache(1)
def openapi() -> dict[str, object]:
    """The description that is shipped."""
    found: dict[str, object] = json.loads((PAGE / "openapi.json").read_text(encoding="utf-8"))
    return found


async def healthy(request: Request) -> Response:
    """That it answers, and with what."""
    own = service(request)
    content = {
        "status": "ok",
        "provider": own.recognizer.provider,
        "rank": own.recognizer.default_rank,
        "ranks": list(RANKS),
        "classes": own.recognizer.memory.classes,
    }
    return answer(content)


async def measured(request: Request) -> Response:
    """What was counted, for Prometheus."""
    own = service(request)
    own.metrics.waiting.set(own.batcher.waiting)
    own.metrics.classes.set(own.recognizer.memory.classes)
    return Response(own.metrics.text(), headers={"content-type": CONTENT_TYPE})


async def _told(request: Request, error: Exception) -> Response:
    """What Starlette refuses itself, told as all else is."""
    assert isinstance(error, HTTPException)  # noqa: S101  # it is registered for these
    messages = {
        HTTPStatus.NOT_FOUND: "there is nothing here; see /openapi.json",
        HTTPStatus.METHOD_NOT_ALLOWED: "this cannot be done here; see /openapi.json",
    }
    message = messages.get(HTTPStatus(error.status_code), error.detail)
    return answer({"error": message}, error.status_code, dict(error.headers or {}))
