"""What an ONNX graph would have ONNX Runtime open: files with weights and compiled code; read without `onnx`.

A graph may come from a stranger, and ONNX Runtime before 1.24 opens files outside the graph's folder if the graph names
them. A node `EPContext` holds or names an engine, compiled code that the TensorRT providers load with the graph. Only
messages that can hold a tensor or a node are walked, by their length prefixes. All else, such as weights inside the
graph, is skipped without being read.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import BundleError
from .regular import open_regular

# onnx.proto3: the fields of each message in which a tensor or a node may lie, and what they hold.
_INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}
_KEY, _VALUE = 1, 2  # of an entry
_OPERATOR = 4  # of a node: its operator's name
_LOCATION = b"location"
COMPILED = "EPContext"  # providers look at the name alone, not at its domain
_COMPILED = COMPILED.encode()
# Up to this size it is faster to look for the words than to walk.
_SMALL = 4096
# protobuf's own limit of messages within messages.
_DEEPEST = 100
# More fields than any graph has, and a few seconds: language models have some ten thousand.
_MOST = 10_000_000


class _MalformedError(Exception):
    """The bytes are not valid protobuf."""


@dataclass(frozen=True)
class Contents:
    """What was found in a graph, in initializers and nodes, at any depth of sub-graphs and functions.

    Attributes:
        files: The files that tensors name, exactly as written, whether or not they are marked as external; valid names
            are relative to the graph.
        compiled: Whether a node holds compiled code.
    """

    files: frozenset[str]
    compiled: bool


def contents(path: Path) -> Contents:
    """Looks through a graph.

    Raises:
        BundleError: The file cannot be read, or is not a graph.
    """
    try:
        with (
            os.fdopen(open_regular(path, links=True), "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return _walk(data)
    except (OSError, ValueError) as error:  # ValueError: it is empty
        raise BundleError(f"{path}: cannot be read ({error}); copy the bundle again") from error
    except _MalformedError as error:
        raise BundleError(f"{path}: is no ONNX graph ({error}); export it again") from error


def _walk(data: mmap.mmap) -> Contents:
    names, compiled = set(), False
    fields = 0
    left = [(0, len(data), "model", 0)]
    while left:
        at, end, kind, depth = left.pop()
        inside = _INSIDE[kind]
        entry = {_KEY: b"", _VALUE: b""}
        while at < end:
            fields += 1
            if fields > _MOST:
                raise _MalformedError(f"more than {_MOST} fields")
            tag, at = _number(data, at, end)
            field, wire = tag >> 3, tag & 7
            if wire == 0:
                _, at = _number(data, at, end)
            elif wire == 1:
                at += 8
            elif wire == 5:
                at += 4
            elif wire == 2:
                size, start = _number(data, at, end)
                at = start + size
                if at > end:
                    break
                if kind == "entry" and field in entry:
                    entry[field] = data[start:at]
                elif kind == "node" and field == _OPERATOR:
                    compiled = compiled or data[start:at] == _COMPILED
                elif (inner := inside.get(field)) and (
                    size > _SMALL or data.find(_LOCATION, start, at) >= 0 or data.find(_COMPILED, start, at) >= 0
                ):
                    if depth == _DEEPEST:
                        raise _MalformedError(f"more than {_DEEPEST} messages one within the other")
                    left.append((start, at, inner, depth + 1))
            else:  # groups, which ONNX never used, and wire types that protobuf does not define
                raise _MalformedError(f"field {field} of a {kind} at byte {at} is of an unknown kind")
        if at > end:
            raise _MalformedError(f"a {kind} ends at byte {end} in the middle of a field")
        if entry[_KEY] == _LOCATION:
            names.add(os.fsdecode(entry[_VALUE]))
    return Contents(frozenset(names), compiled)


def _number(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A variable-length number, and the offset of its end."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise _MalformedError(f"the number before byte {at} does not end")
