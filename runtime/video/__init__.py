"""Pictures from video files, cameras and network streams; needs the extra `video` (PyAV).

Example:
    >>> from rar.runtime.video import frames
    >>> with frames("rtsp://camera/live") as video:
    ...     for result in rec.stream(video, batch_size=4, max_wait_ms=20, policy="latest"):
    ...         print(result.label)
"""

from .reader import Video, frames
from .window import Window

__all__ = ["Video", "Window", "frames"]
