"""`rar-bench serve`: `rar-serve` under load on loopback, beside the library's own stream in the same run."""

from __future__ import annotations

import argparse
import http.client
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from tqdm import tqdm

from rar.runtime import Recognizer
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.errors import InputError, RarError
from rar.runtime.picture.folder import find

from .. import record
from ..usage import memory

_SAMPLE_S = 0.5
# Seconds in which nothing is counted.
_WARM_S = 5.0
# The library's pace is known after so long, however long the server is asked.
_OFFLINE_S = 60.0
# The class that is taught and removed while the server is asked.
_BESIDE = "beside"
# Resident memory may be this much larger at the end than after the warm-up: buffers of allocators, and the log.
_FLAT_BYTES = 24 * 2**20
_PICTURES = 256


@dataclass
class Round:
    """One turn of the library and one of the server.

    Attributes:
        offline: Pictures a second of `Recognizer.stream`, while the server only changes its memory.
        served: Pictures a second of the server.
        seen: What the clients saw.
    """

    offline: float
    served: float
    seen: dict[str, Any]


@dataclass
class Beside:
    """What goes on beside the clients: the memory is changed over HTTP, and the process looked at.

    Attributes:
        changes: Classes that were taught and removed again.
        failed: Why a change failed, if one did.
        resident: Bytes of the server's process, half a second apart.
    """

    changes: int = 0
    failed: str | None = None
    resident: list[int] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("bundle", metavar="BUNDLE", help="it is copied, and never changed")
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="pictures or folders (default: package photos)")
    parser.add_argument("--clients", type=int, default=16, help="default: %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=20, help="the server is asked in each round (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of library and server in turn (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="of both (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="the server's (default: %(default)s)")
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", metavar="FILE", help="result file (.json)")


def run(args: argparse.Namespace) -> int:
    """Runs, prints and writes; 1 if an answer is wrong, memory grew, or a request or a change failed."""
    if not 1 <= args.clients <= 256 or not 0 < args.seconds <= 24 * 3600 or not 1 <= args.rounds <= 100:
        raise InputError(
            f"--clients {args.clients} --seconds {args.seconds:g} --rounds {args.rounds}; "
            "give 1 to 256, up to a day, and 1 to 100"
        )
    pictures = _pictures(args.images)
    with tempfile.TemporaryDirectory(prefix="rar-serve-") as folder:
        own = Path(shutil.copytree(args.bundle, Path(folder) / "bundle"))
        rounds, beside = _rounds(own, pictures, args)
    result = {
        "environment": record.environment(args.threads),
        "encoder": record.encoder(Bundle.open(args.bundle), args.provider),
        "pictures": len(pictures),
        "clients": args.clients,
        "seconds": args.seconds,
        "batch_size": args.batch_size,
        "workers": args.workers,
        **summary(rounds, beside),
    }
    for name in ("offline", "served"):
        print(f"{name:<10} {' / '.join(f'{one:.1f}' for one in result[name])} pictures/s")
    print(f"ratio      {result['ratio']['median']:.2f}, the lowest {min(result['ratios']):.2f}")
    print(
        f"latency    p50 {result['p50_ms']:.0f} ms, p99 {result['p99_ms']:.0f} ms: {result['p99_batches']:.1f} batches"
    )
    print(f"batch      {result['batch']['median']:.0f} pictures of {result['requests']}; {result['changes']} changes")
    print(f"resident   {result['resident_bytes'] / 1e6:.0f} MB, {result['growth_bytes'] / 1e6:+.1f} MB")
    record.write(result, args.out)
    if result["wrong"] or not result["flat"] or result["failed"]:
        print(f"NOT SOUND: {result['wrong']} wrong answers, flat: {result['flat']}, failed: {result['failed']}")
        return 1
    return 0


def summary(rounds: Sequence[Round], beside: Beside) -> dict[str, Any]:
    """The figures. A batch's time is that of a batch as large as the clients met, at the library's pace."""
    latencies = [value for one in rounds for value in one.seen["latencies"]]
    if not latencies:
        raise RarError(f"no request was answered: {[one.seen['failed'] for one in rounds]}")
    ratios = [one.served / one.offline for one in rounds]
    p50, p99 = (1e3 * np.percentile(latencies, [50, 99])).tolist()
    batch = record.spread([value for one in rounds for value in one.seen["batches"]])
    pace = float(np.median([one.offline for one in rounds]))
    fifth = max(1, len(beside.resident) // 5)
    first, last = (np.median(part) for part in (beside.resident[fifth : 2 * fifth] or [0], beside.resident[-fifth:]))
    failed = next((one.seen["failed"] for one in rounds if one.seen["failed"]), None) or beside.failed
    return {
        "offline": [one.offline for one in rounds],
        "served": [one.served for one in rounds],
        "ratios": ratios,
        "ratio": record.spread(ratios),
        "requests": len(latencies),
        "refused": sum(one.seen["refused"] for one in rounds),
        "wrong": sum(one.seen["wrong"] for one in rounds),
        "p50_ms": p50,
        "p99_ms": p99,
        "max_ms": 1e3 * max(latencies),
        "batch": batch,
        "p99_batches": p99 / (1e3 * batch["median"] / pace),
        "changes": beside.changes,
        "failed": failed,
        "resident_bytes": int(last),
        "growth_bytes": int(last - first),
        "flat": bool(last - first <= _FLAT_BYTES),
    }


def _pictures(given: Sequence[str]) -> list[Path]:
    if not given:
        from rar.export.pictures.photos import package_photos  # needs the extra `export`

        return package_photos()
    found: list[Path] = []
    for name in given:
        path = Path(name)
        found += find(path).images if path.is_dir() else [path]
    missing = [path for path in found if not path.is_file()]
    if missing or not found:
        raise InputError(f"{missing[0] if missing else given[0]}: no such picture; check the path")
    step = -(-len(found) // _PICTURES)
    return found[::step]


def _rounds(bundle: Path, pictures: list[Path], args: argparse.Namespace) -> tuple[list[Round], Beside]:
    beside, rounds, labels = Beside(), [], _labels(bundle, pictures, args)
    with (
        Recognizer.open(bundle, args.provider, threads=args.threads) as recognizer,
        _served(bundle, args) as (url, process),
        tqdm(total=2 * args.rounds, desc="turns", disable=None) as bar,
    ):
        asked = json.dumps({"pictures": [str(path) for path in pictures], "labels": labels})
        # Sessions take memory for each number of pictures that they meet.
        _clients(url, asked, args, min(args.seconds, _WARM_S))
        for _ in range(args.rounds):
            # Beside both: the changes take processors from either.
            with _aside(url, process.pid, beside):
                offline = _offline(recognizer, pictures, args.batch_size, min(args.seconds, _OFFLINE_S))
                bar.update()
                start = monotonic()
                seen = _clients(url, asked, args, args.seconds)
                served = len(seen["latencies"]) / (monotonic() - start)
            rounds.append(Round(offline, served, seen))
            bar.update()
    return rounds, beside


def _labels(bundle: Path, pictures: list[Path], args: argparse.Namespace) -> list[list[str | None]]:
    """The library's own answers, as the memory is and with what is taught beside: that takes a candidate's place."""
    with Recognizer.open(bundle, args.provider, threads=args.threads) as recognizer:
        before = [result.label for result in recognizer.recognize(pictures)]
        recognizer.memory.add([_grey()], _BESIDE)
        after = [result.label for result in recognizer.recognize(pictures)]
        recognizer.memory.remove(_BESIDE)
    return [list(pair) for pair in zip(before, after, strict=True)]


def _offline(recognizer: Recognizer, pictures: Sequence[Path], size: int, seconds: float) -> float:
    """Pictures a second of an endless stream of the same pictures' bytes."""
    contents = [path.read_bytes() for path in pictures]
    start = monotonic()

    def endless() -> Iterator[bytes]:
        while monotonic() - start < seconds:
            yield from contents

    with recognizer.stream(endless(), batch_size=size) as results:
        count = 0
        for _ in results:
            count += 1
            if monotonic() - start > seconds:
                break
    return count / (monotonic() - start)


def _clients(url: str, asked: str, args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "rar.benchmarks.serve.clients", url]
    command += ["--clients", str(args.clients), "--seconds", str(seconds)]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RarError(f"the clients ended with {done.returncode}: {done.stderr[-500:]}")
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


@contextmanager
def _served(bundle: Path, args: argparse.Namespace) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server's address and its process, until the block ends."""
    command = [sys.executable, "-m", "rar.serving.http.command", str(bundle), "--port", "0"]
    command += ["--provider", args.provider, "--batch-size", str(args.batch_size), "--workers", str(args.workers)]
    command += [] if args.threads is None else ["--threads", str(args.threads)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            told = process.stderr.readline() if process.stderr is not None else ""
            if (found := re.fullmatch(r"rar-serve: (\S+)\n", told)) is None:
                raise RarError(f"the server did not start: {told.strip()}")
            yield found[1], process
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()


@contextmanager
def _aside(url: str, process: int, beside: Beside) -> Iterator[None]:
    """Changes the memory and looks at the process, in threads, until the block ends."""
    over = threading.Event()
    threads = [
        threading.Thread(target=_change, args=(url, beside, over)),
        threading.Thread(target=_sample, args=(process, beside, over)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _change(url: str, beside: Beside, over: threading.Event) -> None:
    """Teaches a class with a picture of another kind and removes it, each second."""
    address, grey = urlsplit(url), _grey()
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=120)

    def change(method: str, path: str, status: int, body: bytes | None = None) -> None:
        connection.request(method, path, body, {"Content-Type": "image/png"})
        response = connection.getresponse()
        if (said := response.read()) and response.status != status:
            raise OSError(f"{method} {path}: {response.status} {said.decode()[:200]}")

    try:
        while not over.wait(0.5):
            change("POST", f"/memory?labels={_BESIDE}", 201, grey)
            over.wait(0.5)
            change("DELETE", f"/memory/{_BESIDE}", 200)
            beside.changes += 1
    except (OSError, http.client.HTTPException) as error:
        beside.failed = f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def _grey() -> bytes:
    """A picture of nothing: what is taught beside must not be an answer."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (127, 127, 127)).save(file, "PNG")
    return file.getvalue()


def _sample(process: int, beside: Beside, over: threading.Event) -> None:
    while not over.is_set():
        beside.resident.append(memory(process).resident)
        sleep(_SAMPLE_S)
