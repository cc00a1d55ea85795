"""`rar-recognize --video`: a line an answer, as they come, of files and of a real RTSP stream."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import clips
import pytest

from rar.runtime import Recognizer
from rar.runtime.cli.recognize import main

pytest.importorskip("av")

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def clip(class_pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten frames of a cat, then ten of a rocket."""
    return clips.write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", [class_pictures[0], class_pictures[-1]])


def test_json_lines_of_a_file(pictures_bundle: Path, clip: Path, capsys: Capture) -> None:
    argv = [str(pictures_bundle), "--video", str(clip), "--rank", "none", "--k", "3", "--json"]
    assert main(argv) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["frame"], one["label"]) for one in records] == [(i, "cat" if i < 10 else "rocket") for i in range(20)]
    assert [one["seconds"] for one in records] == [i / 10 for i in range(20)]
    for one in records:
        assert (one["video"], one["dropped"], one["reconnects"]) == (str(clip), 0, 0)
        assert len(one["candidates"]) == 3
        assert one["latency_ms"] > 0
        assert "window" not in one


def test_every_and_window(pictures_bundle: Path, clip: Path, capsys: Capture) -> None:
    argv = [str(pictures_bundle), "--video", str(clip), "--rank", "none", "--every", "4", "--window", "3", "--json"]
    assert main(argv) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["frame"] for one in records] == [0, 4, 8, 12, 16]
    assert [one["label"] for one in records] == ["cat", "cat", "cat", "rocket", "rocket"]
    sharpness = Recognizer.open(pictures_bundle, "cpu").sharpness or 100
    logs = []
    for one in records:
        similar = {candidate["label"]: sharpness * candidate["similarity"] for candidate in one["candidates"]}
        total = math.log(sum(map(math.exp, similar.values())))
        logs.append({label: value - total for label, value in similar.items()})
        last = logs[-3:]
        means = {label: sum(frame[label] for frame in last) / len(last) for label in similar}
        found = {average["label"]: average["log_probability"] for average in one["window"]}
        assert found == pytest.approx(means, abs=1e-6)
        assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_table(pictures_bundle: Path, clip: Path, capsys: Capture) -> None:
    argv = [str(pictures_bundle), "--video", str(clip), "--rank", "none", "--every", "10", "--window", "2"]
    assert main(argv) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:5] == ["0.00", "s", "frame", "0", "cat"]
    assert second.split()[:5] == ["1.00", "s", "frame", "10", "rocket"]
    assert "window:" in second


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--every", "2", "IMAGE"], "--every goes only with --video"),
        (["--window", "2", "IMAGE"], "--window goes only with --video"),
        (["--video", "CLIP", "IMAGE"], "only one of them"),
        (["--video", "CLIP", "--boxes", "x.json"], "only one of them"),
        (["--video", "CLIP", "--every", "0"], "every=0"),
        (["--video", "CLIP", "--window", "0"], "window=0"),
        (["--video", "nowhere.mp4"], "no such video"),
    ],
)
def test_options_that_do_not_go_together(
    pictures_bundle: Path, class_pictures: list[Path], clip: Path, capsys: Capture, options: list[str], message: str
) -> None:
    real = {"CLIP": str(clip), "IMAGE": str(class_pictures[0])}
    assert main([str(pictures_bundle), *(real.get(one, one) for one in options)]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert message in err


def test_a_live_stream_until_ctrl_c(pictures_bundle: Path, class_pictures: list[Path]) -> None:
    port = clips.free_port()
    pictures = [str(class_pictures[0]), str(class_pictures[-1])]
    serve = [sys.executable, clips.__file__, "rtsp", str(port), "15", *pictures]
    code = "import sys; from rar.runtime.cli.recognize import main; sys.exit(main(sys.argv[1:]))"
    argv = [str(pictures_bundle), "--video", f"rtsp://me:pass@127.0.0.1:{port}/x", "--rank", "none", "--json"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            server.stdout.readline()
            with subprocess.Popen(
                [sys.executable, "-c", code, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as process:
                assert process.stdout is not None
                records = []
                while len({one["label"] for one in records}) < 2:
                    records.append(json.loads(process.stdout.readline()))
                process.send_signal(signal.SIGINT)
                try:
                    _, errors = process.communicate(timeout=60)
                finally:
                    process.kill()
        finally:
            server.kill()
    assert (process.returncode, errors) == (130, "rar-recognize: stopped\n")
    numbers = [one["frame"] for one in records]
    assert numbers == sorted(set(numbers))
    assert {one["label"] for one in records} == {"cat", "rocket"}
    assert {one["video"] for one in records} == {f"rtsp://127.0.0.1:{port}/x"}
    assert records[-1]["dropped"] >= records[-1]["frame"] + 1 - len(records)
