"""The Open Inference Protocol, version 2, over HTTP: what the clients of KServe and Triton speak.

https://github.com/kserve/open-inference-protocol, with the extension for binary data: tensors after the JSON, whose
length is in a header.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from rar.runtime import Result
from rar.runtime.cli.printable import finite
from rar.runtime.errors import InputError

from ..row import to_row
from .limits import RefusalError
from .reading import from_base64, json_object, options
from .service import Service, answer, service

_HEAD = "inference-header-content-length"
_VERSION = "1"
# As `rar-export triton` calls them, so that one client asks either server; -1 is the number of pictures.
_INPUT = "IMAGE"
_OUTPUTS = {"LABEL": "BYTES", "SCORE": "FP32", "PROBABILITY": "FP32", "ERROR": "BYTES", "RESULT": "BYTES"}
_SHAPE = [-1, 1]


async def server(request: Request) -> Response:
    """What this server is."""
    from importlib.metadata import version

    return answer({"name": "rar-serve", "version": version("rar-runtime"), "extensions": ["binary_tensor_data"]})


async def live(request: Request) -> Response:
    """That it lives."""
    return answer({"live": True})


async def ready(request: Request) -> Response:
    """That it answers: it listens only when the bundle is open."""
    return answer({"ready": True})


async def model(request: Request) -> Response:
    """What the model takes and gives."""
    own = _asked(request)
    outputs = [{"name": name, "datatype": kind, "shape": _SHAPE} for name, kind in _OUTPUTS.items()]
    inputs = [{"name": _INPUT, "datatype": "BYTES", "shape": _SHAPE}]
    return answer({"name": own.name, "versions": [_VERSION], "platform": "rar", "inputs": inputs, "outputs": outputs})


async def model_ready(request: Request) -> Response:
    """That the model answers."""
    return answer({"name": _asked(request).name, "ready": True})


async def infer(request: Request) -> Response:
    """Answers a batch of encoded pictures."""
    own = _asked(request)
    body = await request.body()
    told = request.headers.get(_HEAD)
    if told is not None and not (told.isdigit() and int(told) <= len(body)):
        raise RefusalError(HTTPStatus.BAD_REQUEST, f"{_HEAD} is {told!r:.40}, of a body of {len(body)} bytes")
    length = len(body) if told is None else int(told)
    head = json_object(body[:length])
    parameters = _object(head.get("parameters", {}), "parameters")
    binary = parameters.pop("binary_data_output", False) is True
    pictures = _pictures(head, memoryview(body)[length:])
    if not 0 < len(pictures) <= own.limits.pictures:
        raise RefusalError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"send 1 to {own.limits.pictures} pictures")
    ask, seconds = options(parameters, own.limits)
    wanted = list(_wanted(head, binary))
    answers = await own.answer(request, pictures, ask, seconds)
    tensors = _tensors([one.results[0] for one in answers], own.recognizer.provider)
    outputs, tail = [], b""
    for name, as_bytes in wanted:
        array, kind = tensors[name], _OUTPUTS[name]
        output: dict[str, Any] = {"name": name, "datatype": kind, "shape": list(array.shape)}
        if as_bytes:
            packed = _packed(array, kind)
            output["parameters"] = {"binary_data_size": len(packed)}
            tail += packed
        else:
            output["data"] = array.ravel().tolist()
        outputs.append(output)
    content = {"model_name": own.name, "model_version": _VERSION, "outputs": outputs}
    if isinstance(head.get("id"), str):
        content["id"] = head["id"]
    if not tail:
        return answer(content)
    text = json.dumps(finite(content), allow_nan=False).encode()
    return Response(text + tail, headers={_HEAD: str(len(text))}, media_type="application/octet-stream")


def _asked(request: Request) -> Service:
    own, given = service(request), request.path_params
    if given["name"] != own.name or given.get("version", _VERSION) != _VERSION:
        raise RefusalError(HTTPStatus.NOT_FOUND, f"the model here is {own.name!r}, version {_VERSION}")
    return own


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RefusalError(HTTPStatus.BAD_REQUEST, f"{what} are no object of JSON")
    return dict(value)


def _pictures(head: Mapping[str, Any], tail: memoryview) -> list[bytes]:
    inputs = head.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise RefusalError(HTTPStatus.BAD_REQUEST, f"give one input, `{_INPUT}`")
    given = _object(inputs[0], "inputs")
    shape, data = given.get("shape"), given.get("data")
    if given.get("name") != _INPUT or given.get("datatype") != "BYTES":
        raise RefusalError(HTTPStatus.BAD_REQUEST, f"the input is `{_INPUT}` of BYTES: pictures as their files are")
    size = _object(given.get("parameters", {}), "parameters").get("binary_data_size")
    if size is not None:
        if type(size) is not int or size != len(tail):
            raise RefusalError(
                HTTPStatus.BAD_REQUEST, f"binary_data_size is {size!r:.40}, and {len(tail)} bytes follow"
            )
        pictures = list(_unpacked(tail))
    elif isinstance(data, list):
        pictures = [from_base64(one) for one in data]
    else:
        raise RefusalError(HTTPStatus.BAD_REQUEST, "the input has neither `data` nor `binary_data_size`")
    if shape not in ([len(pictures)], [len(pictures), 1]):
        raise RefusalError(
            HTTPStatus.BAD_REQUEST, f"the shape is {shape!r:.80}, and there are {len(pictures)} pictures"
        )
    return pictures


def _wanted(head: Mapping[str, Any], binary: bool) -> Iterator[tuple[str, bool]]:
    """The outputs, and which of them as bytes."""
    outputs = head.get("outputs")
    if not outputs:
        yield from ((name, binary) for name in _OUTPUTS)
        return
    if not isinstance(outputs, list):
        raise RefusalError(HTTPStatus.BAD_REQUEST, "outputs are no list")
    for output in outputs:
        given = _object(output, "outputs")
        if given.get("name") not in _OUTPUTS:
            raise RefusalError(HTTPStatus.BAD_REQUEST, f"no output {given.get('name')!r:.80}; there are {[*_OUTPUTS]}")
        parameters = _object(given.get("parameters", {}), "parameters")
        yield given["name"], parameters.get("binary_data", binary) is True


def _tensors(results: Sequence[Result], provider: str) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs, [N, 1]; where there is an error texts are empty, and numbers are none."""
    rows = [to_row(result, provider) for result in results]
    columns: dict[str, list[Any]] = {
        "LABEL": [row["label"] or "" for row in rows],
        "SCORE": [row["score"] for row in rows],
        "PROBABILITY": [row["probability"] for row in rows],
        "ERROR": [row["error"] or "" for row in rows],
        "RESULT": [json.dumps(finite(row), ensure_ascii=False) for row in rows],
    }
    kinds = {"BYTES": np.dtype(object), "FP32": np.dtype(np.float32)}
    return {name: np.array(values, kinds[_OUTPUTS[name]])[:, None] for name, values in columns.items()}


def _packed(array: np.ndarray[Any, Any], kind: str) -> bytes:
    if kind != "BYTES":
        return array.astype("<f4").tobytes()
    texts = [text.encode("utf-8", "replace") for text in array.ravel().tolist()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def _unpacked(tail: memoryview) -> Iterator[bytes]:
    start = 0
    while start < len(tail):
        length = int.from_bytes(tail[start : start + 4], "little")
        if start + 4 + length > len(tail):
            raise InputError("a picture's bytes are cut off")
        yield bytes(tail[start + 4 : start + 4 + length])
        start += 4 + length
