"""`rar-bench all`: the other benchmarks one after the other, each a process of its own, and one report of them.

A part that fails or is stopped leaves the others; `all.json` and the report say which, and why. Ctrl-C ends the part
that runs and those that would follow; what was finished is kept and reported.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Literal, TypeAlias

from rar.export.pictures.labelled import read_images
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.cli.printable import printable
from rar.runtime.errors import InputError
from rar.runtime.memory.info import MemoryInfo
from rar.runtime.rank.mllm.ranker import MllmOptions
from rar.runtime.rank.tuning import Tuning

from . import record

# What `--quick` may take in all, what of it is kept for the report, and below what no part is begun, in seconds.
_QUICK, _REPORT, _LEAST = 300.0, 10.0, 10.0
# How long a part that is stopped may take to write what it has.
_GRACE = 10.0
_POLL = 0.2
_PICTURES = 100

State: TypeAlias = Literal["done", "failed", "stopped", "not reached"]


@dataclass(frozen=True)
class Part:
    """One benchmark.

    Attributes:
        name: Its command, and of its files.
        arguments: What follows the command, but for `--out`.
        weight: Its share of the time that is left for it and the later parts.
    """

    name: str
    arguments: Sequence[str]
    weight: int = 1


@dataclass(frozen=True)
class Outcome:
    """What became of a part.

    Attributes:
        name: Its command.
        state: Whether it ended, failed, was stopped or never began.
        seconds: How long it took.
        why: What was wrong; empty where nothing was.
    """

    name: str
    state: State
    seconds: float
    why: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("bundle", metavar="BUNDLE", help="with a memory")
    parser.add_argument("--images", metavar="SRC", required=True, help="pictures to time")
    parser.add_argument("--test", metavar="SRC", required=True, help="labelled pictures to be right about")
    parser.add_argument("--boxes", metavar="FILE", help="annotated boxes, for detection; their pictures lie beside")
    parser.add_argument("--quick", action="store_true", help="less of each, within five minutes on two cores")
    parser.add_argument("--only", nargs="+", metavar="PART", help="such as latency accuracy (default: all that fit)")
    parser.add_argument("--out", metavar="DIR", required=True, help="new folder for results, logs and report")


def run(args: argparse.Namespace) -> int:
    """Runs the parts, then the report; 0 where all were done, 130 after Ctrl-C, else 1."""
    wanted = parts(args)
    out = Path(args.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already; name a new folder for the results")
    out.mkdir(parents=True, exist_ok=True)
    until = monotonic() + _QUICK - _REPORT if args.quick else None
    outcomes: list[Outcome] = []
    with _ctrl_c() as told:
        for place, part in enumerate(wanted):
            left = None
            if until is not None:
                left = (until - monotonic()) * part.weight / sum(one.weight for one in wanted[place:])
            if told.stop or (left is not None and left < _LEAST):
                why = "interrupted" if told.stop else "no time was left"
                outcomes.append(Outcome(part.name, "not reached", 0.0, why))
                continue
            print(f"== {part.name}", flush=True)
            outcomes.append(outcome := _run(part, out, left, told))
            print(f"== {part.name}: {outcome.state}, {outcome.seconds:.0f} s {printable(outcome.why)}", flush=True)
            _write(outcomes, wanted, out)
        _write(outcomes, wanted, out)
    files = [str(path) for name in ("all", *(part.name for part in wanted)) if (path := out / f"{name}.json").is_file()]
    report = Part("report", [*files, "--markdown", str(out / "report.md")])
    page = _run(report, out, None, _Told(), suffix=".html")
    if page.state != "done":
        print(f"== report: {page.state}: {printable(page.why)}", file=sys.stderr)
    if told.stop:
        return 130
    return 0 if all(outcome.state == "done" for outcome in (*outcomes, page)) else 1


@dataclass
class _Told:
    """Whether Ctrl-C was pressed."""

    stop: bool = False


@contextmanager
def _ctrl_c() -> Iterator[_Told]:
    """Meanwhile Ctrl-C interrupts nothing here: a part must be ended, and what was finished written."""
    told = _Told()

    def stop(*_: object) -> None:
        told.stop = True

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield told
    finally:
        signal.signal(signal.SIGINT, before)


def parts(args: argparse.Namespace) -> list[Part]:
    """What is to be run, with what.

    Raises:
        InputError: A part is unknown or lacks what it needs.
    """
    bundle = Bundle.open(args.bundle)
    first = str(read_images(args.images)[0].path)
    ranked = ["--rank", name] if (name := _ranker(bundle)) else []
    small = args.quick
    parts = [
        Part(
            "accuracy",
            [args.bundle, "--test", args.test, *(["--limit", str(_PICTURES)] if small else []), *ranked],
            2,
        ),
        Part("footprint", [args.bundle, first, "--rounds", "2" if small else "7"]),
        Part("preprocess", ["--rounds", "1"] if small else []),
        Part("memory", ["--entries", "2000" if small else "20000", *(["--blocks", "1"] if small else [])], 3),
        # Last, since it is the longest: what the others leave of the time is its.
        Part("latency", [args.bundle, "--images", args.images, *(["--quick"] if small else [])], 4),
    ]
    if args.boxes:
        parts.insert(1, Part("detection", [args.bundle, "--boxes", args.boxes, *([] if small else ["--sweep"])], 2))
    names = [part.name for part in parts]
    if unknown := [name for name in args.only or () if name not in names]:
        raise InputError(f"--only {unknown[0]}: choose of {', '.join(names)}; detection needs --boxes")
    return [part for part in parts if not args.only or part.name in args.only]


def _ranker(bundle: Bundle) -> str | None:
    """The bundle's own ranker, as `rar-bench accuracy` names it."""
    info = MemoryInfo.of(bundle)
    tuning = Tuning.of(info.tune)
    if info.rank == "none":
        return None
    mllm = tuning.options if tuning and info.rank == "mllm" else None
    return f"{info.rank} {mllm.mode}" if isinstance(mllm, MllmOptions) else info.rank


