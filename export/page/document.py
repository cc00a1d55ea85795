"""A page's parts, and how they become HTML or Markdown.

All text is escaped, because labels and file names are untrusted. The page loads nothing, which its content security
policy enforces, and needs no script.
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
    """A table of texts; all columns but the first are right-aligned.

    Attributes:
        head: The columns' names.
        rows: The cells of each row, one a column.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Chart:
    """A chart; Markdown shows its figures only.

    Attributes:
        title: What it shows.
        svg: Drawn by what escapes all text, such as the benchmarks' `charts`.
        figures: The chart's numbers as a table.
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
    """A heading with its blocks."""

    title: str
    blocks: Sequence[Block]


def to_html(title: str, sections: Sequence[Section]) -> str:
    """The parts as one HTML page, with its style and charts inside."""
    style = (resources.files(__package__) / "page.css").read_text(encoding="utf-8")
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
    """The parts as Markdown, without charts and pictures."""
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
    """Escapes a text for Markdown and puts it on one line."""
    text = " ".join(text.split()).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    for mark in "`*_[]|#~":
        text = text.replace(mark, f"\\{mark}")
    return text
