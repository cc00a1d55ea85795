"""A service around a bundle: recognises every picture that is put into a folder, with the models kept loaded.

python watch.py BUNDLE IN OUT [--provider engine] [--once]

Write a picture elsewhere and rename it into IN. Its result is one line of OUT/results.jsonl, as `rar-recognize --json`
prints it, and the picture then lies in OUT.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event

from rar.runtime import Recognizer
from rar.runtime.cli.guard import guard
from rar.runtime.cli.recognize import to_json
from rar.runtime.session import CHOICES

_BATCH = 16


def main() -> int:
    """Entry point; ends with the batch in hand at SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("inbox", type=Path, metavar="IN")
    parser.add_argument("outbox", type=Path, metavar="OUT")
    parser.add_argument("--provider", default="auto", choices=CHOICES)
    parser.add_argument("--once", action="store_true", help="end when IN is empty")
    args = parser.parse_args()
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.INFO)
    return guard("watch", lambda: watch(args))


def watch(args: argparse.Namespace) -> int:
    """Recognises what comes until it is told to stop."""
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    recognizer = Recognizer.open(args.bundle, args.provider)
    logging.getLogger("rar").info("ready: %s", recognizer.clip.sessions.running)
    args.outbox.mkdir(parents=True, exist_ok=True)
    with (args.outbox / "results.jsonl").open("a", encoding="utf-8") as results:
        for batch in batches(args.inbox, stop, args.once):
            for path, result in zip(batch, recognizer.recognize(batch), strict=True):
                print(to_json(path, result, recognizer.provider), file=results)
            # The results first: a picture that is seen twice is better than one that is lost.
            results.flush()
            os.fsync(results.fileno())
            for path in batch:
                os.replace(path, args.outbox / path.name)
    return 0


def batches(inbox: Path, stop: Event, once: bool) -> Iterator[list[Path]]:
    """The oldest pictures of a folder, some at a time; waits where there are none."""
    while not stop.is_set():
        files = [entry for entry in os.scandir(inbox) if entry.is_file() and not entry.name.startswith(".")]
        files.sort(key=lambda entry: entry.stat().st_mtime)
        if files:
            yield [Path(entry.path) for entry in files[:_BATCH]]
        elif once:
            return
        else:
            stop.wait(0.2)


if __name__ == "__main__":
    sys.exit(main())
