"""`python -m edge BUNDLE [--out PAGE]`: runs each leg, compares it with this machine, prints the table.

Ends with 0 where at least one leg ran and none failed, with 1 where one failed, with 2 where none could run. A leg
whose parts cannot be fetched is skipped; what is missing is named with what to run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from time import monotonic

from rar.export.pictures.photos import package_photos
from rar.runtime.bundle.files import atomic_file

from . import fetch
from .compare import Row, failed, page, table
from .run_leg import Job, Record

CACHE = fetch.ROOT / "build/edge"
PHOTOS = ("astronaut", "chelsea", "china", "coffee", "flower", "motorcycle_left", "rocket")
RANKED = 3
MINUTES = 45
# Left out: pictures too large to emulate, and what needs open_clip.
TESTS = (
    "tests/runtime/picture/test_preprocess.py",
    "tests/runtime/picture/test_preprocess_simd.py",
    "tests/runtime/picture/test_boxes.py",
    "tests/runtime/memory/test_score.py",
    "tests/runtime/memory/test_graph.py::test_distances_of_any_dimension_are_those_of_numpy",
    "-k=not too_large and not open_clip",
)


@dataclass(frozen=True)
class Start:
    """How a processor's Python is started."""

    command: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Leg:
    """A processor.

    Attributes:
        name: Its architecture and QEMU's name of it.
        about: What it has or lacks.
        start: Fetches what it needs; raises `AbsentError`.
    """

    name: str
    about: str
    start: Callable[[], Start]


def arm(cpu: str) -> Callable[[], Start]:
    """A 64-bit ARM."""

    def start() -> Start:
        there = fetch.aarch64(CACHE)
        qemu = fetch.emulators(CACHE) / "qemu-aarch64"
        return Start([str(qemu), "-cpu", cpu, "-L", str(there.sysroot), str(there.python)], there.environment)

    return start


def x86(cpu: str) -> Callable[[], Start]:
    """An x86 with this machine's own Python and packages."""

    def start() -> Start:
        if fetch.host() != "amd64":
            raise fetch.AbsentError("x86-64 legs run this machine's own Python: run `make edge` on an x86-64 machine")
        return Start([str(fetch.emulators(CACHE) / "qemu-x86_64"), "-cpu", cpu, sys.executable], {})

    return start


LEGS = (  # the longest first
    Leg("x86-64 Haswell", "no AVX-512, no VNNI", x86("Haswell-noTSX")),
    Leg("x86-64 Nehalem", "no AVX", x86("Nehalem")),
    Leg("aarch64 neoverse-n1", "dot products and fp16", arm("neoverse-n1")),
    Leg("aarch64 cortex-a72", "neither", arm("cortex-a72")),
)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="edge", description="Runs the runtime on emulated processors.")
    parser.add_argument("bundle", type=Path, help="the starter bundle, as `make demo` makes it; it is not changed")
    parser.add_argument("--out", type=Path, help="the page that the table is written to")
    args = parser.parse_args(argv)
    starts = [_started(leg) for leg in LEGS]
    count = sum(isinstance(start, Start) for start in starts)
    print(f"edge: {count} of {len(LEGS)} processors can be run, {len(LEGS) - count} are skipped", flush=True)
    if not count:
        return 2
    photos = [str(path) for path in package_photos() if path.stem in PHOTOS]
    job = Job(str(args.bundle), photos, RANKED, TESTS)
    try:
        native = run(Start([sys.executable], {}), replace(job, tests=[]))
    except (OSError, RuntimeError) as error:
        print(f"edge: {args.bundle} cannot be run on this machine itself: {error}", file=sys.stderr)
        return 1
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        rows = list(pool.map(lambda leg, start: _row(leg, start, job), LEGS, starts))
    print(table(rows, native))
    if args.out is not None:
        with atomic_file(args.out) as file:
            file.write(page(rows, native, len(photos), RANKED, date.today()).encode())
    return int(any(failed(row, native) for row in rows))


def _started(leg: Leg) -> Start | fetch.AbsentError:
    try:
        return leg.start()
    except fetch.AbsentError as error:
        print(f"edge: {leg.name} is skipped: {error}", file=sys.stderr, flush=True)
        return error


def _row(leg: Leg, start: Start | fetch.AbsentError, job: Job) -> Row:
    if isinstance(start, fetch.AbsentError):
        return Row(leg.name, leg.about, why=str(start), skipped=True)
    print(f"edge: {leg.name} starts", flush=True)
    began = monotonic()
    try:
        record, why = run(start, job), ""
    except RuntimeError as error:
        record, why = None, str(error)
    seconds = monotonic() - began
    print(f"edge: {leg.name} took {seconds:.0f} s{why and ': '}{why}", flush=True)
    return Row(leg.name, leg.about, record, why, seconds=seconds)


def run(start: Start, job: Job) -> Record:
    """A processor's record, on a copy of the bundle.

    Raises:
        RuntimeError: It did not come to an end.
    """
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        shutil.copytree(job.bundle, folder / "bundle")
        asked, answered = folder / "job.json", folder / "record.json"
        asked.write_text(json.dumps(asdict(job) | {"bundle": str(folder / "bundle")}), encoding="utf-8")
        # What names kernels for this machine would hold on the other one too.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OPENBLAS_", "PYTHON", "RAR_"))}
        environment = kept | {"HYPOTHESIS_STORAGE_DIRECTORY": work} | dict(start.environment)
        script = str(Path(__file__).with_name("run_leg.py"))
        try:
            done = subprocess.run(
                [*start.command, script, str(asked), str(answered)],
                cwd=fetch.ROOT, env=environment, capture_output=True, text=True, errors="replace",
                timeout=MINUTES * 60, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"not done after {MINUTES} minutes") from error
        if done.returncode or not answered.is_file():
            code = done.returncode
            end = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            raise RuntimeError(f"{end}: {' '.join((done.stdout + done.stderr).split())[-2000:]}")
        return Record(**json.loads(answered.read_text(encoding="utf-8")))


if __name__ == "__main__":
    sys.exit(main())
