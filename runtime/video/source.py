"""What a video comes from, and how FFmpeg is to open it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from av.container import InputContainer

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_PASSWORD = re.compile(r"(?<=://)[^/@]*@")
# Addresses that are read. A playlist or a session description from there can name no local file.
_NETWORK = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "tcp", "udp", "rtp", "srt", "tls")
_PROTOCOLS = "rtsp,rtsps,rtp,srtp,rtmp,rtmps,rtmpt,http,https,httpproxy,tcp,udp,srt,tls,crypto,data"
# A camera must not be behind: no frames are kept back, neither by the demuxer nor to guess at the format.
_LIVE = {"fflags": "nobuffer", "flags": "low_delay", "analyzeduration": "1000000"}


@dataclass(frozen=True)
class VideoSource:
    """How a video is opened.

    Attributes:
        address: What FFmpeg opens.
        live: Whether it may come as it happens, so that it cannot be read faster.
        format: FFmpeg's name of the container; None if it finds out.
        options: FFmpeg's options.
    """

    address: str
    live: bool
    format: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, source: str | os.PathLike[str], options: Mapping[str, str] | None = None) -> VideoSource:
        """Recognises a file, a V4L2 device such as `/dev/video0`, or an address such as `rtsp://...`.

        Raises:
            InputError: It is none of these.
        """
        address, given = os.fspath(source), dict(options or {})
        if scheme := _SCHEME.match(address):
            name = scheme[1].lower()
            if name not in _NETWORK:
                raise InputError(f"{shown(address)}: give a file, a device or one of {', '.join(_NETWORK)}")
            # Over HTTP it may be a film, whose first frames would be left out.
            defaults = {} if name.startswith("http") else _LIVE
            defaults = {**defaults, "rtsp_transport": "tcp"} if name.startswith("rtsp") else defaults
            return cls(address, True, None, {**defaults, "protocol_whitelist": _PROTOCOLS, **given})
        try:
            mode = os.stat(address).st_mode
        except (OSError, ValueError) as error:
            raise InputError(f"{address}: no such video ({error}); check the path") from error
        if stat.S_ISCHR(mode):
            return cls(address, True, "v4l2", {"fflags": "nobuffer", **given})
        if not stat.S_ISREG(mode):
            raise InputError(f"{address}: neither a file nor a device; give a video")
        # `file:` so that no other protocol is read out of the name.
        return cls(f"file:{address}", False, None, {"protocol_whitelist": "file", **given})

    def open(self, patience: float) -> InputContainer:
        """Opens it; an opening or a read that takes longer than `patience` seconds fails.

        Raises:
            InputError: PyAV is not installed.
            av.FFmpegError: It cannot be opened.
        """
        try:
            import av  # not at the top: an extra
        except ImportError as error:
            raise InputError(
                "video needs PyAV; install the extra `video` (pip install 'rar-runtime[video]')"
            ) from error
        return av.open(self.address, format=self.format, options=dict(self.options), timeout=(patience, patience))

    def __str__(self) -> str:
        return shown(self.address.removeprefix("file:"))


def shown(address: str) -> str:
    """An address without the user's name and password."""
    return _PASSWORD.sub("", address)
