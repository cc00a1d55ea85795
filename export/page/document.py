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
    """A heading with its blocks.

    Attributes:
        title: The heading.
        blocks: What stands below it.
        folded: Whether a page shows the heading only until it is opened, and Markdown leaves all of it out.
    """

    title: str
    blocks: Sequence[Block]
    folded: bool = False


def to_html(title: str, sections: Sequence[Section]) -> str:
    """The parts as one HTML page, with its style and charts inside."""
    style = (resources.files(__package__) / "page.css").read_text(encoding="utf-8")
    entries = "".join(f'<li><a href="#s{i}">{escape(one.title)}</a></li>' for i, one in enumerate(sections))
    body = "".join(_section(f"s{i}", one) for i, one in enumerate(sections))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{escape(title)}</h1>\n"
        f"<nav><details><summary>Contents</summary><ul>{entries}</ul></details></nav>\n{body}</main>\n</body>\n</html>\n"
    )


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """The parts that are not folded as Markdown, without charts and pictures."""
    parts = [f"# {_plain(title)}"]
    for section in sections:
        if section.folded:
            continue
        parts.append(f"## {_plain(section.title)}")
        parts += [_markdown(block) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(name: str, section: Section) -> str:
    heading, blocks = f"<h2>{escape(section.title)}</h2>", "".join(map(_html, section.blocks))
    if section.folded:
        blocks = f"<details><summary>{heading}</summary>{blocks}</details>"
        return f'<section class="folded" id="{name}">{blocks}</section>\n'
    return f'<section id="{name}">{heading}{blocks}</section>\n'


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
    names = [escape(name) for name in table.head]
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    # On a narrow screen a row becomes a list, whose items say which column they are of.
    rows = "".join(
        "<tr>"
        + "".join(f'<td data-head="{name}">{escape(cell)}</td>' for name, cell in zip(names, row, strict=True))
        + "</tr>"
        for row in table.rows
    )
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
