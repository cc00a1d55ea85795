"""`--show`: what a terminal is sent is the picture, and where it cannot draw one line says so."""

from __future__ import annotations

import base64
import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rar.runtime.cli.recognize import main
from rar.runtime.cli.show import Protocol, drawn, protocol

PICTURE = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-ghostty", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm2"),
        ({"TERM": "foot-extra"}, "sixel"),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "xterm-kitty", "TMUX": "socket,1,0"}, None),
        ({}, None),
    ],
)
def test_terminals_are_known_by_what_they_say(environment: dict[str, str], expected: Protocol | None) -> None:
    assert protocol(environment) == expected


def test_kitty_gets_the_picture_in_pieces() -> None:
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", sent := drawn(PICTURE, "kitty"))
    assert "".join(f"\x1b_G{head};{piece}\x1b\\" for head, piece in pieces) + "\n" == sent
    assert len(pieces) > 1
    assert all(len(piece) <= 4096 for _, piece in pieces)
    assert pieces[0][0] == "a=T,f=100,q=2,m=1"
    assert [head for head, _ in pieces[1:]] == ["m=1"] * (len(pieces) - 2) + ["m=0"]
    content = base64.b64decode("".join(piece for _, piece in pieces))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), PICTURE)


def test_iterm2_gets_the_picture_with_its_size() -> None:
    found = re.fullmatch(r"\x1b\]1337;File=inline=1;size=(\d+):([^\a]*)\a\n", drawn(PICTURE, "iterm2"))
    assert found is not None
    content = base64.b64decode(found[2])
    assert len(content) == int(found[1])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), PICTURE)


def test_sixels_draw_the_picture_in_few_colours() -> None:
    sent = drawn(PICTURE, "sixel")
    head, body, end = sent.partition('"1;1;50;37')[0], sent.partition('"1;1;50;37')[2], sent[-3:]
    assert (head, end) == ("\x1bPq", "\x1b\\\n")
    colours: dict[int, tuple[int, ...]] = {}
    canvas = np.full((42, 50, 3), -1)
    top = left = colour = 0
    for define, rgb, choose, count, cell, mark in re.findall(
        r"#(\d+);2;(\d+;\d+;\d+)|#(\d+)|(?:!(\d+))?([?-~])|([$-])", body[:-3]
    ):
        if define:
            colours[int(define)] = tuple(map(int, rgb.split(";")))
        elif choose:
            colour, left = int(choose), left
        elif mark:
            left, top = 0, top + 6 * (mark == "-")
        else:
            right = left + int(count or 1)
            for row in range(6):
                if (ord(cell) - 63) >> row & 1:
                    assert (canvas[top + row, left:right] == -1).all(), "a cell is drawn once"
                    canvas[top + row, left:right] = colours[colour]
            left = right
    assert (canvas[37:] == -1).all()
    expected = np.asarray(Image.fromarray(PICTURE).quantize(128).convert("RGB"), np.float64)
    assert np.abs(canvas[:37] - expected * 100 / 255).max() <= 1


def test_a_large_picture_is_drawn_small() -> None:
    content = re.sub(r"\x1b_G[^;]*;|\x1b\\|\n", "", drawn(np.zeros((3000, 4000, 3), np.uint8), "kitty"))
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (320, 240)


def on_a_terminal(term: str, *argv: str) -> str:
    """What the command prints on a terminal of this name."""
    ours, theirs = pty.openpty()
    kept = ("KITTY_WINDOW_ID", "LC_TERMINAL", "STY", "TERM_PROGRAM", "TMUX")
    environment = {name: value for name, value in os.environ.items() if name not in kept}
    with subprocess.Popen(
        [sys.executable, "-m", "rar.runtime.cli.recognize", *argv],
        stdout=theirs, stderr=theirs, env=environment | {"TERM": term},
    ) as child:  # fmt: skip
        os.close(theirs)
        said = b""
        try:
            while block := os.read(ours, 65536):
                said += block
        except OSError:  # its end
            pass
        os.close(ours)
    assert child.returncode == 0, said
    return said.decode()


def test_a_picture_stands_above_its_answer(pictures_bundle: Path, class_pictures: list[Path]) -> None:
    argv = [str(pictures_bundle), str(class_pictures[0]), "--k", "2", "--rank", "none", "--show"]
    said = on_a_terminal("xterm-kitty", *argv)
    assert said.startswith("\x1b_Ga=T,f=100")
    assert said.index("\x1b\\") < said.index(str(class_pictures[0]))
    plain = on_a_terminal("xterm", *argv)
    assert "\x1b_G" not in plain
    assert plain.startswith("rar-recognize: no pictures: this terminal does not say that it can draw; kitty,")


def test_where_there_is_no_terminal_answers_come_alone(
    pictures_bundle: Path, class_pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(pictures_bundle), str(class_pictures[0]), "--k", "2", "--rank", "none", "--show"]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out
    assert err.startswith("rar-recognize: no pictures: the output is no terminal; ")
    assert main([*argv, "--json"]) == 2
    assert "leave out --json" in capsys.readouterr().err
