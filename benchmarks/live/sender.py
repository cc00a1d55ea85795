"""A camera in a process of its own: encoded video over TCP on loopback, at its own pace, until it is ended."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from rar.runtime.errors import InputError
from rar.runtime.picture.load import Pixels, load_image

WIDTH, HEIGHT = 640, 480


@contextmanager
def camera(pictures: Sequence[Path], fps: int) -> Iterator[str]:
    """Starts the process.

    Yields:
        The address, for `rar.runtime.video.frames`, which must listen there; the camera connects again when it is lost.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "rar.benchmarks.live.sender", str(port), str(fps), *map(str, pictures)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            yield f"tcp://127.0.0.1:{port}?listen=1"
        finally:
            process.kill()


def moving(pixels: Pixels, number: int) -> Pixels:
    """A window of 640x480 that moves over a picture, in the shape of an eight."""
    height, width, _ = pixels.shape
    x = (1 + np.sin(number / 40)) / 2 * (width - WIDTH)
    y = (1 + np.sin(number / 20)) / 2 * (height - HEIGHT)
    return np.ascontiguousarray(pixels[int(y) : int(y) + HEIGHT, int(x) : int(x) + WIDTH])


def send(port: int, fps: int, pictures: Sequence[Path]) -> None:
    """Sends MPEG-TS to whoever listens on the port: ten seconds of each picture in turn."""
    from PIL import Image

    shown = []
    for path in pictures:
        image = Image.fromarray(load_image(path))
        scale = 1.25 * max(WIDTH / image.width, HEIGHT / image.height)
        shown.append(np.asarray(image.resize((int(scale * image.width) + 1, int(scale * image.height) + 1))))
    while True:
        _send(port, fps, shown)
        time.sleep(0.2)


def _send(port: int, fps: int, shown: Sequence[Pixels]) -> None:
    import av

    with suppress(OSError, av.error.FFmpegError), av.open(f"tcp://127.0.0.1:{port}", "w", format="mpegts") as out:
        stream = out.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "tune": "zerolatency", "g": "15"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        begin, number = time.monotonic(), 0
        while True:
            pixels = moving(shown[number // (10 * fps) % len(shown)], number)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                out.mux(packet)
            number += 1
            time.sleep(max(0.0, begin + number / fps - time.monotonic()))


def check(pictures: Sequence[Path]) -> None:
    """Checks that the pictures can be sent.

    Raises:
        InputError: There is none, or PyAV is not installed.
        ImageError: One cannot be read.
    """
    try:
        import av  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise InputError("a live source needs PyAV; install the extra `video`") from error
    if not pictures:
        raise InputError("give pictures for the camera to show")
    for path in pictures:
        load_image(path)


if __name__ == "__main__":
    send(int(sys.argv[1]), int(sys.argv[2]), list(map(Path, sys.argv[3:])))
