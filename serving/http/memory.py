"""`/memory`: its classes are listed, taught, renamed and removed, and their pictures shown."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from rar.runtime.errors import InputError

from .limits import RefusalError
from .reading import json_body, names, read, whole
from .service import answer, service

# Classes of one listing, and pictures that it names of each.
_MOST, _USUAL, _SOURCES = 500, 50, 4


async def listing(request: Request) -> Response:
    """A page of the classes, with some of their pictures."""
    own, query = service(request), request.query_params
    _only(query.keys(), "start", "count", "contains")
    start = whole(query.get("start", "0"), "start", 0)
    count = whole(query.get("count", str(_USUAL)), "count", 1, _MOST)
    wanted = query.get("contains", "").casefold()
    memory = own.recognizer.memory

    def found() -> dict[str, Any]:
        labels = [label for label in memory.labels if wanted in label.casefold()]
        return {"total": len(labels), "start": start, "classes": [_class(label) for label in labels[start:][:count]]}

    def _class(label: str) -> dict[str, Any]:
        entries = memory.entries(label)
        pictures = [entry.source for entry in entries if entry.modality == "pictures"]
        texts = len(entries) - len(pictures)
        return {"label": label, "pictures": len(pictures), "texts": texts, "sources": pictures[-_SOURCES:]}

    return answer(await asyncio.to_thread(found))


async def entries(request: Request) -> Response:
    """All entries of a class."""
    own, label = service(request), request.path_params["label"]
    _only(request.query_params.keys())
    found = await asyncio.to_thread(own.recognizer.memory.entries, label)
    if not found:
        raise _unknown(label)
    return answer(
        {
            "label": label,
            "pictures": [entry.source for entry in found if entry.modality == "pictures"],
            "texts": [entry.source for entry in found if entry.modality == "texts"],
        }
    )


async def add(request: Request) -> Response:
    """Teaches pictures: one label for all of them, or one for each."""
    own = service(request)
    brought = await read(request, own.limits)
    _only(brought.fields, "labels")
    labels = names(brought.fields.get("labels"), "labels")
    count = len(brought.pictures)
    if labels is None or len(labels) not in (1, count):
        raise InputError(f"{len(labels or ())} labels for {count} pictures; give one for all, or one for each")
    every = labels * count if len(labels) == 1 else labels
    memory = own.recognizer.memory

    def taught() -> dict[str, Any]:
        before = set(memory.labels)
        sources = own.thumbnails.keep(brought.pictures)
        try:
            memory.add(brought.pictures, every, sources=sources)
        except BaseException:
            own.thumbnails.forget(sources)
            raise
        created = [label for label in memory.labels if label not in before]
        return {"labels": list(every), "sources": sources, "created": created}

    return answer(await own.change("add", taught), HTTPStatus.CREATED)


async def remove(request: Request) -> Response:
    """Removes a class, or those of its pictures whose sources are named."""
    own, label = service(request), request.path_params["label"]
    _only(request.query_params.keys(), "source")
    sources = request.query_params.getlist("source")
    memory = own.recognizer.memory

    def removed() -> dict[str, Any]:
        present = memory.entries(label)
        if label not in memory.labels:
            raise _unknown(label)
        memory.remove(label, sources=sources or None)
        gone = sources or [entry.source for entry in present if entry.modality == "pictures"]
        own.thumbnails.forget(gone)
        return {"label": label, "removed": len(gone), "class": label not in memory.labels}

    return answer(await own.change("remove", removed))


async def relabel(request: Request) -> Response:
    """Renames a class, or merges it into another."""
    own, label = service(request), request.path_params["label"]
    content = await json_body(request)
    _only(content, "label")
    new = content.get("label")
    if not isinstance(new, str):
        raise InputError('give {"label": "the new name"}')
    memory = own.recognizer.memory

    def renamed() -> dict[str, Any]:
        if label not in memory.labels:
            raise _unknown(label)
        before = len(memory.labels)
        memory.relabel(label, new)
        return {"label": new, "merged": len(memory.labels) < before}

    return answer(await own.change("relabel", renamed))


async def thumbnail(request: Request) -> Response:
    """The small picture of an entry's source."""
    own = service(request)
    _only(request.query_params.keys(), "source")
    found = await own.thumbnails.get(request.query_params.get("source", ""))
    if found is None:
        raise RefusalError(
            HTTPStatus.NOT_FOUND, "there is no picture of this source; start the server with --pictures DIR"
        )
    return Response(found, headers={"cache-control": "private, max-age=3600"}, media_type="image/jpeg")


def _unknown(label: str) -> RefusalError:
    return RefusalError(HTTPStatus.NOT_FOUND, f"the memory has no class {label!r:.200}")


def _only(given: Any, *known: str) -> None:
    if unknown := [name for name in given if name not in known]:
        raise InputError(f"the option {unknown[0]!r:.80} is unknown; there are {', '.join(known) or 'none'}")
