"""A processor's record beside this machine's: what differs, and the table of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from .run_leg import ADDED, Record

# Of pictures every sum and product is exact or rounds alike, so they agree to the last bits. Of texts the sums of a
# transformer's fp32 parts do not: a value that lies between two of int8's steps is rounded to the other one, and all
# that follows differs a little. int8 itself is at 0.9986 of fp32.
LEAST_PICTURE = 0.9999
LEAST_TEXT = 0.999
# Of NumPy's names, those that decide which kernels run.
_TOLD = ("SSE42", "AVX", "AVX2", "FMA3", "AVX512F", "AVX512VNNI", "ASIMD", "ASIMDHP", "ASIMDDP", "ASIMDFHM", "SVE")
_COLUMNS = (
    "processor", "", "instruction sets", "our kernels", "Python", "ONNX Runtime", "checks", "tests", "labels",
    "least cosine of pictures", "of texts", "s",
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One thing that must be as on this machine."""

    name: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class Row:
    """A leg in the table.

    Attributes:
        leg: Its name.
        about: What its processor has or lacks.
        record: What it answered; None where it did not.
        why: Why it did not.
        skipped: Whether it was not tried.
        seconds: How long it took.
    """

    leg: str
    about: str
    record: Record | None = None
    why: str = ""
    skipped: bool = False
    seconds: float = 0.0


def compare(record: Record, native: Record) -> list[Check]:
    """Holds what a processor answered to what this machine did."""
    agreed, asked = agreement(record, native)
    pictures, texts = least_cosine(record.pictures, native.pictures), least_cosine(record.texts, native.texts)
    first_gone = [[name for name in found if name != ADDED[0]] for found in record.added]
    return [
        Check("labels", agreed == asked, f"{agreed} of {asked} as here"),
        Check("pictures", pictures >= LEAST_PICTURE, f"least cosine {pictures:.6f}"),
        Check("texts", texts >= LEAST_TEXT, f"least cosine {texts:.6f}"),
        Check("tokens", record.tokens == native.tokens),
        Check("add and search", [found[0] for found in record.added] == list(ADDED), str(record.added)),
        Check("remove", record.removed == first_gone, str(record.removed)),
        Check("tests", not record.failed and record.passed > 0, f"failed: {', '.join(record.failed) or 'none ran'}"),
    ]


def agreement(record: Record, native: Record) -> tuple[int, int]:
    """How many pictures got this machine's label, by retrieval and by the ranker, and how many were asked for."""
    ours, theirs = ([found[0] for found in (*one.retrieved, *one.ranked)] for one in (record, native))
    return sum(a == b for a, b in zip(ours, theirs, strict=True)), len(theirs)


def least_cosine(embeddings: Sequence[Sequence[float]], native: Sequence[Sequence[float]]) -> float:
    """Of an embedding with this machine's."""
    ours, theirs = np.array(embeddings, np.float64), np.array(native, np.float64)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(1) / lengths).min())  # NaN is below every limit


def failed(row: Row, native: Record) -> list[str]:
    """Why a leg is not as this machine; nothing for one that was skipped."""
    if row.record is None:
        return [] if row.skipped else [row.why]
    return [f"{check.name}: {check.detail}" for check in compare(row.record, native) if not check.passed]


def table(rows: Sequence[Row], native: Record) -> str:
    """What `make edge` prints and keeps, as Markdown."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    notes = []
    for row in rows:
        if row.record is None:
            lines.append(f"| {row.leg} | {row.about} | {'skipped' if row.skipped else 'failed'} | | | | | | | | |")
        else:
            record, checks = row.record, compare(row.record, native)
            agreed, asked = agreement(record, native)
            cells = [
                row.leg,
                row.about,
                " ".join(name for name in _TOLD if name in record.features),
                " ".join(record.kernels),
                record.python,
                record.onnxruntime,
                f"{sum(check.passed for check in checks)} of {len(checks)}",
                f"{record.passed} passed, {len(record.failed)} failed",
                f"{agreed} of {asked}",
                f"{least_cosine(record.pictures, native.pictures):.6f}",
                f"{least_cosine(record.texts, native.texts):.6f}",
                f"{row.seconds:.0f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        notes += [f"- {row.leg}, skipped: {row.why}"] if row.skipped else []
        notes += [f"- {row.leg}, **failed**: {why}" for why in failed(row, native)]
    return "\n".join([*lines, *([""] if notes else []), *notes, ""])


def page(rows: Sequence[Row], native: Record, photos: int, ranked: int, day: date) -> str:
    """The document with the table."""
    here = " ".join(name for name in _TOLD if name in native.features)
    return f"""# Processors that the runtime is held to

`make edge` runs the shipped runtime whole on processors that the machine at hand is not, emulated by QEMU, and wrote
this page on {day:%d %B %Y}. The machine at hand: {here}; Python {native.python}, ONNX Runtime {native.onnxruntime}.

On each the starter bundle is opened; {photos} photos are recognised at int8 by retrieval, {ranked} of them by the MLLM
too; pictures are added to the memory, searched for and removed; texts are tokenized and embedded; and the tests that
hold preprocessor and distances to Pillow and NumPy run for each form of our kernels that the processor has. Labels and
token ids must be those of the machine at hand. Each picture's embedding must be at a cosine of {LEAST_PICTURE} or more
with its own, each text's at {LEAST_TEXT}: a transformer's sums are added in another order, a value that lies between
two of int8's steps is rounded to the other one, and all that follows differs a little.

{table(rows, native)}
The ARM legs run Debian's Python with PyPI's aarch64 wheels and our own wheel, as `make wheels` builds it. The
seconds are the emulator's, two processors at a time, and say nothing of a device. QEMU orders memory more strictly than
an ARM does: races that only a weak order shows are not seen here.
"""
