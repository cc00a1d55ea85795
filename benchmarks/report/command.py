"""`rar-bench report`: shows result files as one self-contained page with charts, or as Markdown.

The page follows light and dark and can be read on a phone. It begins with what interrupted runs lack and, with
`--against`, with what got better or worse than in older files by more than the noise.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rar.export.page.document import Block, Section, Table, Text, to_html, to_markdown
from rar.runtime.bundle.files import atomic_file
from rar.runtime.errors import InputError

from ..record import read
from . import accuracy, latency, others
from .changes import changes
from .glance import glance

# Sections that a reader sees without opening them, after what comes first.
_SHOWN = (
    *("Where the time goes", "Speed of ranking", "Memory:", "Accuracy by pictures a class", "Added classes"),
    *("Open set", "Detection", "Picture preparation"),
)
Told = TypeVar("Told")

_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError)


@dataclass(frozen=True)
class File:
    """A result file that was read.

    Attributes:
        path: Its path.
        result: Its content.
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
    seen = [block for file in files for block in _told(file, partial(glance, file.path.name, file.result))]
    first = [Section("At a glance", seen)] if seen else []
    first += [*_missing(files), *_comparison(files, older)]
    rest = [_files(files)]
    for file in files:
        for section in _sections(file, pictures):
            (first if section.title.startswith(_SHOWN) else rest).append(section)
    rest.append(_commands(files))
    # Where nothing comes first there is nothing to hide.
    sections = [*first, *(replace(section, folded=bool(first)) for section in rest)]
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
    sections = _told(file, lambda: tell(file.result))
    return [Section(f"{one.title} ({file.path.stem})", one.blocks) for one in sections]


def _told(file: File, tell: Callable[[], list[Told]]) -> list[Told]:
    """What a file tells.

    Raises:
        InputError: It is not laid out as this release writes it.
    """
    try:
        return tell()
    except InputError:
        raise
    except _MALFORMED as error:
        raise InputError(
            f"{file.path}: is not laid out as `rar-bench {file.benchmark}` of this release writes it ({error!r}); "
            "measure again"
        ) from error


def _files(files: Sequence[File]) -> Section:
    rows = []
    for file in files:
        environment = file.result["environment"]
        sets = environment.get("instruction_sets")  # older files tell none
        encoder = file.result.get("encoder")
        source = encoder.get("source") if isinstance(encoder, Mapping) else None
        rows.append(
            (
                file.path.name,
                file.benchmark,
                str(environment.get("date", "-")),
                f"{environment.get('cores', '-')} x {environment.get('cpu', '-')}",
                " ".join(map(str, sets)) if isinstance(sets, list) else "not told",
                str(source or "-"),
            )
        )
    head = ("file", "benchmark", "date", "machine", "instruction sets", "encoder")
    return Section("Files", [Table(head, rows)])


def _commands(files: Sequence[File]) -> Section:
    rows = []
    for file in files:
        # Paths on the machine that measured mean nothing to a reader.
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
    """The parts that an interrupted run lacks."""
    lines: list[Block] = []
    for file in files:
        for one in file.result.get("missing") or ():
            told = str(one)
            if isinstance(one, Mapping):
                told = ", ".join(item if isinstance(item, str) else f"{key} {item}" for key, item in one.items())
            lines.append(Text(f"missing: {told} ({file.path.name})"))
    return [Section("Missing", lines)] if lines else []


def _comparison(files: Sequence[File], older: Sequence[File]) -> list[Section]:
    """Compares each file with the older one of the same name, or else with the first of the same benchmark."""
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
