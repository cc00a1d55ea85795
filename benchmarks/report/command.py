"""`rar-bench report`: one page of result files, with charts, that needs nothing outside of itself.

Light and dark, readable on a phone, and the same as Markdown. What an interrupted run lacks is listed first; with
`--against`, so is what got better and worse than in older files beyond the noise.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rar.runtime.errors import InputError
from rar.runtime.files import atomic_file

from ..record import read
from . import accuracy, latency, others
from .changes import changes
from .document import Block, Section, Table, Text, to_html, to_markdown

_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError)


@dataclass(frozen=True)
class File:
    """A result file that was read.

    Attributes:
        path: Where.
        result: What it holds.
    """

    path: Path
    result: Mapping[str, Any]

    @property
    def benchmark(self) -> str:
        """The command of `rar-bench` that wrote it."""
        return str(self.result["benchmark"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("results", metavar="RESULT", nargs="+", help="result files (.json) of rar-bench")
    parser.add_argument("--against", metavar="OLDER", nargs="+", default=[], help="older files to compare with")
    parser.add_argument("--pictures", metavar="DIR", help="show confused pictures; their paths start here")
    parser.add_argument("--title", default="rar-runtime: measurements")
    parser.add_argument("--out", metavar="FILE", required=True, help="page (.html)")
    parser.add_argument("--markdown", metavar="FILE", help="the same as Markdown (.md)")


def run(args: argparse.Namespace) -> int:
    """Reads, draws and writes."""
    files = [File(Path(path), read(path)) for path in args.results]
    older = [File(Path(path), read(path)) for path in args.against]
    pictures = Path(args.pictures) if args.pictures else None
    if pictures is not None and not pictures.is_dir():
        raise InputError(f"{pictures}: no such folder; check --pictures")
    sections = [_files(files), *_missing(files), *_comparison(files, older)]
    for file in files:
        sections += _sections(file, pictures)
    sections.append(_commands(files))
    for path, text in ((args.out, to_html(args.title, sections)), (args.markdown, to_markdown(args.title, sections))):
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(Path(path)) as out:
                out.write(text.encode())
            print(f"{path}: {len(sections)} sections of {len(files)} files, {len(text.encode()) / 1e3:.0f} kB")
    return 0


def _sections(file: File, pictures: Path | None) -> list[Section]:
    answers = partial(accuracy.accuracy, pictures=pictures)
    known: Mapping[str, Callable[[Mapping[str, Any]], list[Section]]] = {
        "latency": latency.latency,
        "rank": latency.rank,
        "accuracy": answers,
        "ranking": answers,
        "detection": accuracy.detection,
        "memory": others.memory,
        "preprocess": others.preprocess,
        "footprint": others.footprint,
        "all": others.parts,
    }
    tell = known.get(file.benchmark, partial(others.generic, file.benchmark))
    try:
        sections = tell(file.result)
    except InputError:
        raise
    except _MALFORMED as error:
        raise InputError(
            f"{file.path}: is not laid out as `rar-bench {file.benchmark}` of this release writes it ({error!r}); "
            "measure again"
        ) from error
    return [Section(f"{one.title} ({file.path.stem})", one.blocks) for one in sections]


def _files(files: Sequence[File]) -> Section:
    rows = []
    for file in files:
        environment = file.result["environment"]
        encoder = file.result.get("encoder")
        source = encoder.get("source") if isinstance(encoder, Mapping) else None
        rows.append(
            (
                file.path.name,
                file.benchmark,
                str(environment.get("date", "-")),
                f"{environment.get('cores', '-')} x {environment.get('cpu', '-')}",
                str(source or "-"),
            )
        )
    return Section("Files", [Table(("file", "benchmark", "date", "machine", "encoder"), rows)])


def _commands(files: Sequence[File]) -> Section:
    rows = []
    for file in files:
        # Paths of the machine that measured say nothing to a reader.
        told = (word if not word.startswith("/") else Path(word).name for word in _words(file.result))
        rows.append((file.path.name, " ".join(told)))
    return Section("How it was measured", [Table(("file", "command"), rows)])


def _words(result: Mapping[str, Any]) -> list[str]:
    command = str(result.get("command", "no command is told"))
    try:
        return shlex.split(command)
    except ValueError:  # a quotation mark without its other half
        return command.split()


def _missing(files: Sequence[File]) -> list[Section]:
    """What a run that was broken off lacks."""
    lines: list[Block] = []
    for file in files:
        for one in file.result.get("missing") or ():
            told = str(one)
            if isinstance(one, Mapping):
                told = ", ".join(own if isinstance(own, str) else f"{key} {own}" for key, own in one.items())
            lines.append(Text(f"missing: {told} ({file.path.name})"))
    return [Section("Missing", lines)] if lines else []


def _comparison(files: Sequence[File], older: Sequence[File]) -> list[Section]:
    """Each file against the older one of its name, or else the first of its benchmark."""
    sections = []
    for file in files if older else ():
        same = [one for one in older if one.benchmark == file.benchmark]
        old = next((one for one in same if one.path.name == file.path.name), same[0] if same else None)
        if old is None:
            sections.append(
                Section(f"Changes ({file.path.stem})", [Text("No older file of this benchmark was given.")])
            )
            continue
        try:
            sections.append(changes(file.path.stem, old.result, file.result))
        except InputError as error:
            sections.append(Section(f"Changes ({file.path.stem})", [Text(f"Cannot be compared: {error}.")]))
        except _MALFORMED as error:
            raise InputError(f"{file.path} and {old.path}: cannot be compared ({error!r}); measure again") from error
    return sections
