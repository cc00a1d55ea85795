"""Reads a video as uint8 RGB pictures, and goes on when a live one breaks off."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from threading import Event, Lock
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING
from weakref import WeakSet

import numpy as np

from ..errors import InputError
from ..picture.load import MAX_PIXELS, Pixels
from .source import VideoSource

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

_LOG = logging.getLogger("rar")

# Seconds before a live video is opened again: the first time, and at most, each time twice as long.
_FIRST, _LONGEST = 0.25, 8.0
# Seconds that an opening or a read may take.
_PATIENCE = 10.0


def frames(
    source: str | os.PathLike[str],
    *,
    every: int = 1,
    give_up_s: float = 60.0,
    options: Mapping[str, str] | None = None,
) -> Video:
    """Opens a video.

    A file, also one at an address, is read to its end, as fast as it is asked for. A live source does not end: if it
    breaks off, it is opened again, after a quarter of a second, then after twice as long each time, up to eight
    seconds. Give it to `Recognizer.stream` with `policy="latest"`, so that its frames do not queue up and grow old.

    Args:
        source: A file, a device such as `/dev/video0`, or an address: `rtsp://...`, `http://...`, `udp://...`.
        every: Gives every n-th frame only; the others are decoded and not converted.
        give_up_s: Seconds without a frame until an error is raised; `math.inf` for never.
        options: FFmpeg's own options, such as `{"video_size": "1280x720"}` for a device.

    Returns:
        An iterator of uint8 [H, W, 3], RGB, upright.

    Raises:
        InputError: PyAV is not installed, the source cannot be opened or holds no video, or a setting is out of range.
    """
    if isinstance(every, bool) or every < 1:
        raise InputError(f"every={every}; give 1 or more frames")
    if not give_up_s > 0:
        raise InputError(f"give_up_s={give_up_s}; give seconds above 0")
    return Video(VideoSource.of(source, options), every, give_up_s)


class Video(Iterator[Pixels]):
    """Frames of a video; see `frames`. One thread reads it, any thread may close it.

    Attributes:
        source: Where it comes from.
        live: Whether it comes as it happens: a device, or an address that tells of no end.
        number: The number of the frame that was given last, counted from 0 over all that were decoded.
        seconds: Its time: in the video, or if it is live since the first frame came.
        reconnects: How many times a live video was opened again.
        broken: How many packets could not be decoded and were passed over.
    """

    def __init__(self, source: VideoSource, every: int, give_up_s: float) -> None:
        self.source = source
        self.number = -1
        self.seconds = 0.0
        self.reconnects = 0
        self.broken = 0
        self._every = every
        self._give_up = give_up_s
        self._closed = Event()
        self._reading = Lock()  # held while FFmpeg's code may run
        self._came = self._began = monotonic()
        self._decoded = 0
        container = self._open()
        self.live = source.live and container.duration is None
        self._frames = self._read(container)
        _OPEN.add(self)

    def __next__(self) -> Pixels:
        with self._reading:
            return next(self._frames)

    def close(self) -> None:
        """Ends it. A read that is under way in another thread ends by itself, after ten seconds at the latest."""
        self._closed.set()
        with suppress(ValueError):  # it is under way
            self._frames.close()

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> InputContainer:
        """The first opening: what does not work now is a mistake of the caller's more often than a broken line."""
        try:
            container = self.source.open(_PATIENCE)
        except InputError:
            raise
        except Exception as error:  # FFmpeg's family, and OSError and ValueError
            raise InputError(
                f"{self.source}: cannot be opened ({_reason(error)}); check the address, and that it is a video"
            ) from error
        if not container.streams.video:
            container.close()
            raise InputError(f"{self.source}: holds no video; give one that does")
        return container

    def _read(self, container: InputContainer | None) -> Generator[Pixels, None, None]:
        wait = _FIRST
        while not self._closed.is_set():
            failed: Exception | None = None
            before = self._decoded
            try:
                if container is None:
                    container = self.source.open(_PATIENCE)
                yield from self._of(container)
            except InputError:
                raise
            except Exception as error:  # as above
                failed = error
            finally:
                if container is not None:
                    container.close()
            if not self.live:
                self._end(failed)
                return
            container = None
            wait = _FIRST if self._decoded > before else min(2 * wait, _LONGEST)
            why = "it ended" if failed is None else _reason(failed)
            if monotonic() - self._came > self._give_up:
                raise InputError(f"{self.source}: gave no frame for {self._give_up:g} s ({why}); check the camera")
            _LOG.info("%s: broke off (%s); opened again in %g s", self.source, why, wait)
            self.reconnects += not self._closed.wait(wait)

    def _of(self, container: InputContainer) -> Iterator[Pixels]:
        (stream, *_) = container.streams.video
        # Frames that are decoded side by side come late, which only a file does not mind.
        stream.thread_type = "SLICE" if self.live else "AUTO"
        for frame in self._decode(container, stream):
            if self._closed.is_set():
                return
            self._came = monotonic()
            if not self._decoded:
                self._began = self._came
            number, self._decoded = self._decoded, self._decoded + 1
            if number % self._every:
                continue
            if frame.width * frame.height > MAX_PIXELS:
                raise InputError(
                    f"{self.source}: {frame.width}x{frame.height} is over the limit of {MAX_PIXELS} pixels"
                    "; have the source send smaller frames"
                )
            live = self.live or frame.time is None
            self.number, self.seconds = number, self._came - self._began if live else float(frame.time or 0.0)
            yield _upright(frame)

    def _decode(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        """All frames; a packet that cannot be decoded, such as one that came damaged over the air, is passed over."""
        import av

        for packet in container.demux(stream):
            try:
                yield from packet.decode()
            except av.error.InvalidDataError:
                self.broken += 1

    def _end(self, failed: Exception | None) -> None:
        if failed is None and self._decoded:
            return
        if failed is not None:
            raise InputError(
                f"{self.source}: damaged after frame {self._decoded} ({_reason(failed)}); frames before it were given"
            ) from failed
        raise InputError(f"{self.source}: none of its frames can be decoded; the file is damaged")


_OPEN: WeakSet[Video] = WeakSet()


def _end_reading() -> None:
    """At the end of the process: Python would free a video that FFmpeg still reads in a daemon thread, and crash."""
    videos = list(_OPEN)
    for video in videos:
        video.close()
    for video in videos:
        video._reading.acquire(timeout=_PATIENCE)  # and keeps it: nothing is read any more


atexit.register(_end_reading)
os.register_at_fork(after_in_child=_OPEN.clear)  # they are the parent's


def _upright(frame: VideoFrame) -> Pixels:
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4  # counter-clockwise, as phones note it
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else np.ascontiguousarray(pixels)


def _reason(error: Exception) -> str:
    """FFmpeg's words without the address, which may hold a password."""
    return str(getattr(error, "strerror", None) or type(error).__name__)
