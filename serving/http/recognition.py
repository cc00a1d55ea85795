"""`POST /recognize`: what pictures show, or what is in boxes of one."""

from __future__ import annotations

import math
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from rar.runtime import Result
from rar.runtime.detection.confidence import log_probabilities
from rar.runtime.errors import InputError

from ..row import to_row
from .reading import boxes_of, options, read
from .service import answer, service


async def recognize(request: Request) -> Response:
    """Answers with one row a picture, or a box; 422 where none of them could be read."""
    own = service(request)
    brought = await read(request, own.limits)
    ask, seconds = options(brought.fields, own.limits, ("boxes",))
    boxes = boxes_of(brought.fields.get("boxes"), own.limits)
    if boxes is not None and len(brought.pictures) > 1:
        raise InputError(f"boxes are those of one picture, and here are {len(brought.pictures)}")
    answers = await own.answer(request, brought.pictures, ask, seconds, boxes)
    results = [result for one in answers for result in one.results]
    rows = [{**to_row(result, own.recognizer.provider), "probabilities": _probabilities(result)} for result in results]
    content = {
        "results": rows,
        "waited_ms": 1e3 * max(one.waited for one in answers),
        "batch": max(one.batch for one in answers),
    }
    errors = [row["error"] for row in rows if row["error"] is not None]
    if len(errors) < len(rows):
        return answer(content)
    return answer({"error": errors[0], **content}, HTTPStatus.UNPROCESSABLE_ENTITY)


def _probabilities(result: Result) -> list[float]:
    """Of each candidate, in their final order; as `Result.probability` is of the best."""
    if not result.candidates:
        return []
    logs = log_probabilities(result.candidates, result.sharpness)
    return [math.exp(logs[candidate.label]) for candidate in result.candidates]
