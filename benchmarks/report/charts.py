"""Charts as SVG: no script, colours from the page's own variables, so that they follow light and dark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10

_WIDTH = 720
_COLOURS = 7
# A bar, and its name above it.
_ROW, _NAME = 44, 18
# Room for the number behind a bar.
_NUMBER = 150


@dataclass(frozen=True)
class Bar:
    """A bar with what it may be: the quartiles, or a standard error.

    Attributes:
        name: What it is of.
        value: Its length.
        low: The least it may be.
        high: The most.
    """

    name: str
    value: float
    low: float
    high: float


def whiskers(rows: Sequence[Bar], unit: str) -> str:
    """Horizontal bars from zero, each with a line from its low to its high; ours in another colour than the others."""
    scale = (_WIDTH - _NUMBER) / (max((max(row.value, row.high) for row in rows), default=0.0) or 1)
    parts = []
    for line, row in enumerate(rows):
        y = line * _ROW
        colour = "s0" if row.name.startswith(("rar,", "k=")) else "s6"
        low, high = (scale * max(0.0, value) for value in (row.low, row.high))
        parts.append(
            _named(row.name, y, 0.0, scale * row.value, colour)
            + f'<line class="axis" x1="{low:.1f}" x2="{high:.1f}" y1="{y + 30}" y2="{y + 30}"/>'
            + f'<text x="{max(high, scale * row.value) + 6:.1f}" y="{y + 35}">{number(row.value)} {escape(unit)}</text>'
        )
    return _svg(len(rows) * _ROW + 4, parts, ", ".join(f"{row.name} {number(row.value)} {unit}" for row in rows))


def around_zero(rows: Sequence[Bar], unit: str) -> str:
    """A mark for each row on an axis with zero in it, with a line from its low to its high.

    A row that zero is no part of has another colour on either side.
    """
    ends = [end for row in rows for end in (row.low, row.high, row.value)]
    place = _placer(min([0.0, *ends]), max([0.0, *ends]) or 1.0, _NUMBER / 2, _WIDTH - _NUMBER, log=False)
    zero = place(0.0)
    parts = [f'<line class="grid" x1="{zero:.1f}" x2="{zero:.1f}" y1="0" y2="{len(rows) * _ROW}"/>']
    for line, row in enumerate(rows):
        y = line * _ROW
        colour = "s2" if row.low > 0 else "s1" if row.high < 0 else "s6"
        told = f"{'+' if row.value > 0 else ''}{number(row.value)} {unit}"
        parts.append(
            f'<text x="0" y="{y + 14}">{escape(_short(row.name, 80))}</text>'
            f'<line class="axis" x1="{place(row.low):.1f}" x2="{place(row.high):.1f}" y1="{y + 30}" y2="{y + 30}"/>'
            f'<circle cx="{place(row.value):.1f}" cy="{y + 30}" r="6" style="fill:var(--{colour})"/>'
            f'<text x="{max(place(row.high), place(row.value) + 6) + 6:.1f}" y="{y + 35}">{escape(told)}</text>'
        )
    return _svg(len(rows) * _ROW + 4, parts, ", ".join(f"{row.name} {number(row.value)} {unit}" for row in rows))


def _named(name: str, y: int, left: float, width: float, colour: str) -> str:
    return (
        f'<text x="0" y="{y + 14}">{escape(_short(name, 56))}</text>'
        f'<rect x="{left:.1f}" y="{y + _NAME + 2}" width="{max(1.0, width):.1f}" height="{_ROW - _NAME - 4}" '
        f'style="fill:var(--{colour})"/>'
    )


def bars(rows: Sequence[tuple[str, float]], unit: str, *, waterfall: bool = False) -> str:
    """Horizontal bars that start at zero, or in a waterfall where the bar before ended.

    Args:
        rows: Name and value, not negative.
        unit: The unit of the values.
        waterfall: Whether each begins where the last ended; a line for the total is added.
    """
    total = sum(value for _, value in rows) if waterfall else max((value for _, value in rows), default=0.0)
    scale = (_WIDTH - _NUMBER) / (total or 1)
    shown = [*rows, ("sum", total)] if waterfall else list(rows)
    parts, before = [], 0.0
    for line, (name, value) in enumerate(shown):
        last = waterfall and line == len(rows)
        left = scale * (0.0 if last or not waterfall else before)
        colour = "s6" if last else f"s{line % (_COLOURS - 1)}" if waterfall else "s0"
        y = line * _ROW
        parts.append(
            _named(name, y, left, scale * value, colour)
            + f'<text x="{left + scale * value + 6:.1f}" y="{y + 35}">{number(value)} {escape(unit)}</text>'
        )
        before += value
    return _svg(len(shown) * _ROW + 4, parts, ", ".join(f"{name} {number(value)} {unit}" for name, value in shown))


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    x_ticks: Sequence[tuple[float, str]] | None = None,
    y_from: float | None = None,
) -> str:
    """A line chart with a mark at each point and the series' names below.

    Args:
        series: Name -> points, each in the order in which they are joined.
        x_label: The x axis's label.
        y_label: The y axis's label.
        log_x: Whether the x axis is logarithmic; points that are not above zero are left out.
        log_y: The same for the y axis.
        x_ticks: Places and labels of the x axis's ticks; None for round numbers.
        y_from: The y axis begins here, or at the lowest point if that is lower.
    """
    kept = {
        name: [
            (x, y) for x, y in points if isfinite(x) and isfinite(y) and (x > 0 or not log_x) and (y > 0 or not log_y)
        ]
        for name, points in series.items()
    }
    xs = [x for points in kept.values() for x, _ in points] or [1.0, 2.0]
    ys = [y for points in kept.values() for _, y in points] or [1.0, 2.0]
    ticks_y = _ticks(min([*ys, *([] if y_from is None else [y_from])]), max(ys), log_y)
    ticks_x = list(x_ticks) if x_ticks is not None else [(x, number(x)) for x in _ticks(min(xs), max(xs), log_x)]
    left, top, right, bottom = 64, 26, _WIDTH - 16, 300
    place_x = _placer(min([*xs, *(x for x, _ in ticks_x)]), max([*xs, *(x for x, _ in ticks_x)]), left, right, log_x)
    place_y = _placer(min([*ys, *ticks_y]), max([*ys, *ticks_y]), bottom, top, log_y)
    parts = [f'<text x="{left}" y="14">{escape(y_label)}</text>']
    for y in ticks_y:
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{place_y(y):.1f}" y2="{place_y(y):.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{place_y(y) + 4:.1f}" text-anchor="end">{number(y)}</text>')
    for x, told in ticks_x:
        parts.append(f'<line class="grid" x1="{place_x(x):.1f}" x2="{place_x(x):.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text x="{place_x(x):.1f}" y="{bottom + 18}" text-anchor="middle">{escape(told)}</text>')
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(f'<text x="{right}" y="{bottom + 36}" text-anchor="end">{escape(x_label)}</text>')
    for i, (name, points) in enumerate(kept.items()):
        colour = f"var(--s{i % _COLOURS})"
        path = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="line" points="{path}" style="stroke:{colour}"/>')
        parts += [
            f'<circle cx="{place_x(x):.1f}" cy="{place_y(y):.1f}" r="3" style="fill:{colour}"/>' for x, y in points
        ]
        y = bottom + 56 + 18 * (i // 2)
        x = left + (right - left) // 2 * (i % 2)
        parts.append(f'<rect x="{x}" y="{y - 10}" width="12" height="12" style="fill:{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="{y}">{escape(_short(name, 44))}</text>')
    return _svg(bottom + 64 + 18 * ((len(kept) - 1) // 2), parts, f"{y_label} by {x_label}: {', '.join(kept)}")


def number(value: float) -> str:
    """A number with at least three significant digits and no needless zeros."""
    if not isfinite(value):
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _svg(height: int, parts: Sequence[str], told: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(told)}</title>{''.join(parts)}</svg>"
    )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _placer(low: float, high: float, start: float, end: float, log: bool) -> Callable[[float], float]:
    """A function from a value to its place on an axis."""
    if log:
        low, high = log10(low), log10(high)
    span = (high - low) or 1.0

    def place(value: float) -> float:
        at = log10(value) if log else value
        return start + (end - start) * (at - low) / span

    return place


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """Round numbers that enclose the values."""
    if log:
        decades = range(floor(log10(low)), ceil(log10(high)) + 1)
        fine = [m * 10.0**d for d in decades for m in ((1, 2, 5) if len(decades) <= 3 else (1,))]
        below = max((tick for tick in fine if tick <= low), default=fine[0])
        above = min((tick for tick in fine if tick >= high), default=fine[-1])
        return [tick for tick in fine if below <= tick <= above]
    if high <= low:
        return [low, low + (abs(low) or 1.0)]
    raw = (high - low) / 5
    unit = 10.0 ** floor(log10(raw))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= raw)
    return [step * i for i in range(floor(low / step), ceil(high / step) + 1)]
