"""What runs on each processor: the shipped runtime, whole, on a bundle. Writes what it found as JSON.

    python run_leg.py JOB.json RECORD.json

Nothing here asks whether an answer is right but for the exactness tests: that is told beside another processor's.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

TEXTS = (
    "a photo of an Egyptian cat.",
    "  Crème brûlée &amp; café \t\n",
    "<|endoftext|> [SEP] </s>",
    "日本語のテキスト 🚀",
    "word " * 200,
)
ADDED = ("first class of our own", "second class of our own")


@dataclass(frozen=True)
class Job:
    """What is asked of a processor.

    Attributes:
        bundle: A bundle's folder, which is written to.
        photos: Pictures that are recognised.
        ranked: How many of them the MLLM ranks.
        tests: Arguments of pytest; none for no tests.
    """

    bundle: str
    photos: Sequence[str]
    ranked: int
    tests: Sequence[str]


@dataclass(frozen=True)
class Record:
    """What a processor answered.

    Attributes:
        python: Release of the interpreter.
        onnxruntime: Release of ONNX Runtime.
        features: Instruction sets, as NumPy names them.
        kernels: Forms of our own kernels that can run, slowest first.
        retrieved: A picture's candidates, best first, by retrieval.
        ranked: The same by the MLLM.
        pictures: Embeddings of the pictures.
        texts: Embeddings of `TEXTS`.
        tokens: Their token ids.
        added: For each of the pictures that were added to the memory, the classes found by pictures alone.
        removed: The same after the first of the classes was removed.
        passed: Tests that passed.
        failed: Names of tests that did not.
    """

    python: str
    onnxruntime: str
    features: Sequence[str]
    kernels: Sequence[str]
    retrieved: Sequence[Sequence[str]]
    ranked: Sequence[Sequence[str]]
    pictures: Sequence[Sequence[float]]
    texts: Sequence[Sequence[float]]
    tokens: Sequence[Sequence[int]]
    added: Sequence[Sequence[str]]
    removed: Sequence[Sequence[str]]
    passed: int
    failed: Sequence[str]


def run(job: Job) -> Record:
    """Everything that a device does with a bundle, and the exactness tests."""
    import onnxruntime

    from rar.runtime import Bundle, Memory, MllmOptions, Recognizer
    from rar.runtime.encoder.tokenizer import Tokenizer
    from rar.runtime.picture.load import load_image
    from rar.runtime.picture.preprocess import native_features

    # One thread: the legs run beside each other. The MLLM is set by hand, or it would not run where it gains nothing.
    recognizer = Recognizer.open(job.bundle, "cpu", threads=1, mllm=MllmOptions("likelihood"))
    clip = recognizer.clip

    def names(found: Sequence[Sequence[Any]]) -> list[list[str]]:
        return [[candidate.label for candidate in candidates] for candidates in found]

    def recognized(photos: Sequence[str], rank: Any) -> list[list[str]]:
        results = recognizer.recognize(list(photos), rank=rank)
        if errors := [str(result.error) for result in results if result.error is not None]:
            raise RuntimeError(f"rank={rank}: {errors}")
        return names([result.candidates for result in results])

    retrieved = recognized(job.photos, "none")
    ranked = recognized(job.photos[: job.ranked], "mllm")
    pictures = clip.embed_pixels(clip.preprocess([load_image(photo) for photo in job.photos]))

    def by_pictures() -> list[list[str]]:  # read from the disk anew
        return names(Memory.open(job.bundle, text_weight=0.0).search(pictures[: len(ADDED)], k=2, fewer=True))

    recognizer.memory.add(list(job.photos[: len(ADDED)]), list(ADDED))
    added = by_pictures()
    recognizer.memory.remove(ADDED[0])
    removed = by_pictures()
    recognizer.memory.close()

    bundle = Bundle.open(job.bundle)
    tokenizer = Tokenizer.open(bundle.file("clip", "tokenizer.json"), bundle.component("clip").info["clean"])
    counted = tested(job.tests)
    return Record(
        python=platform.python_version(),
        onnxruntime=onnxruntime.__version__,
        features=features(),
        kernels=native_features()["available"],
        retrieved=retrieved,
        ranked=ranked,
        pictures=pictures.tolist(),
        texts=clip.embed_texts(TEXTS).tolist(),
        tokens=tokenizer(TEXTS).tolist(),
        added=added,
        removed=removed,
        passed=counted.passed,
        failed=counted.failed,
    )


def features() -> list[str]:
    """The processor's instruction sets, by asking it: /proc/cpuinfo would tell of the machine that emulates."""
    try:
        core = import_module("numpy._core._multiarray_umath")
    except ImportError:  # NumPy 1
        core = import_module("numpy.core._multiarray_umath")
    return [name for name, there in core.__cpu_features__.items() if there]


@dataclass
class Counted:
    """A plugin of pytest that counts."""

    passed: int = 0
    failed: list[str] = field(default_factory=list)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """See pytest."""
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.when == "call" and report.passed:
            self.passed += 1

    def pytest_collectreport(self, report: Any) -> None:
        """See pytest."""
        if report.failed:
            self.failed.append(report.nodeid)


def tested(arguments: Sequence[str]) -> Counted:
    """Runs tests in this process."""
    counted = Counted()
    if arguments:
        import pytest

        # A seed, and no conftest: that one imports what exports need.
        quiet = ["-q", "--noconftest", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
        code = pytest.main([*quiet, *arguments], plugins=[counted])
        if code and not counted.failed:
            counted.failed.append(f"pytest ended with {int(code)}")
    return counted


if __name__ == "__main__":
    asked = Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    Path(sys.argv[2]).write_text(json.dumps(asdict(run(asked))), encoding="utf-8")
