"""Draws what `rar-bench memory` measured: recall@10 against queries a second, a panel a data set.

Usage: python -m rar.benchmarks.memory.plot RESULT.json docs/memory-recall-qps.svg
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from math import ceil, log10
from typing import Any

from .. import record
from .sweep import frontier

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _GAP, _LINE = 330, 300, 72, 34, 46, 56, 20
# Recall grows by ever smaller steps: the axis is the logarithm of what is missed.
_RECALLS = (80.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95)
# Okabe and Ito's palette, told apart by the colour-blind.
_COLOURS = ("#d55e00", "#e69f00", "#000000", "#0072b2", "#56b4e9", "#009e73", "#cc79a7")


def draw(results: Mapping[str, Mapping[str, Any]], batch: int = 1) -> str:
    """An SVG with a panel a data set.

    Args:
        results: `results` of the result file.
        batch: Queries a call.
    """
    names = _drawn(results)
    curves = {
        panel: {name: frontier(told["sweep"], batch) for name, told in result["contenders"].items() if name in names}
        for panel, result in results.items()
    }
    speeds = [speed for own in curves.values() for curve in own.values() for _, speed in curve]
    marks = _marks(min(speeds), max(speeds))
    width = len(results) * (_WIDTH + _GAP) + _LEFT
    height = _TOP + _HEIGHT + _BOTTOM + _LINE * ceil(len(names) / 3) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for place, (panel, result) in enumerate(results.items()):
        parts.append(f'<g transform="translate({_LEFT + place * (_WIDTH + _GAP)} {_TOP})">')
        title = f"{panel}, {result['data']['entries']:,} x {result['dim']}"
        parts += _axes(title, marks, first=place == 0)
        for colour, name in zip(_COLOURS, names, strict=False):
            parts += _curve(curves[panel].get(name, []), colour, marks)
        parts.append("</g>")
    parts += _legend(names)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _drawn(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The contenders that were measured on all data sets, and those that have a curve on the first."""
    sets = [set(result["contenders"]) for result in results.values()]
    first = next(iter(results.values()))["contenders"]
    drawn = [name for name in first if all(name in own for own in sets) or len(first[name]["sweep"]) > 1]
    return drawn[: len(_COLOURS)]


def _across(recall: float) -> float:
    most, least = -log10(1 - _RECALLS[-1] / 100), -log10(1 - _RECALLS[0] / 100)
    at = -log10(max(1 - recall / 100, 1 - _RECALLS[-1] / 100))
    return _WIDTH * (at - least) / (most - least)


def _marks(least: float, most: float) -> list[int]:
    """1, 2, 5, 10, ...: from the last one below the speeds to the first one above."""
    steps = [step * 10**decade for decade in range(12) for step in (1, 2, 5)]
    first = max([step for step in steps if step <= least], default=1)
    return [step for step in steps if first <= step < 2.5 * most]


def _down(speed: float, marks: Sequence[int]) -> float:
    return _HEIGHT * log10(marks[-1] / max(speed, marks[0])) / log10(marks[-1] / marks[0])


def _axes(title: str, marks: Sequence[int], *, first: bool) -> Iterator[str]:
    yield f'<text x="{_WIDTH / 2}" y="-12" text-anchor="middle" font-weight="bold">{escape(title)}</text>'
    for recall in _RECALLS:
        x = _across(recall)
        yield f'<path d="M{x:.1f} 0V{_HEIGHT}" stroke="#ddd"/>'
        label = f"{recall:g}" if recall != _RECALLS[-1] else f"≥{recall:g}"
        yield f'<text x="{x:.1f}" y="{_HEIGHT + 16}" text-anchor="middle" font-size="10">{label}</text>'
    for mark in marks:
        y = _down(mark, marks)
        yield f'<path d="M0 {y:.1f}H{_WIDTH}" stroke="#ddd"/>'
        yield f'<text x="-6" y="{y + 4:.1f}" text-anchor="end">{mark:,}</text>'
    yield f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#888"/>'
    yield f'<text x="{_WIDTH / 2}" y="{_HEIGHT + 34}" text-anchor="middle">recall@10, %</text>'
    if first:
        middle = _HEIGHT / 2
        yield f'<text transform="translate(-56 {middle}) rotate(-90)" text-anchor="middle">queries/s, one thread</text>'


def _curve(curve: Sequence[tuple[float, float]], colour: str, marks: Sequence[int]) -> Iterator[str]:
    places = [(_across(recall), _down(speed, marks)) for recall, speed in curve if recall >= _RECALLS[0]]
    if len(places) > 1:
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for x, y in places:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>'


def _legend(names: Sequence[str]) -> Iterator[str]:
    for place, (colour, name) in enumerate(zip(_COLOURS, names, strict=False)):
        x, y = _LEFT + place % 3 * 210, _TOP + _HEIGHT + _BOTTOM + place // 3 * _LINE + 8
        yield f'<path d="M{x} {y}h22" stroke="{colour}" stroke-width="3"/>'
        yield f'<text x="{x + 28}" y="{y + 4}">{escape(name)}</text>'


def main(arguments: Sequence[str]) -> int:
    """Reads a result file, writes an SVG."""
    return record.plot(arguments, __doc__, lambda result: draw(result["results"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
