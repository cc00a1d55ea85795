"""`rar-recognize --video`: names what a camera or a film shows, as it comes."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic

from ..errors import InputError
from ..picture.load import Pixels
from ..recognizer import Recognizer
from ..result import Result
from ..video import Video, Window, frames
from ..video.window import Average
from .printable import json_line, printable
from .records import record, told

# A live frame shares its batch with what came meanwhile, and waits for nothing.
_LIVE_BATCH = 4
_FILE_BATCH = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of video."""
    video = parser.add_argument_group("video, in place of IMAGE")
    video.add_argument(
        "--video", metavar="SOURCE", help="a file, a device such as /dev/video0, or an address such as rtsp://..."
    )
    video.add_argument("--every", type=int, metavar="N", help="answer every N-th frame (default: 1)")
    video.add_argument(
        "--window", type=int, metavar="N", help="also average the log-probabilities of the last N answered frames"
    )


def check(args: argparse.Namespace) -> None:
    """Checks that the options go together.

    Raises:
        InputError: One of video is given without it.
    """
    for option, value in {"--every": args.every, "--window": args.window}.items():
        if value is not None and args.video is None:
            raise InputError(f"{option} goes only with --video; add --video SOURCE or leave it out")


@dataclass(frozen=True)
class Answer:
    """One frame's answer.

    Attributes:
        frame: The frame's number in the video.
        seconds: Its time in the video.
        latency: Seconds from when it was decoded to its answer.
        dropped: How many frames were dropped so far because newer ones came.
        reconnects: How often the video was opened again so far.
        result: The answer.
        window: The classes over the window, the likeliest first; None without a window.
    """

    frame: int
    seconds: float
    latency: float
    dropped: int
    reconnects: int
    result: Result
    window: list[Average] | None


def run(args: argparse.Namespace, recognizer: Recognizer) -> int:
    """Recognises the frames of a video and prints each answer as it comes.

    Returns:
        0, or 2 if a frame could not be answered.

    Raises:
        InputError: The video cannot be opened or broke off, or a setting cannot be used.
    """
    window = None if args.window is None else Window(args.window)
    failed = False
    with frames(args.video, every=1 if args.every is None else args.every) as video:
        for answer in answers(recognizer, video, window, args):
            failed |= answer.result.error is not None
            print(to_json(answer, video, recognizer.provider) if args.json else to_table(answer), flush=True)
    return 2 if failed else 0


def answers(recognizer: Recognizer, video: Video, window: Window | None, args: argparse.Namespace) -> Iterator[Answer]:
    """The answers of a video's frames, in order."""
    came: deque[tuple[int, int, float, float]] = deque()

    def noted() -> Iterator[Pixels]:
        for place, pixels in enumerate(video):
            came.append((place, video.number, video.seconds, monotonic()))
            yield pixels

    with recognizer.stream(
        noted(),
        batch_size=_LIVE_BATCH if video.live else _FILE_BATCH,
        max_wait_ms=0 if video.live else None,
        policy="latest" if video.live else "every",
        k=args.k,
        rank=args.rank,
        gate=args.gate,
        deadline_ms=args.deadline_ms,
        unknown=args.unknown,
    ) as results:
        for result in results:
            while came[0][0] < results.place:  # dropped
                came.popleft()
            _, number, seconds, since = came.popleft()
            average = (
                None if window is None else window.add(() if result.refused else result.candidates, result.sharpness)
            )
            latency = monotonic() - since
            yield Answer(number, seconds, latency, results.dropped, video.reconnects, result, average)


def to_json(answer: Answer, video: Video, provider: str) -> str:
    """One answer as a line of JSON."""
    line: dict[str, object] = {
        "video": str(video.source),
        "frame": answer.frame,
        "seconds": round(answer.seconds, 3),
        "latency_ms": round(1e3 * answer.latency, 1),
        "dropped": answer.dropped,
        "reconnects": answer.reconnects,
        **record(answer.result, provider),
    }
    if answer.window is not None:
        line["window"] = [vars(average) for average in answer.window]
    return json_line(line)


def to_table(answer: Answer) -> str:
    """One answer as a line for a terminal."""
    head = f"{answer.seconds:9.2f} s  frame {answer.frame:<6}"
    tail = f"  {1e3 * answer.latency:.0f} ms" + (f"  {answer.dropped} dropped" if answer.dropped else "")
    result = answer.result
    if result.error is not None:
        return f"{head}  error: {printable(str(result.error))}{tail}"
    best = told(result)
    if answer.window:
        best += f"  window: {printable(answer.window[0].label)}  {answer.window[0].log_probability:.3f}"
    return f"{head}  {best}{tail}"
