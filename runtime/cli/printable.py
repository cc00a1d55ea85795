"""Untrusted text, made safe for a terminal."""

from __future__ import annotations

import json
import math
from typing import Any


def printable(text: str) -> str:
    """A label or path with control characters escaped: it is untrusted and must not steer the terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def json_line(record: dict[str, Any]) -> str:
    """A record as one line of JSON (RFC 8259) that is safe for a terminal, too.

    Characters that are not printable, such as control and bidirectional ones, are escaped, which JSON readers undo.
    Numbers that JSON does not have, infinity and NaN, become null.
    """
    line = json.dumps(finite(record), ensure_ascii=False, allow_nan=False)
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in line)


def finite(value: Any) -> Any:
    """A value of JSON with null for numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    return [finite(one) for one in value] if isinstance(value, (list, tuple)) else value
