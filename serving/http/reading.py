"""What a request brings: its pictures, in three forms, and what is asked of them."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from rar.runtime.errors import InputError
from rar.runtime.loop import GATES, UNKNOWN
from rar.runtime.rank.rankers import RANKS

from .batching import Ask, Boxes
from .limits import Limits, RefusalError

FORMS = "multipart/form-data, image/*, application/octet-stream or application/json"
# Labels or tags that a request may ask for.
_MOST_NAMES = 1000
# Bytes of a field that is no picture.
_FIELD = 1 << 16


@dataclass(frozen=True)
class Brought:
    """What a request brings.

    Attributes:
        pictures: The files' bytes.
        fields: All else that it says, in its address and in its body; a list where a name came more than once.
    """

    pictures: list[bytes]
    fields: Mapping[str, Any] = field(default_factory=dict)


async def read(request: Request, limits: Limits) -> Brought:
    """Reads a request.

    Raises:
        RefusalError: It has another type, too many pictures, or cannot be read.
        InputError: The same is said twice.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise RefusalError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the body is {encoding!r:.40}; send it uncompressed")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        pictures, fields = await _multipart(request, limits)
    elif kind == "application/json":
        pictures, fields = _json_pictures(await json_body(request), limits)
    elif kind.startswith("image/") or kind == "application/octet-stream":
        pictures, fields = [await request.body()], {}
    else:
        raise RefusalError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the body is {kind or 'of no type'!r:.80}; send {FORMS}")
    for name, value in _listed(request.query_params.multi_items()).items():
        if name in fields:
            raise InputError(f"{name!r:.80} is in the address and in the body; say it once")
        fields[name] = value
    if not pictures or not all(pictures):
        raise InputError("there is no picture in it" if not pictures else "a picture is empty")
    return Brought(pictures, fields)


async def json_body(request: Request) -> dict[str, Any]:
    """A request's body, an object of JSON.

    Raises:
        RefusalError: It is none.
    """
    return json_object(await request.body())


