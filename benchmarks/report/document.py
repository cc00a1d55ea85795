"""A report's parts, and the same parts as one HTML page or as Markdown.

All text is escaped: labels and file names are other people's. The page asks for nothing outside of itself, which its
own policy enforces, and needs no script.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import TypeAlias


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """Cells as they are to be read; columns but the first are right-aligned.

    Attributes:
        head: Columns.
        rows: As many cells each.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Chart:
    """A picture of figures; Markdown has the figures alone.

    Attributes:
        title: What it shows.
        svg: Made by `charts`, which escapes.
        figures: The same as a table.
    """

    title: str
    svg: str
    figures: Table


@dataclass(frozen=True)
class Thumbnails:
    """Small pictures in a row.

    Attributes:
        caption: What they are.
        uris: `data:` URIs.
    """

    caption: str
    uris: Sequence[str]


Block: TypeAlias = "Text | Table | Chart | Thumbnails"


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


def to_html(title: str, sections: Sequence[Section]) -> str:
    """One page, style and charts within it."""
    style = (resources.files(__package__) / "report.css").read_text(encoding="utf-8")
    entries = "".join(f'<li><a href="#s{i}">{escape(one.title)}</a></li>' for i, one in enumerate(sections))
    body = "".join(
        f'<section id="s{i}"><h2>{escape(one.title)}</h2>{"".join(map(_html, one.blocks))}</section>\n'
        for i, one in enumerate(sections)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{escape(title)}</h1>\n<nav><ul>{entries}</ul></nav>\n{body}</main>\n</body>\n</html>\n"
    )


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """The same without charts and pictures."""
    parts = [f"# {_plain(title)}"]
    for section in sections:
        parts.append(f"## {_plain(section.title)}")
        parts += [_markdown(block) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def _html(block: Block) -> str:
    if isinstance(block, Text):
        return f"<p>{escape(block.text)}</p>"
    if isinstance(block, Table):
        return f'<div class="scroll">{_html_table(block)}</div>'
    if isinstance(block, Thumbnails):
        images = "".join(f'<img src="{escape(uri)}" alt="">' for uri in block.uris)
        return f'<figure class="thumbnails">{images}<figcaption>{escape(block.caption)}</figcaption></figure>'
    return (
        f'<figure><figcaption>{escape(block.title)}</figcaption><div class="scroll">{block.svg}</div></figure>'
        f'<details><summary>figures</summary><div class="scroll">{_html_table(block.figures)}</div></details>'
    )


def _html_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _markdown(block: Block) -> str:
    if isinstance(block, Text):
        return _plain(block.text)
    if isinstance(block, Table):
        return _markdown_table(block)
    if isinstance(block, Thumbnails):
        return ""
    return f"**{_plain(block.title)}**\n\n{_markdown_table(block.figures)}"


def _markdown_table(table: Table) -> str:
    told = [" | ".join(map(_plain, row)) for row in (table.head, *table.rows)]
    rule = " | ".join(["---", *["---:"] * (len(table.head) - 1)])
    return "\n".join(f"| {row} |" for row in (told[0], rule, *told[1:]))


def _plain(text: str) -> str:
    """Text that Markdown takes for nothing but text, on one line."""
    text = " ".join(text.split()).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    for mark in "`*_[]|#~":
        text = text.replace(mark, f"\\{mark}")
    return text
