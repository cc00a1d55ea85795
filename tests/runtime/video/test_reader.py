"""Video of files and of real local streams: every frame in order, and again after the line broke."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import clips
import numpy as np
import pytest
from PIL import Image

from rar.runtime import InputError, Recognizer
from rar.runtime.video import frames
from rar.runtime.video.source import VideoSource, shown

av = pytest.importorskip("av")

GREYS = (40, 200)


@pytest.fixture(scope="module")
def greys(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("greys")
    for grey in GREYS:
        Image.new("RGB", (96, 80), (grey, grey, grey)).save(folder / f"{grey}.png")
    return [folder / f"{grey}.png" for grey in GREYS]


@pytest.fixture(scope="module")
def clip(greys: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", greys)


@contextmanager
def served(kind: str, port: int, pictures: list[Path], fps: int = 20) -> Iterator[subprocess.Popen[str]]:
    """A process that sends, or serves by RTSP."""
    argv = [sys.executable, clips.__file__, kind, str(port), str(fps), *map(str, pictures)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            if kind == "rtsp":
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def address(kind: str, port: int) -> str:
    return f"rtsp://127.0.0.1:{port}/live" if kind == "rtsp" else f"tcp://127.0.0.1:{port}?listen=1"


def grey(pixels: Any) -> int:
    return min(GREYS, key=lambda one: abs(one - float(np.mean(pixels))))


class TestFiles:
    @pytest.mark.parametrize("every", [1, 2, 3, 7, 100])
    def test_every_frame_in_order_with_its_time(self, clip: Path, every: int) -> None:
        found = []
        with frames(clip, every=every) as video:
            for pixels in video:
                assert (pixels.dtype, pixels.shape) == (np.uint8, (80, 96, 3))
                found.append((video.number, grey(pixels)))
                assert video.seconds == pytest.approx(video.number / 10)
        assert found == [(i, GREYS[i // 10]) for i in range(0, 20, every)]
        assert (video.reconnects, video.broken) == (0, 0)

    @pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.ts", "libx264")])
    def test_of_other_kinds(self, greys: list[Path], tmp_path: Path, name: str, codec: str) -> None:
        path = clips.write_clip(tmp_path / name, greys, codec=codec)
        assert [grey(pixels) for pixels in frames(path)] == [40] * 10 + [200] * 10

    def test_colours_are_red_green_and_blue(self, tmp_path: Path) -> None:
        Image.new("RGB", (96, 80), (220, 30, 40)).save(tmp_path / "red.png")
        pixels = next(frames(clips.write_clip(tmp_path / "red.mp4", [tmp_path / "red.png"])))
        assert np.abs(pixels.reshape(-1, 3).mean(0) - (220, 30, 40)).max() < 12

    def test_what_can_be_decoded_of_a_damaged_one_is_given(self, greys: list[Path], tmp_path: Path) -> None:
        path = clips.write_clip(tmp_path / "a.ts", greys)
        content = bytearray(path.read_bytes())
        content[len(content) // 3 : len(content) // 3 + 400] = bytes(400)
        path.write_bytes(content)
        assert 10 < len(list(frames(path))) <= 20

    @pytest.mark.parametrize("content", [b"", b"no video", bytes(10_000), b"\x00\x00\x00\x18ftypmp42" + bytes(50)])
    def test_what_is_no_video(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "a.mp4"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.mp4: (cannot be opened|holds no video|none of its frames|damaged)"):
            list(frames(path))

    def test_a_playlist_leads_nowhere_else(self, clip: Path, tmp_path: Path) -> None:
        """A file from a stranger must neither reach the network nor be read as another protocol by its name."""
        playlist = tmp_path / "a.m3u8"
        port = clips.free_port()
        playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nhttp://127.0.0.1:{port}/x.ts\n")
        with pytest.raises(InputError):
            list(frames(playlist))
        odd = tmp_path / "concat:a.mp4"
        odd.write_bytes(clip.read_bytes())
        assert len(list(frames(odd))) == 20

    def test_one_at_an_address_has_an_end(self, clip: Path) -> None:
        handler = partial(SimpleHTTPRequestHandler, directory=str(clip.parent))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            serving = threading.Thread(target=server.serve_forever)
            serving.start()
            try:
                video = frames(f"http://127.0.0.1:{server.server_port}/{clip.name}")
                assert [grey(pixels) for pixels in video] == [40] * 10 + [200] * 10
                assert (video.live, video.seconds) == (False, pytest.approx(1.9))
            finally:
                server.shutdown()
                serving.join()


class TestSettings:
    @pytest.mark.parametrize(
        ("source", "settings", "message"),
        [
            ("nowhere.mp4", {}, "no such video"),
            (".", {}, "neither a file nor a device"),
            ("concat://a|b", {}, "give a file, a device or one of rtsp"),
            ("file:///etc/passwd", {}, "give a file, a device or one of rtsp"),
            ("clip", {"every": 0}, "every=0"),
            ("clip", {"give_up_s": 0.0}, "give_up_s=0"),
            ("clip", {"give_up_s": math.nan}, "give_up_s=nan"),
            ("rtsp://user:secret@127.0.0.1:9/x", {}, r"rtsp://127.0.0.1:9/x: cannot be opened \(Connection refused\)"),
        ],
    )
    def test_bad_ones_are_said_at_once(self, clip: Path, source: str, settings: Any, message: str) -> None:
        with pytest.raises(InputError, match=message) as raised:
            frames(clip if source == "clip" else source, **settings)
        assert "secret" not in str(raised.value)

    def test_without_pyav_it_says_what_to_install(self, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(InputError, match=r"pip install 'rar-runtime\[video\]'"):
            frames(clip)

    @pytest.mark.parametrize(
        ("source", "live", "container", "holds"),
        [
            ("/dev/null", True, "v4l2", {"video_size": "640x480"}),
            ("rtsp://a/b", True, None, {"rtsp_transport": "tcp", "fflags": "nobuffer", "video_size": "640x480"}),
            ("udp://239.0.0.1:5000", True, None, {"fflags": "nobuffer"}),
            (__file__, False, None, {"protocol_whitelist": "file"}),
        ],
    )
    def test_how_each_kind_is_opened(self, source: str, live: bool, container: Any, holds: dict[str, str]) -> None:
        opened = VideoSource.of(source, {"video_size": "640x480"})
        assert (opened.live, opened.format) == (live, container)
        assert holds.items() <= opened.options.items()

    def test_a_device_that_is_none(self) -> None:
        with pytest.raises(InputError, match="/dev/null: cannot be opened"):
            frames("/dev/null")

    def test_passwords_are_not_shown(self) -> None:
        assert shown("rtsp://me:pass@cam/x") == "rtsp://cam/x"
        assert shown("rtsp://cam/x@2") == "rtsp://cam/x@2"


@pytest.mark.parametrize("kind", ["rtsp", "send"])
class TestLiveStreams:
    def test_frames_come_in_order_and_again_after_the_sender_died(self, greys: list[Path], kind: str) -> None:
        port = clips.free_port()
        with served(kind, port, greys):
            video = frames(address(kind, port))
            found = [grey(next(video)) for _ in range(30)]
            assert sum(a != b for a, b in pairwise(found)) in (2, 3)  # ten frames each
            assert video.live
            assert (video.reconnects, video.number) == (0, 29)
        with served(kind, port, greys):
            numbers, shades = [], set()
            while video.reconnects == 0 or len(shades) < 2:
                shades.add(grey(next(video)))
                numbers.append(video.number)
        assert numbers == list(range(30, 30 + len(numbers)))
        video.close()

    def test_one_that_stays_away_is_given_up(self, greys: list[Path], kind: str) -> None:
        port = clips.free_port()
        with served(kind, port, greys):
            video = frames(address(kind, port), give_up_s=0.5)
            next(video)
        if kind == "send":  # nobody connects to the listener: its opening would wait for its whole patience
            video.source = VideoSource.of(f"tcp://127.0.0.1:{port}")
        with pytest.raises(InputError, match=r"gave no frame for 0\.5 s \(.*check the camera"):
            for _ in video:
                pass

    def test_a_recognizer_follows_it(self, pictures_bundle: Path, class_pictures: list[Path], kind: str) -> None:
        port = clips.free_port()
        shown_classes = [class_pictures[0], class_pictures[-1]]
        with served(kind, port, shown_classes, fps=15), Recognizer.open(pictures_bundle, "cpu") as recognizer:
            video = frames(address(kind, port))
            found: list[str | None] = []
            with recognizer.stream(video, k=1, rank="none", batch_size=4, max_wait_ms=0, policy="latest") as results:
                places = []
                for result in results:
                    found.append(result.label)
                    places.append(results.place)
                    if len(set(found)) == 2 and len(found) > 20:
                        break
                assert places == sorted(set(places))
                assert results.dropped >= places[-1] + 1 - len(places)
        assert set(found) == {"cat", "rocket"}
        video.close()


def test_closing_ends_the_wait_for_a_stream_that_is_gone(greys: list[Path]) -> None:
    port = clips.free_port()
    with served("rtsp", port, greys):
        video = frames(address("rtsp", port), give_up_s=math.inf)
        next(video)
    video.close()
    assert list(video) == []


def test_at_the_end_of_the_process_no_daemon_reads_any_more(greys: list[Path]) -> None:
    """FFmpeg does not survive that Python frees what it works on."""
    port = clips.free_port()
    # Python calls what was registered first last.
    code = (
        "import atexit, sys, threading\n"
        "atexit.register(lambda: (daemon.join(1), print(daemon.is_alive())))\n"
        "from rar.runtime.video import frames\n"
        "video, came, several = frames(sys.argv[1]), [0], threading.Event()\n"
        "def read():\n"
        "    for _ in video:\n"
        "        came[0] += 1\n"
        "        came[0] > 5 and several.set()\n"
        "daemon = threading.Thread(target=read, daemon=True)\n"
        "daemon.start()\n"
        "several.wait()\n"
    )
    with served("rtsp", port, greys, fps=60):
        argv = [sys.executable, "-c", code, address("rtsp", port)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("False\n")