def json_object(content: bytes) -> dict[str, Any]:
    """An object of JSON.

    Raises:
        RefusalError: It is none.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RefusalError(HTTPStatus.BAD_REQUEST, f"the body is no JSON ({type(error).__name__})") from error
    if not isinstance(value, dict):
        raise RefusalError(HTTPStatus.BAD_REQUEST, "the body is no object of JSON")
    return value


def from_base64(text: object) -> bytes:
    """A picture's bytes.

    Raises:
        InputError: It is no base64.
    """
    if not isinstance(text, str):
        raise InputError("a picture in JSON is a text of base64")
    head, comma, rest = text.partition(",")
    try:
        # As a page's canvas gives it: data:image/jpeg;base64,...
        return base64.b64decode(rest if comma and head.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"a picture in JSON is no base64 ({error})") from error


def options(fields: Mapping[str, Any], limits: Limits, more: Collection[str] = ()) -> tuple[Ask, float]:
    """What is asked, and the seconds that there are for it.

    Args:
        fields: By name.
        limits: The seconds where nothing is said of them.
        more: Names that somebody else reads.

    Raises:
        InputError: A name is unknown, or a value.
    """
    known = {"k", "rank", "gate", "deadline_ms", "labels", "tags", "unknown", *more}
    if strange := [name for name in fields if name not in known]:
        raise InputError(f"the option {strange[0]!r:.80} is unknown; there are {', '.join(sorted(known))}")
    rank, gate = fields.get("rank"), fields.get("gate", "off")
    if rank is not None and rank not in RANKS:
        raise InputError(f"rank={rank!r:.80} is unknown; choose {', '.join(RANKS)}")
    if gate not in GATES:
        raise InputError(f"gate={gate!r:.80} is unknown; choose {', '.join(GATES)}")
    unknown = fields.get("unknown", "answer")
    if unknown not in UNKNOWN:
        raise InputError(f"unknown={unknown!r:.80} is not known; choose {', '.join(UNKNOWN)}")
    deadline = fields.get("deadline_ms")
    seconds = limits.timeout if deadline is None else number(deadline, "deadline_ms") / 1e3
    if not seconds > 0:
        raise InputError(f"deadline_ms={deadline!r:.80}; give more than 0")
    k = None if fields.get("k") is None else whole(fields["k"], "k")
    labels, tags = names(fields.get("labels"), "labels"), names(fields.get("tags"), "tags")
    return Ask(k, rank, gate, labels, tags, unknown, deadline is not None), min(seconds, limits.timeout)


def boxes_of(value: Any, limits: Limits) -> Boxes | None:
    """Boxes in a picture; None where there are none.

    Raises:
        InputError: They are no list of four numbers each, or too many.
    """
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise InputError("boxes are no JSON; give [[x0, y0, x1, y1], ...] in pixels") from error
    if not isinstance(value, list) or not 0 < len(value) <= limits.pictures:
        raise InputError(f"give 1 to {limits.pictures} boxes, [[x0, y0, x1, y1], ...]")
    if not all(isinstance(box, list) and len(box) == 4 for box in value):
        raise InputError("a box has four numbers: x0, y0, x1, y1 in pixels")
    read = [tuple(number(side, "a side of a box") for side in box) for box in value]
    return tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in read)


def names(value: Any, what: str) -> tuple[str, ...] | None:
    """Several names, or one; None for none.

    Raises:
        InputError: They are no texts, or too many.
    """
    if value is None:
        return None
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise InputError(f"{what} are a list of texts")
    if len(given) > _MOST_NAMES:
        raise InputError(f"{len(given)} {what}; {_MOST_NAMES} are the most")
    return tuple(given)


def whole(value: Any, what: str, least: int = 1, most: int = 1 << 31) -> int:
    """A whole number, as JSON has it or as it stands in an address.

    Raises:
        InputError: It is none, or out of range.
    """
    text = value if isinstance(value, str) else repr(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) < 12):
        raise InputError(f"{what}={text!r:.80}; give a whole number")
    if not least <= int(text) <= most:
        raise InputError(f"{what}={text}; give {least} to {most}")
    return int(text)


def number(value: Any, what: str) -> float:
    """A finite number.

    Raises:
        InputError: It is none.
    """
    try:
        found = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise InputError(f"{what} is {value!r:.80}; give a number")
    return found


def _json_pictures(content: dict[str, Any], limits: Limits) -> tuple[list[bytes], dict[str, Any]]:
    images = content.pop("images", None)
    if not isinstance(images, list):
        raise InputError("the JSON has no list `images` of pictures in base64")
    _check_count(len(images), limits)
    return [from_base64(image) for image in images], content


async def _multipart(request: Request, limits: Limits) -> tuple[list[bytes], dict[str, Any]]:
    parser = MultiPartParser(
        request.headers, request.stream(), max_files=limits.pictures, max_fields=_MOST_NAMES, max_part_size=_FIELD
    )
    parser.spool_max_size = limits.body  # the body is held anyway: no file is written for it
    try:
        form = await parser.parse()
    except MultiPartException as error:
        status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if "Too many" in error.message else HTTPStatus.BAD_REQUEST
        raise RefusalError(status, f"the form cannot be read: {error.message}") from error
    try:
        pictures = [value.file.read() for _, value in form.multi_items() if isinstance(value, UploadFile)]
        return pictures, _listed([(name, value) for name, value in form.multi_items() if isinstance(value, str)])
    finally:
        await form.close()


def _listed(items: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Texts by name; a list where a name came more than once."""
    found: dict[str, Any] = {}
    for name, value in items:
        before = found.get(name)
        found[name] = value if before is None else [*([before] if isinstance(before, str) else before), value]
    return found


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.pictures:
        raise RefusalError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"{count} pictures; {limits.pictures} are the most in one request",
        )
