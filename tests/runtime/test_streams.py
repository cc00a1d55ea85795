"""Streams of cameras and other sources that are slow, live, reused, stuck or broken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from io import BytesIO, StringIO
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from rar.runtime import Frame, InputError, Memory, Recognizer, Result

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def recognizer(pictures_bundle: Path) -> Recognizer:
    return Recognizer.open(pictures_bundle, "cpu")


@pytest.fixture(scope="module")
def arrays(class_pictures: list[Path]) -> list[Pixels]:
    return [np.asarray(Image.open(path).convert("RGB")) for path in class_pictures]


@pytest.fixture(scope="module")
def expected(class_pictures: list[Path]) -> list[str]:
    return [path.parent.name for path in class_pictures]


def labels(results: Any) -> list[str | None]:
    return [result.label for result in results]


class Camera:
    """Gives what is put in front of it, and waits in between."""

    def __init__(self) -> None:
        self._there: list[Any] = []
        self._changed = threading.Condition()

    def show(self, *pictures: Any) -> None:
        with self._changed:
            self._there += pictures
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: self._there)
            return self._there.pop(0)


def whole(path: Path) -> Frame:
    return Frame(path, [[0, 0, 100, 80]])


class TestWhatTheSourceReuses:
    """Each picture is answered as it was when it was given."""

    def test_an_array(self, recognizer: Recognizer, arrays: list[Pixels], expected: list[str]) -> None:
        buffer = np.empty_like(arrays[0])

        def camera() -> Iterator[Pixels]:
            for array in arrays:
                buffer[:] = array
                yield buffer

        assert labels(recognizer.stream(camera(), k=1, rank="none")) == expected
        assert labels(recognizer.recognize(camera(), k=1, rank="none")) == expected
        queries = recognizer.queries(camera(), k=1)
        assert [query.candidates[0].label for query in queries] == expected  # type: ignore[union-attr]

    @pytest.mark.parametrize("kind", ["bytearray", "memoryview", "file", "pil over a buffer", "pil pasted into"])
    def test_any_other_buffer(
        self, recognizer: Recognizer, class_pictures: list[Path], expected: list[str], kind: str
    ) -> None:
        def camera() -> Iterator[Any]:
            buffer, file, image = bytearray(), BytesIO(), Image.new("RGB", (100, 80))
            rgba = np.empty((80, 100, 4), np.uint8)
            over = Image.frombuffer("RGBA", (100, 80), rgba.data, "raw", "RGBA", 0, 1)
            for path in class_pictures:
                if kind == "bytearray":
                    buffer[:] = path.read_bytes()
                    yield buffer
                elif kind == "memoryview":
                    with memoryview(bytearray(path.read_bytes())) as view:
                        yield view
                elif kind == "file":
                    file.seek(0)
                    file.truncate()
                    file.write(path.read_bytes())
                    yield file
                elif kind == "pil pasted into":
                    image.paste(Image.open(path).convert("RGB"))
                    yield image
                else:
                    rgba[:] = np.asarray(Image.open(path).convert("RGBA"))
                    yield over

        assert labels(recognizer.stream(camera(), k=1, rank="none")) == expected

    def test_an_image_that_is_closed_again(
        self, recognizer: Recognizer, class_pictures: list[Path], expected: list[str]
    ) -> None:
        def camera() -> Iterator[Any]:
            for path in class_pictures:
                with Image.open(path) as image:
                    yield image

        assert labels(recognizer.stream(camera(), k=1, rank="none")) == expected

    def test_frames_and_their_boxes(
        self, recognizer: Recognizer, arrays: list[Pixels], class_pictures: list[Path]
    ) -> None:
        buffer, boxes, scores = np.empty_like(arrays[0]), np.empty((1, 4)), np.empty(1)

        def camera() -> Iterator[Frame]:
            for i, array in enumerate(arrays):
                buffer[:], boxes[:], scores[:] = array, [[i, i, 60 + i, 60]], i / 20
                yield Frame(buffer, boxes, scores)  # type: ignore[arg-type]

        found = [one for (one,) in recognizer.stream_regions(camera(), k=2, rank="none", batch_size=5)]
        frames = [Frame(path, [[i, i, 60 + i, 60]], [i / 20]) for i, path in enumerate(class_pictures)]
        alone = [one for (one,) in recognizer.stream_regions(frames, k=2, rank="none", batch_size=5)]
        assert labels(found) == labels(alone)
        assert [one.score for one in found] == pytest.approx([one.score for one in alone], abs=1e-4)

    def test_a_memory_that_grows_by_it(
        self,
        pictures_bundle: Path,
        writable: Callable[[Path], Path],
        arrays: list[Pixels],
    ) -> None:
        buffer = np.empty_like(arrays[0])

        def camera() -> Iterator[Pixels]:
            for array in arrays[::3]:
                buffer[:] = array
                yield buffer

        with Recognizer.open(writable(pictures_bundle), "cpu") as own:
            own.memory.add(camera(), ["a", "b", "c", "d"])
            results = own.recognize(arrays[::3], k=1, rank="none", labels=["a", "b", "c", "d"])
            assert labels(results) == ["a", "b", "c", "d"]


class TestOnePicture:
    """What could be iterated byte by byte is one picture."""

    @pytest.mark.parametrize("kind", ["BytesIO", "read BytesIO", "file", "unbuffered", "bytearray", "memoryview"])
    def test_of_any_form(self, recognizer: Recognizer, class_pictures: list[Path], kind: str) -> None:
        content = class_pictures[0].read_bytes()
        written = BytesIO(content)
        written.seek(0, os.SEEK_END)
        picture: Any = {
            "BytesIO": BytesIO(content),
            "read BytesIO": written,
            "file": class_pictures[0].open("rb"),
            "unbuffered": class_pictures[0].open("rb", buffering=0),
            "bytearray": bytearray(content),
            "memoryview": memoryview(content),
        }[kind]
        assert labels(recognizer.recognize(picture, k=1, rank="none")) == ["cat"]
        assert labels(recognizer.recognize([picture, picture], k=1, rank="none")) == ["cat", "cat"]
        ((result,),) = recognizer.stream_regions([Frame(picture, [[0, 0, 90, 70]])], k=1, rank="none")
        assert result.label == "cat"

    def test_a_memory_takes_it_as_one(
        self, pictures_bundle: Path, writable: Callable[[Path], Path], class_pictures: list[Path]
    ) -> None:
        content = class_pictures[0].read_bytes()
        with Recognizer.open(writable(pictures_bundle), "cpu") as own:
            before = len(own.memory.parts["pictures"])
            for picture in (BytesIO(content), bytearray(content), memoryview(content)):
                own.memory.add(picture, "new")
            assert len(own.memory.parts["pictures"]) == before + 3

    @pytest.mark.parametrize(
        ("picture", "why"),
        [
            ("https://user:secret@example.org/cat.jpg", "https:... is a URL"),
            (Path("http://example.org/cat.jpg"), "http:... is a URL"),
            ("s3://bucket/cat.jpg", "s3:... is a URL"),
            ("data:image/png;base64,iVBORw0KGgo=", "data:... is a URL"),
            ("DATA:,x", "data:... is a URL"),
        ],
    )
    def test_nothing_is_fetched(self, recognizer: Recognizer, picture: Any, why: str) -> None:
        for source in (picture, [picture], iter([picture])):
            (result,) = recognizer.recognize(source, k=1, rank="none")
            assert str(result.error).startswith(why)
            assert "secret" not in str(result.error)
            assert "iVBOR" not in str(result.error)

    @pytest.mark.parametrize("name", ["a:b.png", "c:.png", "12:30.png"])
    def test_a_file_name_with_a_colon_is_no_url(
        self, recognizer: Recognizer, class_pictures: list[Path], tmp_path: Path, name: str
    ) -> None:
        path = tmp_path / name
        path.write_bytes(class_pictures[0].read_bytes())
        assert labels(recognizer.recognize(str(path), k=1, rank="none")) == ["cat"]

    @pytest.mark.parametrize("kind", ["closed file", "text file", "released memoryview", "file that fails"])
    def test_what_cannot_be_read_is_an_error_of_its_own(
        self, recognizer: Recognizer, class_pictures: list[Path], kind: str
    ) -> None:
        closed = BytesIO(b"x")
        closed.close()
        released = memoryview(b"x")
        released.release()

        class Failing(BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                raise OSError("the stick was pulled")

        broken: Any = {
            "closed file": closed,
            "text file": StringIO("x"),
            "released memoryview": released,
            "file that fails": Failing(),
        }[kind]
        for listed in (True, False):
            sources = [class_pictures[0], broken, class_pictures[3]]
            results = recognizer.recognize(sources if listed else iter(sources), k=1, rank="none")
            assert labels(results) == ["cat", None, "coffee"]
            assert results[1].error is not None


class TestLazyImages:
    def test_one_given_many_times_to_many_threads_is_decoded_by_one_at_a_time(
        self, recognizer: Recognizer, photos: list[Path], tmp_path: Path
    ) -> None:
        turned = Image.open(photos[0]).convert("RGB").resize((900, 700))
        exif = Image.Exif()
        exif[0x0112] = 6
        turned.save(tmp_path / "turned.jpg", exif=exif)
        (alone,) = recognizer.recognize(tmp_path / "turned.jpg", k=4, rank="none")
        for _ in range(8):
            lazy = Image.open(tmp_path / "turned.jpg")
            found: list[list[Result]] = []
            threads = [
                threading.Thread(target=lambda: found.append(recognizer.recognize([lazy] * 6, k=4, rank="none")))  # noqa: B023
                for _ in range(3)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for result in (result for results in found for result in results):
                assert result.error is None
                assert [c.similarity for c in result.candidates] == pytest.approx(
                    [c.similarity for c in alone.candidates], abs=1e-5
                )


class TestErrors:
    """What came before an error of the source is answered, then the error is raised."""

    @pytest.mark.parametrize("good", [0, 1, 4, 5, 11])
    @pytest.mark.parametrize("batch_size", [1, 4, 16])
    def test_of_the_source(
        self, recognizer: Recognizer, class_pictures: list[Path], expected: list[str], good: int, batch_size: int
    ) -> None:
        def camera() -> Iterator[Path]:
            yield from class_pictures[:good]
            raise OSError("the camera is gone")

        results = recognizer.stream(camera(), k=1, rank="none", batch_size=batch_size)
        assert labels(next(results) for _ in range(good)) == expected[:good]
        with pytest.raises(OSError, match="the camera is gone"):
            next(results)

    @pytest.mark.parametrize("wrong", ["boxes", "scores", "source"])
    @pytest.mark.parametrize("listed", [True, False])
    @pytest.mark.parametrize("good", [0, 1, 4, 7])
    @pytest.mark.parametrize("batch_size", [1, 3, 32])
    def test_of_a_frame(
        self,
        recognizer: Recognizer,
        class_pictures: list[Path],
        expected: list[str],
        wrong: str,
        listed: bool,
        good: int,
        batch_size: int,
    ) -> None:
        bad = {"boxes": Frame(b"", [[1, 2, 3]]), "scores": Frame(b"", [[0, 0, 1, 1]], [2.0])}.get(wrong)

        def camera() -> Iterator[Frame]:
            yield from map(whole, class_pictures[:good])
            if bad is None:
                raise InputError("the camera is gone")
            yield bad
            yield whole(class_pictures[0])

        source = [*map(whole, class_pictures[:good]), bad] if listed and bad is not None else camera()
        results = recognizer.stream_regions(source, k=1, rank="none", batch_size=batch_size)  # type: ignore[arg-type]
        assert labels(next(results)[0] for _ in range(good)) == expected[:good]
        with pytest.raises(InputError):
            next(results)


class TestLiveSources:
    def test_a_picture_is_answered_before_the_next_one_is_there(
        self, recognizer: Recognizer, class_pictures: list[Path], expected: list[str]
    ) -> None:
        camera = Camera()
        results = recognizer.stream(camera, k=1, rank="none", max_wait_ms=5)
        for path, label in zip(class_pictures, expected, strict=True):
            camera.show(path)
            assert next(results).label == label
        results.close()

    def test_a_frame_is_answered_before_the_next_one_is_there_also_without_boxes(
        self, recognizer: Recognizer, class_pictures: list[Path], expected: list[str]
    ) -> None:
        camera = Camera()
        results = recognizer.stream_regions(camera, k=1, rank="none", max_wait_ms=5)
        for path, label in zip(class_pictures, expected, strict=True):
            camera.show(whole(path))
            assert labels(next(results)) == [label]
            camera.show(Frame(path, []))
            assert next(results) == []
        results.close()

    @pytest.mark.parametrize("policy", ["every", "latest"])
    def test_what_is_there_shares_a_batch(
        self, recognizer: Recognizer, class_pictures: list[Path], monkeypatch: pytest.MonkeyPatch, policy: Any
    ) -> None:
        sizes = []
        see = recognizer.clip.see
        monkeypatch.setattr(recognizer.clip, "see", lambda tensor: sizes.append(len(tensor)) or see(tensor))  # type: ignore[func-returns-value]
        camera = Camera()
        camera.show(*class_pictures)
        results = recognizer.stream(camera, k=1, rank="none", batch_size=12, max_wait_ms=60_000, policy=policy)
        for _ in class_pictures:
            next(results)
        results.close()
        assert sizes == [12]

    def test_a_consumer_that_is_too_slow_gets_the_latest_and_knows_which(
        self, recognizer: Recognizer, class_pictures: list[Path], expected: list[str]
    ) -> None:
        camera = Camera()
        results = recognizer.stream(camera, k=1, rank="none", batch_size=2, max_wait_ms=0, policy="latest")
        camera.show(class_pictures[0])
        assert (next(results).label, results.place, results.dropped) == ("cat", 0, 0)
        camera.show(*class_pictures[1:])
        camera.show(*class_pictures)
        while camera._there:
            threading.Event().wait(0.01)
        answered = 1
        while results.place < 23:
            result = next(results)
            assert result.label == (expected + expected)[results.place]
            answered += 1
        assert results.dropped == 24 - answered
        assert answered <= 5
        results.close()

    @pytest.mark.parametrize("policy", ["every", "latest"])
    def test_frames_know_their_place_with_any_number_of_boxes(
        self, recognizer: Recognizer, class_pictures: list[Path], policy: Any
    ) -> None:
        shown = [Frame(path, [[0, 0, 90, 70]] * (i % 4)) for i, path in enumerate(class_pictures * 3)]

        def camera() -> Iterator[Frame]:
            for frame in shown:
                yield frame
                threading.Event().wait(0.002)

        places = []
        results = recognizer.stream_regions(camera(), k=1, rank="none", batch_size=5, max_wait_ms=1, policy=policy)
        for boxes in results:
            places.append(results.place)
            assert len(boxes) == results.place % 4
        assert places == sorted(set(places))
        assert len(places) + results.dropped == len(shown)
        assert policy == "latest" or results.dropped == 0

    def test_every_drops_none(self, recognizer: Recognizer, class_pictures: list[Path]) -> None:
        results = recognizer.stream(iter(class_pictures * 3), k=1, rank="none", batch_size=5, max_wait_ms=0)
        assert [results.place for _ in results] == list(range(36))
        assert results.dropped == 0

    def test_a_deadline_does_not_count_the_wait_for_the_source(
        self, recognizer: Recognizer, class_pictures: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        camera, starts = Camera(), []
        batches = recognizer._feed.batches

        def noted(*args: Any) -> Iterator[Any]:
            for batch in batches(*args):
                starts.append(batch.start)
                yield batch

        monkeypatch.setattr(recognizer._feed, "batches", noted)
        results = recognizer.stream(camera, k=2, batch_size=1, max_wait_ms=0, deadline_ms=60_000)
        for path in class_pictures[:3]:
            shown = perf_counter()
            camera.show(path)
            assert next(results).skipped is None
            assert starts[-1] >= shown
        results.close()


@pytest.mark.parametrize("regions", [False, True])
class TestLeaving:
    """Nobody waits for a source that does not answer."""

    def stream(self, recognizer: Recognizer, path: Path, regions: bool) -> Any:
        """After its first result; its source waits."""
        camera = Camera()
        camera.show(whole(path) if regions else path)
        ask: Any = recognizer.stream_regions if regions else recognizer.stream
        results = ask(camera, k=1, rank="none", max_wait_ms=0)
        next(results)
        return results

    def test_by_closing_it(self, recognizer: Recognizer, class_pictures: list[Path], regions: bool) -> None:
        results = self.stream(recognizer, class_pictures[0], regions)
        results.close()
        assert list(results) == []
        with self.stream(recognizer, class_pictures[0], regions) as again:
            pass
        assert list(again) == []

    def test_by_letting_it_go(self, recognizer: Recognizer, class_pictures: list[Path], regions: bool) -> None:
        def preparing() -> int:
            return sum(thread.name == "rar-prepare" for thread in threading.enumerate())

        results = self.stream(recognizer, class_pictures[0], regions)
        before = preparing()
        del results
        while preparing() >= before:
            threading.Event().wait(0.01)

    @pytest.mark.parametrize("what", ["stream", "recognizer"])
    def test_by_another_thread_s_close(
        self, pictures_bundle: Path, class_pictures: list[Path], regions: bool, what: str
    ) -> None:
        recognizer = Recognizer.open(pictures_bundle, "cpu")
        results = self.stream(recognizer, class_pictures[0], regions)
        ended: list[type[BaseException]] = []

        def consume() -> None:
            try:
                next(results)
            except BaseException as error:
                ended.append(type(error))

        waiting = threading.Thread(target=consume)
        waiting.start()
        (results if what == "stream" else recognizer).close()
        waiting.join(60)
        assert ended == [StopIteration if what == "stream" else InputError]
        recognizer.close()

    @pytest.mark.parametrize("how", ["ctrl-c", "end"])
    def test_by_ctrl_c_and_by_the_end_of_the_process(
        self, pictures_bundle: Path, class_pictures: list[Path], regions: bool, how: str
    ) -> None:
        code = (
            "import sys, time, signal\n"
            "from rar.runtime import Frame, Recognizer\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "def camera():\n"
            "    yield Frame(sys.argv[2], [[0, 0, 50, 50]]) if sys.argv[3] == 'True' else sys.argv[2]\n"
            "    time.sleep(1e6)\n"
            "rec = Recognizer.open(sys.argv[1], 'cpu')\n"
            "ask = rec.stream_regions if sys.argv[3] == 'True' else rec.stream\n"
            "results = ask(camera(), k=1, rank='none', max_wait_ms=0)\n"
            "next(results)\n"
            "print('answered', flush=True)\n"
            "if sys.argv[4] == 'ctrl-c':\n"
            "    next(results)\n"
        )
        argv = [sys.executable, "-c", code, str(pictures_bundle), str(class_pictures[0]), str(regions), how]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "answered\n"
            if how == "ctrl-c":
                process.send_signal(signal.SIGINT)
            try:
                _, errors = process.communicate(timeout=60)
            finally:
                process.kill()
        assert process.returncode == (0 if how == "end" else -signal.SIGINT), errors
        assert how == "end" or errors.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.1, 0.2])
def test_the_process_ends_in_order_while_the_next_batch_is_prepared(pictures_bundle: Path, pause: float) -> None:
    """Native code does not survive that Python ends its thread."""
    code = (
        "import sys, time\n"
        "import numpy as np\n"
        "from rar.runtime import Recognizer\n"
        "rec = Recognizer.open(sys.argv[1], 'cpu', threads=3)\n"
        "large = np.full((6000, 6000, 3), 90, np.uint8)\n"
        "def camera():\n"
        "    yield large[:50, :50]\n"
        "    while True:\n"
        "        yield large\n"
        "results = rec.stream(camera(), k=1, rank='none', batch_size=1)\n"
        "next(results)\n"
        "time.sleep(float(sys.argv[2]))\n"
    )
    argv = [sys.executable, "-c", code, str(pictures_bundle), str(pause)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_at_the_end_of_the_process_no_thread_reads_a_source_that_goes_on(pictures_bundle: Path) -> None:
    """A thread that comes back to a Python that is gone crashes the process."""
    # Python calls what was registered first last.
    code = (
        "import atexit, sys, threading, time\n"
        "atexit.register(lambda: print([one.name for one in threading.enumerate() if one.name == 'rar-read']))\n"
        "import numpy as np\n"
        "from rar.runtime import Recognizer\n"
        "rec = Recognizer.open(sys.argv[1], 'cpu')\n"
        "def camera():\n"
        "    while True:\n"
        "        time.sleep(0.05)\n"
        "        yield np.full((50, 50, 3), 90, np.uint8)\n"
        "results = rec.stream(camera(), k=1, rank='none', batch_size=1, policy='latest')\n"
        "next(results)\n"
    )
    argv = [sys.executable, "-c", code, str(pictures_bundle)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "[]\n")


class TestBundleByARelativePath:
    def test_holds_after_the_process_changed_its_folder(
        self,
        pictures_bundle: Path,
        writable: Callable[[Path], Path],
        class_pictures: list[Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        own = writable(pictures_bundle)
        monkeypatch.chdir(own.parent)
        with Recognizer.open(own.name, "cpu") as recognizer, Recognizer.open(own, "cpu") as other:
            memory = Memory.open(own.name)
            monkeypatch.chdir("/")
            assert recognizer.recognize(class_pictures[0], k=1, rank="wca")[0].label == "cat"
            other.memory.add(class_pictures[0], "new")
            assert "new" in recognizer.memory.labels
            assert "new" in memory.labels
            other.memory.close()
            recognizer.memory.remove("new")
            recognizer.memory.compact()
            assert recognizer.clip.embed_texts(["cat"]).shape == (1, 32)


class TestEmbeddingsThatAreNotFinite:
    @pytest.mark.parametrize("rank", ["none", "wca"])
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_cost_one_picture_its_answer(
        self,
        recognizer: Recognizer,
        class_pictures: list[Path],
        expected: list[str],
        monkeypatch: pytest.MonkeyPatch,
        rank: Any,
        value: float,
    ) -> None:
        read = recognizer.clip._seen

        def poisoned(outputs: Any) -> Any:
            seen = read(outputs)
            seen.embeddings[3, 5] = value
            return seen

        monkeypatch.setattr(recognizer.clip, "_seen", poisoned)
        results = recognizer.recognize(class_pictures, k=4, rank=rank)
        assert "not finite" in str(results[3].error)
        retrieved = [result.retrieved[0].label for i, result in enumerate(results) if i != 3]
        assert retrieved == [label for i, label in enumerate(expected) if i != 3]


class TestMemoryThatShrinks:
    @pytest.fixture
    def own(self, pictures_bundle: Path, writable: Callable[[Path], Path]) -> Path:
        return writable(pictures_bundle)

    @pytest.mark.parametrize("rank", ["none", "wca"])
    def test_a_class_that_was_asked_for_goes(self, own: Path, class_pictures: list[Path], rank: Any) -> None:
        with Recognizer.open(own, "cpu") as recognizer:
            found = []
            results = recognizer.stream(class_pictures, rank=rank, labels=["cat", "rocket"], batch_size=1)
            for i, result in enumerate(results):
                found.append(sorted(c.label for c in result.candidates))
                if i == 3:
                    recognizer.memory.remove("cat")
            assert found[0] == ["cat", "rocket"]
            assert found[-1] == ["rocket"]

    @pytest.mark.parametrize("rank", ["none", "wca"])
    @pytest.mark.parametrize("asked", [{}, {"labels": ["cat"]}, {"k": 1}, {"labels": ["cat", "rocket"], "k": 2}])
    def test_the_last_class_goes_and_another_comes(
        self, own: Path, class_pictures: list[Path], rank: Any, asked: Any
    ) -> None:
        with Recognizer.open(own, "cpu") as recognizer:
            results = recognizer.stream(class_pictures, rank=rank, batch_size=1, **asked)
            next(results)
            for label in recognizer.memory.labels:
                recognizer.memory.remove(label)
            gone = list(results)[-1]
            assert (gone.label, gone.score, list(gone.candidates)) == (None, None, [])
            assert "no class is left" in str(gone.error)

            recognizer.memory.add(class_pictures[0], "cat")
            (back,) = recognizer.recognize(class_pictures[0], rank=rank)
            assert back.label == "cat"

    def test_regions_go_on(self, own: Path, class_pictures: list[Path]) -> None:
        with Recognizer.open(own, "cpu") as recognizer:
            frames = (Frame(path, [[0, 0, 90, 70]], [0.5]) for path in class_pictures)
            results = recognizer.stream_regions(frames, rank="none", batch_size=1, labels=["cat"])
            next(results)
            recognizer.memory.remove("cat")
            (last,) = list(results)[-1]
            assert "no class is left" in str(last.error)
