"""Encoded video for the tests: a file, a sender over TCP, or an RTSP server on loopback; each shows pictures in turn.

python clips.py send PORT FPS PICTURE...      connects to a listener on 127.0.0.1 and sends MPEG-TS
python clips.py rtsp PORT FPS PICTURE...      serves rtsp://127.0.0.1:PORT/ by interleaved RTP
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

WIDTH, HEIGHT = 96, 80
FRAMES_EACH = 10
_SDP = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=test
c=IN IP4 127.0.0.1
t=0 0
m=video 0 RTP/AVP 96
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1
a=control:track1
"""


def encode(
    out: Any, pictures: Sequence[Path], fps: int, *, forever: bool = False, codec: str = "libx264"
) -> Iterator[None]:
    """Shows each picture for ten frames and muxes them, one a step."""
    options = {"preset": "ultrafast", "tune": "zerolatency", "g": "10"} if codec == "libx264" else {}
    stream = out.add_stream(codec, rate=fps, options=options)
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    shown = [np.asarray(Image.open(path).convert("RGB").resize((WIDTH, HEIGHT))) for path in pictures]
    while True:
        for pixels in shown:
            for _ in range(FRAMES_EACH):
                for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                    out.mux(packet)
                yield
        if not forever:
            break
    for packet in stream.encode():
        out.mux(packet)


def write_clip(path: Path, pictures: Sequence[Path], fps: int = 10, codec: str = "libx264") -> Path:
    """A file of ten frames a picture."""
    with av.open(str(path), "w") as out:
        for _ in encode(out, pictures, fps, codec=codec):
            pass
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _paced(out: Any, pictures: Sequence[Path], fps: int) -> None:
    begin = time.monotonic()
    for number, _ in enumerate(encode(out, pictures, fps, forever=True), 1):
        time.sleep(max(0.0, begin + number / fps - time.monotonic()))


def _send(port: int, fps: int, pictures: Sequence[Path]) -> None:
    while True:  # until somebody listens
        with suppress(OSError, av.error.FFmpegError), av.open(f"tcp://127.0.0.1:{port}", "w", format="mpegts") as out:
            _paced(out, pictures, fps)
        time.sleep(0.05)


def _serve(port: int, fps: int, pictures: Sequence[Path]) -> None:
    with socket.create_server(("127.0.0.1", port)) as server:
        print("ready", flush=True)
        while True:
            client, _ = server.accept()
            threading.Thread(target=_answer, args=(client, fps, pictures), daemon=True).start()


def _answer(client: socket.socket, fps: int, pictures: Sequence[Path]) -> None:
    lines: list[str] = []
    with client, client.makefile("rb") as requests, suppress(OSError):
        for raw in requests:
            if line := raw.decode(errors="replace").strip():
                lines.append(line)
                continue
            if not lines:
                continue
            method = lines[0].split()[0]
            headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
            body, extra = "", ""
            if method == "DESCRIBE":
                body, extra = _SDP.replace("\n", "\r\n"), "Content-Type: application/sdp\r\n"
            elif method == "SETUP":
                extra = f"Transport: {headers['Transport']}\r\nSession: 1\r\n"
            elif method == "PLAY":
                extra = "Session: 1\r\n"
            elif method == "OPTIONS":
                extra = "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            head = f"RTSP/1.0 200 OK\r\nCSeq: {headers['CSeq']}\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
            client.sendall((head + body).encode())
            if method == "PLAY":
                threading.Thread(target=_play, args=(client, fps, pictures), daemon=True).start()
            if method == "TEARDOWN":
                return
            lines.clear()


def _play(client: socket.socket, fps: int, pictures: Sequence[Path]) -> None:
    """FFmpeg makes the RTP packets and sends them here; they go on as the RTSP connection carries them."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packets:
        packets.bind(("127.0.0.1", 0))
        port = packets.getsockname()[1]

        def muxed() -> None:
            with av.open(f"rtp://127.0.0.1:{port}?rtcpport={port}", "w", format="rtp") as out:
                _paced(out, pictures, fps)

        threading.Thread(target=muxed, daemon=True).start()
        with suppress(OSError):
            while True:
                packet = packets.recv(65536)
                channel = 1 if 200 <= packet[1] <= 204 else 0  # RTCP, or RTP
                client.sendall(b"$" + bytes([channel]) + len(packet).to_bytes(2, "big") + packet)


if __name__ == "__main__":
    {"send": _send, "rtsp": _serve}[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]), list(map(Path, sys.argv[4:])))
