"""`rar-bench soak`: a live source on loopback for an hour, while the memory grows and shrinks beside it."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from tqdm import tqdm

from rar.runtime import Recognizer
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.errors import InputError, RarError
from rar.runtime.picture.load import Pixels
from rar.runtime.rank.rankers import RANKS
from rar.runtime.stream.intake import POLICIES
from rar.runtime.video import frames

from .. import record
from ..usage import memory
from .sender import camera, check

_SAMPLE_S = 1.0
# Until then allocators still meet shapes and pictures that they have no room for yet: samples.
_WARM = 300
# Resident memory may be this much larger at the end than after that: buffers of allocators, and the log.
_FLAT_BYTES = 24 * 2**20


@dataclass
class Seen:
    """What is counted while it runs.

    Attributes:
        latencies: Seconds from a frame's decoding to its answer.
        answered: Frames with an answer.
        errors: Frames whose answer is an error.
        missing: Frames between answered ones.
        changes: Classes that were added and removed again beside it.
        failed: Why a change of the memory failed, if one did; there are no more after it.
        resident: Bytes, one sample a second.
        handles: Open files and threads, likewise.
    """

    latencies: list[float] = field(default_factory=list)
    answered: int = 0
    errors: int = 0
    missing: int = 0
    changes: int = 0
    failed: str | None = None
    resident: list[int] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)

    def sample(self) -> None:
        """Looks at the process once."""
        self.resident.append(memory().resident)
        self.handles.append(len(os.listdir("/proc/self/fd")) + threading.active_count())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("bundle", metavar="BUNDLE", help="it is copied, and never changed")
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="what the camera shows (default: package photos)")
    parser.add_argument("--minutes", type=float, default=60, help="default: %(default)s")
    parser.add_argument("--fps", type=int, default=15, help="the camera's frames a second (default: %(default)s)")
    parser.add_argument("--rank", choices=RANKS, default="none", help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--policy", choices=POLICIES, default="latest", help="default: %(default)s")
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", metavar="FILE", help="result file (.json)")


def run(args: argparse.Namespace) -> int:
    """Runs, prints and writes; 1 if memory grew, an answer is missing that was not counted, or a change failed."""
    if not 0 < args.minutes <= 24 * 60 or not 1 <= args.fps <= 240:
        raise InputError(f"--minutes {args.minutes:g} --fps {args.fps}; give up to a day, and 1 to 240")
    pictures = [Path(name) for name in args.images]
    if not pictures:
        from rar.export.pictures.photos import package_photos  # needs the extra `export`

        pictures = package_photos()
    check(pictures)
    with tempfile.TemporaryDirectory(prefix="rar-soak-") as folder:
        copied = Path(shutil.copytree(args.bundle, Path(folder) / "bundle"))
        seen, dropped, reconnects = _soak(copied, pictures, args)
    result = {
        "environment": record.environment(args.threads),
        "encoder": record.encoder(Bundle.open(args.bundle), args.provider),
        "minutes": args.minutes,
        "fps": args.fps,
        "rank": args.rank,
        "policy": args.policy,
        "batch_size": args.batch_size,
        **_summary(seen, dropped),
        "reconnects": reconnects,
    }
    for name in ("answered", "errors", "dropped", "uncounted", "changes", "reconnects", "handles_growth"):
        print(f"{name:<22} {result[name]}")
    print(f"latency p50/p99/max    {result['p50_ms']:.1f} / {result['p99_ms']:.1f} / {result['max_ms']:.1f} ms")
    print(f"resident               {result['resident_bytes'] / 1e6:.1f} MB, {result['growth_bytes'] / 1e6:+.1f} MB")
    record.write(result, args.out)
    if not result["flat"] or result["uncounted"] or result["failed"]:
        print(f"NOT SOUND: memory grew, answers are missing that were not counted, or a change failed: {seen.failed}")
        return 1
    return 0


def _soak(bundle: Path, pictures: list[Path], args: argparse.Namespace) -> tuple[Seen, int, int]:
    """Runs for the asked time; what was seen, the frames dropped, and how often the camera was connected again."""
    seen, over = Seen(), threading.Event()
    came: deque[tuple[int, float]] = deque()
    with (
        Recognizer.open(bundle, args.provider, threads=args.threads) as recognizer,
        camera(pictures, args.fps) as address,
        frames(address) as video,
        tqdm(total=round(60 * args.minutes), desc="seconds", disable=None) as bar,
    ):

        def noted() -> Iterator[Pixels]:
            for place, pixels in enumerate(video):
                came.append((place, monotonic()))
                yield pixels

        beside = [threading.Thread(target=_change, args=(recognizer, pictures, seen, over), daemon=True)]
        beside += [threading.Thread(target=_sample, args=(seen, over), daemon=True)]
        stream = recognizer.stream(
            noted(), batch_size=args.batch_size, max_wait_ms=0, policy=args.policy, rank=args.rank
        )
        with stream as results:
            last, end = -1, monotonic() + 60 * args.minutes
            for result in results:
                now = monotonic()
                while came[0][0] < results.place:
                    came.popleft()
                seen.latencies.append(now - came.popleft()[1])
                seen.answered += 1
                seen.errors += result.error is not None
                seen.missing += results.place - last - 1
                last = results.place
                if seen.answered == 2 * args.batch_size:  # all that is made once was made
                    for thread in beside:
                        thread.start()
                bar.n = round(60 * args.minutes - max(0.0, end - now))
                bar.update(0)
                if now > end:
                    break
            dropped = results.dropped
        seen.sample()
        over.set()
        for thread in beside:
            if thread.ident is not None:
                thread.join()
        return seen, dropped, video.reconnects


def _change(recognizer: Recognizer, pictures: list[Path], seen: Seen, over: threading.Event) -> None:
    """Adds a class and removes it again, each second; now and then the memory folds its log."""
    try:
        while not over.wait(0.5):
            label = f"soak {seen.changes}"
            recognizer.memory.add(pictures[seen.changes % len(pictures)], label)
            over.wait(0.5)
            recognizer.memory.remove(label)
            seen.changes += 1
            if seen.changes % 60 == 0:
                recognizer.memory.compact()
    except RarError as error:
        seen.failed = str(error)


def _sample(seen: Seen, over: threading.Event) -> None:
    while not over.wait(_SAMPLE_S):
        seen.sample()


def _summary(seen: Seen, dropped: int) -> dict[str, Any]:
    """The figures. Growth is from after the warm-up, a fifth and up to five minutes or half of the time, to the end."""
    count = len(seen.resident)
    fifth = max(1, count // 5)
    warm = max(count // 5, min(_WARM, count // 2))

    def growth(samples: list[int]) -> int:
        return int(np.median(samples[-fifth:]) - np.median(samples[warm : warm + fifth]))

    grown, handles = growth(seen.resident), growth(seen.handles)
    series = np.array_split(np.array(seen.resident), min(60, count))
    p50, p99 = (1e3 * np.percentile(seen.latencies, [50, 99])).tolist()
    return {
        "answered": seen.answered,
        "errors": seen.errors,
        "dropped": dropped,
        "uncounted": max(0, seen.missing - dropped),
        "changes": seen.changes,
        "failed": seen.failed,
        "p50_ms": p50,
        "p99_ms": p99,
        "max_ms": 1e3 * max(seen.latencies),
        "resident_bytes": int(np.median(seen.resident[-fifth:])),
        "growth_bytes": grown,
        "resident_series": [int(np.median(some)) for some in series],
        "handles_growth": handles,
        "flat": grown <= _FLAT_BYTES and handles <= 2,
    }
