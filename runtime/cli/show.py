"""Pictures in a terminal that can draw them, by kitty's protocol, iTerm2's or sixels."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image

from ..picture.load import Pixels

Protocol: TypeAlias = Literal["kitty", "iterm2", "sixel"]

# Width and height that a picture is drawn at, at most, and the colours of sixels.
_SIDE = 320, 240
_COLOURS = 128
# Kitty takes no more of base64 at a time.
_CHUNK = 4096


def protocol(environment: Mapping[str, str]) -> Protocol | None:
    """What the terminal says that it can draw; None where it says nothing, or something between hides it."""
    if environment.get("TMUX") or environment.get("STY"):
        return None
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if environment.get("KITTY_WINDOW_ID") or term in ("xterm-kitty", "xterm-ghostty"):
        return "kitty"
    if program in ("iTerm.app", "WezTerm", "mintty") or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    return "sixel" if term.startswith(("foot", "mlterm")) else None


def drawn(pixels: Pixels, by: Protocol) -> str:
    """What a terminal is sent to draw a picture.

    Args:
        pixels: uint8 [H, W, 3], RGB.
        by: The terminal's protocol.
    """
    image = Image.fromarray(pixels)
    image.thumbnail(_SIDE)
    if by == "sixel":
        return f"{''.join(_sixels(image))}\n"
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    content = base64.b64encode(buffer.getvalue()).decode()
    if by == "iterm2":
        return f"\x1b]1337;File=inline=1;size={len(buffer.getvalue())}:{content}\a\n"
    chunks = [content[start : start + _CHUNK] for start in range(0, len(content), _CHUNK)]
    heads = ["a=T,f=100,q=2,", *[""] * (len(chunks) - 1)]
    more = [*[1] * (len(chunks) - 1), 0]
    return (
        "".join(f"\x1b_G{head}m={m};{chunk}\x1b\\" for head, m, chunk in zip(heads, more, chunks, strict=True)) + "\n"
    )


def _sixels(image: Image.Image) -> Iterator[str]:
    """DEC's format: bands of six rows, each colour of a band in one pass over it."""
    indexed = image.quantize(_COLOURS)
    palette = np.array(indexed.getpalette(), np.int64).reshape(-1, 3)
    rows = np.asarray(indexed).astype(np.int64)
    yield f'\x1bPq"1;1;{image.width};{image.height}'
    for colour in np.unique(rows).tolist():
        red, green, blue = (palette[colour] * 100 + 127) // 255
        yield f"#{colour};2;{red};{green};{blue}"
    padded = np.pad(rows, ((0, -len(rows) % 6), (0, 0)), constant_values=-1)
    places = (1 << np.arange(6))[:, None]
    for band in padded.reshape(-1, 6, image.width):
        passes = []
        for colour in np.unique(band[band >= 0]).tolist():
            columns = ((band == colour) * places).sum(0).tolist()
            runs = ((len(list(same)), chr(63 + column)) for column, same in groupby(columns))
            passes.append(f"#{colour}" + "".join(f"!{n}{cell}" if n > 3 else cell * n for n, cell in runs))
        yield "$".join(passes) + "-"
    yield "\x1b\\"
