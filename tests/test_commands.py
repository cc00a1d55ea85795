"""Command lines: what the documents and the Makefile say can be typed, and options may stand anywhere."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from rar.benchmarks import cli as bench
from rar.export import cli as export
from rar.runtime.cli import recognize
from rar.runtime.cli.arguments import Parser
from rar.serving.http import command as serve

ROOT = Path(__file__).parents[1]
_WRITTEN = re.compile(
    r"^[ \t@]*(?:\$\(BIN\)/|venv/bin/)?((?:rar-export|rar-recognize|rar-serve|rar-bench) .*)$", re.MULTILINE
)
# `make demo` has a script name the pictures.
_SCRIPT = re.compile(r"\$\$\(.*\)")


def written() -> list[str]:
    """The commands in the README, the documents and the Makefile."""
    texts = [path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
    made = (ROOT / "Makefile").read_text()
    found = [line for text in (*texts, made) for line in _WRITTEN.findall(text)]
    return [_SCRIPT.sub("one.jpg two.png", line) for line in found]


def parse(words: list[str]) -> argparse.Namespace:
    program, *rest = words
    parsers = {"rar-recognize": recognize.parser, "rar-serve": serve._parser, "rar-export": export.parser}
    parser = bench._parser(rest) if program == "rar-bench" else parsers[program]()
    return parser.parse_args(rest)


def test_commands_are_found_where_they_are_written() -> None:
    found = written()
    assert {line.split()[0] for line in found} == {"rar-recognize", "rar-serve", "rar-export", "rar-bench"}
    assert "rar-recognize bundle --rank mllm one.jpg two.png" in found, "what `make demo` types"
    assert "rar-export starter bundle" in found, "what `make demo` types"


@pytest.mark.parametrize("line", written())
def test_what_is_written_can_be_typed(line: str) -> None:
    parse(shlex.split(line, comments=True))


def leaves(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The parsers that read arguments, by what is typed before those."""
    assert isinstance(parser, Parser), name
    commands = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in commands:
        for command, inner in action.choices.items():
            yield from leaves(inner, f"{name} {command}")
    if not commands:
        yield name, parser


LEAVES = {
    **dict(leaves(recognize.parser(), "rar-recognize")),
    **dict(leaves(serve._parser(), "rar-serve")),
    **dict(leaves(export.parser(), "rar-export")),
}


def leaf(name: str) -> argparse.ArgumentParser:
    """A command's parser. Of rar-bench only the command that is typed has arguments."""
    if name in LEAVES:
        return LEAVES[name]
    if name in ("grain", "grain-latency", "new-classes"):  # they train
        pytest.importorskip("torch", reason="needs PyTorch")
    return dict(leaves(bench._parser([name]), ""))[f" {name}"]


def value(action: argparse.Action) -> list[str]:
    """A value that an option takes, or none where it is a flag."""
    if action.nargs == 0:
        return []
    if action.choices is not None:
        return [str(next(iter(action.choices)))]
    return ["3" if action.type in (int, float) else "1.5"]


@pytest.mark.parametrize("name", [*LEAVES, *bench._COMMANDS])
def test_options_stand_anywhere(name: str) -> None:
    parser = leaf(name)
    places = [action for action in parser._actions if not action.option_strings]
    options = [
        action
        for action in parser._actions
        # One of several values takes what follows it: that is what it is for.
        if action.option_strings and action.nargs in (None, 0) and not isinstance(action, argparse._HelpAction)
    ]
    needed = [action for action in options if action.required]
    exclusive = {id(action): group for group in parser._mutually_exclusive_groups for action in group._group_actions}
    needed += [group._group_actions[0] for group in parser._mutually_exclusive_groups if group.required]
    words = {
        action.dest: [f"{action.dest}-{i}" for i in range(3 if action.nargs in ("*", "+") else 1)]
        if action.choices is None
        else value(action)
        for action in places
    }
    typed = [word for each in words.values() for word in each]
    always = [word for action in needed for word in (action.option_strings[0], *value(action))]
    for option in options:
        if option in needed or id(option) in exclusive:
            continue
        given = [option.option_strings[-1], *value(option)]
        expected = vars(parser.parse_args([*typed, *always, *given]))
        for action in places:
            several = action.nargs in ("*", "+")
            assert expected[action.dest] == (words[action.dest] if several else words[action.dest][0])
        for cut in range(len(typed) + 1):
            line = [*typed[:cut], *given, *typed[cut:], *always]
            assert vars(parser.parse_args(line)) == expected, line
            for other in range(cut, len(typed) + 1):
                line = [*typed[:cut], *given, *typed[cut:other], *always, *typed[other:]]
                assert vars(parser.parse_args(line)) == expected, line


def test_an_unknown_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("rar-recognize b --no-such x.jpg", "rar-export remove b --no-such cat", "rar-bench compare a --no b"):
        with pytest.raises(SystemExit) as stopped:
            parse(line.split())
        assert stopped.value.code == 2
        assert "unrecognized arguments: --no" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["rar-recognize --json", "rar-export remove --", "rar-export memory --dim 3"])
def test_what_is_missing_is_named(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(line.split())
    assert re.search(r"required: .*BUNDLE", capsys.readouterr().err)


def test_what_follows_two_dashes_is_no_option() -> None:
    assert parse(["rar-recognize", "b", "--k", "3", "--", "-odd.jpg"]).images == ["-odd.jpg"]
    assert parse(["rar-export", "remove", "b", "--", "-odd", "even"]).labels == ["-odd", "even"]
