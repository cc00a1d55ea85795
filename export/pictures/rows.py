"""Rows of labelled pictures from CSV and JSONL files, as spreadsheets and scripts write them; each with its line."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rar.runtime.errors import InputError
from rar.runtime.picture.formats import suffixes

_NEEDED = ("path", "label")
_DELIMITERS = (",", ";", "\t", "|")


def read_csv(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a CSV by its head's columns, each with the line it begins in.

    The delimiter is the one that the head's `path` and `label` are separated by: comma, semicolon, tab or bar; or what
    a first line such as `sep=;` says.

    Raises:
        InputError: The file cannot be read, lacks a column, or a row is no CSV or has more fields than the head.
    """
    lines = read_text(file)
    skipped = 0
    if lines.startswith("sep=") and lines[5:6] in ("\n", "\r"):
        delimiters: tuple[str, ...] = (lines[4],)
        lines, skipped = lines.partition("\n")[2], 1
    else:
        delimiters = _DELIMITERS
    delimiter = _delimiter(lines, delimiters, file)
    # A stream and not lines: a quoted field may hold a line break.
    text = io.StringIO(lines, newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True, skipinitialspace=True)
    head: list[str] = []
    while True:
        line = reader.line_num + 1 + skipped
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"{file}, line {line}: not CSV ({error}); a quote opens a field and must close it"
            ) from error
        if row is None:
            return
        if not head:
            head = [name.strip() for name in row]
        elif row:
            _check(row, head, delimiter, f"{file}, line {line}")
            yield line, dict(zip(head, row, strict=False))


def read_jsonl(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a JSONL, each with its line.

    Raises:
        InputError: The file cannot be read, or a line is no object.
    """
    for line, text in enumerate(read_text(file).split("\n"), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file}, line {line}: not JSON ({error}); correct the line") from error
        if not isinstance(row, dict):
            raise InputError(f"{file}, line {line}: must be an object with path and label")
        yield line, row


def read_text(file: Path) -> str:
    """A file's text: UTF-8, or UTF-16 that says so at its beginning, as spreadsheets write it.

    Raises:
        InputError: The file cannot be read, or is of another encoding; the line is named.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check the path") from error
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{file}, line {line}: cannot be read, it is not UTF-8 text ({error}); save it as UTF-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _delimiter(text: str, choices: tuple[str, ...], file: Path) -> str:
    """What separates the columns of a CSV's head."""
    first = text.partition("\n")[0]
    for delimiter in choices:
        if set(_NEEDED) <= {name.strip() for name in _split(first, delimiter)}:
            return delimiter
    raise InputError(
        f"{file}: needs the columns path and label, has {', '.join(_split(first, choices[0])) or 'none'}"
        "; name the columns in its first line"
    )


def _split(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        return []


def _check(row: list[str], head: list[str], delimiter: str, where: str) -> None:
    if any(field.strip() for field in row[len(head) :]):
        raise InputError(
            f"{where}: has {len(row)} fields, and the head {len(head)}; put a field that holds {delimiter!r} into "
            'double quotes, as "Salt, coarse"'
        )
    # A quote that was never closed swallows the rows up to the next one.
    place = head.index("path")
    for field in row:
        for swallowed in field.split("\n")[1:]:
            fields = _split(swallowed, delimiter)
            if len(fields) >= len(head) and Path(fields[place]).suffix.lower() in suffixes():
                raise InputError(f"{where}: a quoted field goes on over {swallowed!r}, which is a row; close its quote")