def _run(part: Part, out: Path, seconds: float | None, told: _Told, suffix: str = ".json") -> Outcome:
    """Runs a part to its end, to the end of its time or to Ctrl-C."""
    log = out / f"{part.name}.log"
    target = str(out / part.name) + suffix
    began = monotonic()
    with log.open("wb") as errors:
        # In a session of its own: of Ctrl-C it is told by us.
        process = subprocess.Popen(
            [sys.executable, "-m", "rar.benchmarks.cli", part.name, *part.arguments, "--out", target],
            stderr=errors,
            start_new_session=True,
        )
        try:
            while process.poll() is None and not told.stop and (seconds is None or monotonic() - began < seconds):
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL)
        finally:
            ended = process.poll() is not None
            _end(process)
    took = monotonic() - began
    if not ended:
        why = "interrupted" if told.stop else f"its time of {seconds:.0f} s was over"
        return Outcome(part.name, "stopped", took, why)
    if process.returncode == 0:
        return Outcome(part.name, "done", took, "")
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return Outcome(part.name, "failed", took, lines[-1] if lines else f"exit code {process.returncode}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a part that still runs: as Ctrl-C would, and after a while for good, with all that it started."""
    for end in (os.kill, os.killpg):
        if process.poll() is None:
            with suppress(ProcessLookupError):
                end(process.pid, signal.SIGINT if end is os.kill else signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)


def _write(outcomes: Sequence[Outcome], wanted: Sequence[Part], out: Path) -> None:
    open_ends = {outcome.name: outcome.why for outcome in outcomes if outcome.state != "done"}
    reached = {outcome.name for outcome in outcomes}
    result = {
        "environment": record.environment(),
        "parts": [asdict(outcome) for outcome in outcomes],
        "missing": list(_missing(open_ends, [part.name for part in wanted if part.name not in reached])),
    }
    record.write(result, str(out / "all.json"))


def _missing(open_ends: dict[str, str], pending: Sequence[str]) -> Iterator[dict[str, str]]:
    for name, why in open_ends.items():
        yield {"part": name, "why": why}
    for name in pending:
        yield {"part": name, "why": "not reached"}
