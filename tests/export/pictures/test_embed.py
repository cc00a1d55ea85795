"""Pictures to vectors: what an interrupted build had finished is not embedded again, and changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rar.export.cli import main
from rar.export.pictures.embed import EmbeddedPictures, embed_images
from rar.export.pictures.labelled import LabelledImage
from rar.runtime import Bundle, InputError
from rar.runtime.encoder.clip import Clip

BATCH = 32


class Counting(Clip):
    """The encoder, which counts the pictures it embeds."""

    embedded = 0

    def embed_pixels(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        self.embedded += len(pixels)
        return super().embed_pixels(pixels)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledImage]:
    """100 small pictures of noise: four batches, the last one short."""
    folder = tmp_path_factory.mktemp("noise")
    chance = np.random.default_rng(0)
    images = []
    for i in range(100):
        path = folder / f"{i:03}.png"
        Image.fromarray(chance.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
        images.append(LabelledImage(path, f"class {i % 5}"))
    return images


@pytest.fixture
def own(tiny_bundle: Path, writable: Callable[[Path], Path]) -> Bundle:
    return Bundle.open(writable(tiny_bundle))


@pytest.fixture
def clip(own: Bundle) -> Counting:
    return Counting(own, "cpu")


def kept(own: Bundle) -> list[Path]:
    return list(own.root.parent.glob(".embedded-own-*"))


def interrupt(own: Bundle, clip: Clip, images: list[LabelledImage]) -> Path:
    """Leaves the context as an interrupted build does."""
    embedded = EmbeddedPictures(own, clip, images)
    embedded.embed()
    embedded.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    return embedded.path


class TestEmbedded:
    def test_vectors_are_the_encoder_s(self, own: Bundle, clip: Counting, pictures: list[LabelledImage]) -> None:
        expected = embed_images(clip, pictures).astype(np.float16)
        clip.embedded = 0
        with EmbeddedPictures(own, clip, pictures) as embedded:
            embedded.embed()
            found = list(embedded)
        np.testing.assert_array_equal(np.concatenate(found), expected)
        assert clip.embedded == 100
        assert kept(own) == []

    def test_what_was_finished_is_not_embedded_again(
        self, own: Bundle, clip: Counting, pictures: list[LabelledImage]
    ) -> None:
        expected = embed_images(clip, pictures).astype(np.float16)
        interrupt(own, clip, pictures[:64])
        clip.embedded = 0
        with EmbeddedPictures(own, clip, pictures) as embedded:
            assert embedded.finished == 64
            embedded.embed()
            np.testing.assert_array_equal(np.concatenate(list(embedded)), expected)
        assert clip.embedded == 36
        assert kept(own) == []

    def test_another_order_or_fewer_pictures_need_no_embedding(
        self, own: Bundle, clip: Counting, pictures: list[LabelledImage]
    ) -> None:
        expected = embed_images(clip, pictures).astype(np.float16)
        interrupt(own, clip, pictures)
        clip.embedded = 0
        with EmbeddedPictures(own, clip, pictures[:0:-2]) as embedded:
            embedded.embed()
            np.testing.assert_array_equal(np.concatenate(list(embedded)), expected[:0:-2])
        assert clip.embedded == 0

    def test_a_picture_that_changed_is_embedded_again_with_its_batch(
        self, own: Bundle, clip: Counting, pictures: list[LabelledImage]
    ) -> None:
        interrupt(own, clip, pictures)
        status = pictures[40].path.stat()
        os.utime(pictures[40].path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        clip.embedded = 0
        with EmbeddedPictures(own, clip, pictures) as embedded:
            embedded.embed()
        assert clip.embedded == BATCH

    def test_other_encoders_do_not_share(
        self, own: Bundle, clip: Counting, pictures: list[LabelledImage], edit_manifest: Callable[..., None]
    ) -> None:
        interrupt(own, clip, pictures[:32])

        def change(manifest: dict[str, Any]) -> None:
            manifest["components"]["clip"]["files"]["visual.onnx"]["sha256"] = "0" * 64

        edit_manifest(own.root, change)
        with EmbeddedPictures(Bundle.open(own.root), clip, pictures) as embedded:
            assert embedded.finished == 0

    @settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_a_torn_or_altered_file_loses_only_what_is_torn(
        self, own: Bundle, clip: Counting, pictures: list[LabelledImage], data: st.DataObject
    ) -> None:
        few = pictures[:96]
        path = interrupt(own, clip, few)
        whole = bytearray(path.read_bytes())
        record = len(whole) // 96
        assert len(whole) == 96 * record
        if data.draw(st.booleans()):
            cut = data.draw(st.integers(0, len(whole) - 1))
            path.write_bytes(whole[:cut])
            lost = set(range(cut // record, 96))
        else:
            at = data.draw(st.integers(0, len(whole) - 1))
            whole[at] ^= data.draw(st.integers(1, 255))
            path.write_bytes(whole)
            lost = {at // record}
        clip.embedded = 0
        with EmbeddedPictures(own, clip, few) as embedded:
            assert embedded.finished == 96 - len(lost)
            embedded.embed()
            found = np.concatenate(list(embedded))
        assert clip.embedded == BATCH * len({row // BATCH for row in lost})
        np.testing.assert_array_equal(found, embed_images(clip, few).astype(np.float16))

    def test_a_picture_that_cannot_be_read(
        self, own: Bundle, clip: Counting, pictures: list[LabelledImage], tmp_path: Path
    ) -> None:
        (tmp_path / "broken.png").write_bytes(b"no picture")
        broken = [*pictures[:70], LabelledImage(tmp_path / "broken.png", "dog")]
        message = r"class 'dog': .*broken\.png.*mend or remove the picture; 64 finished pictures are kept"
        with pytest.raises(InputError, match=message), EmbeddedPictures(own, clip, broken) as embedded:
            embedded.embed()
        clip.embedded = 0
        with EmbeddedPictures(own, clip, broken[:-1]) as embedded:
            embedded.embed()
        assert clip.embedded == 6

    def test_nothing_finished_leaves_nothing(self, own: Bundle, clip: Counting, tmp_path: Path) -> None:
        missing = [LabelledImage(tmp_path / "nowhere.png", "dog")]
        with pytest.raises(InputError, match=r"nowhere\.png"), EmbeddedPictures(own, clip, missing) as embedded:
            embedded.embed()
        assert kept(own) == []

    def test_two_at_once_are_refused(self, own: Bundle, clip: Counting, pictures: list[LabelledImage]) -> None:
        with (
            EmbeddedPictures(own, clip, pictures) as embedded,
            pytest.raises(InputError, match="another process embeds pictures for it"),
        ):
            EmbeddedPictures(own, clip, pictures)
        embedded.path.unlink(missing_ok=True)

    def test_a_full_disk_keeps_what_was_written(
        self, own: Bundle, clip: Counting, pictures: list[LabelledImage]
    ) -> None:
        """/dev/full is no file that can be locked and mapped, so the file is bounded instead."""
        import resource

        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        size = 64 * (16 + 2 * clip.dim + 4)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
            with (
                pytest.raises(InputError, match="64 finished pictures are kept"),
                EmbeddedPictures(own, clip, pictures) as embedded,
            ):
                embedded.embed()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        with EmbeddedPictures(own, clip, pictures) as embedded:
            assert embedded.finished == 64


def start_build(own: Path, images: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "rar.export.cli", "memory", str(own), "--images", str(images)]
    return subprocess.Popen(
        [*command, "--provider", "cpu", "--threads", "1", "--dim", "8"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,600 pictures in a folder a class; links to four files, but each a path of its own."""
    folder = tmp_path_factory.mktemp("many")
    chance = np.random.default_rng(1)
    for i in range(4):
        pixels = chance.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((200, 200)).save(folder / f"{i}.png")
        (folder / "classes" / f"class {i}").mkdir(parents=True)
        for j in range(400):
            (folder / "classes" / f"class {i}" / f"{j:03}.png").symlink_to(folder / f"{i}.png")
    return folder / "classes"


def files(root: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted((root / "memory").rglob("*")):
        if path.is_file():
            yield str(path.relative_to(root)), path.read_bytes()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_build_that_was_cut_off_goes_on_and_ends_as_if_it_had_not_been(
    own: Bundle, tiny_bundle: Path, many: Path, how: signal.Signals, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    build = start_build(own.root, many)
    record = 16 + 2 * 32 + 4
    patience = time.monotonic() + 60
    while build.poll() is None and time.monotonic() < patience:
        if any(path.stat().st_size > 100 * record for path in kept(own)):
            build.send_signal(how)
            break
        time.sleep(0.002)
    assert build.wait(60) == (130 if how is signal.SIGINT else -signal.SIGKILL)
    (left,) = kept(own)
    finished = left.stat().st_size // record
    assert 100 < finished < 1600
    assert "memory" not in Bundle.open(own.root).components

    embedded = []
    original = Clip.embed_pixels

    def count(self: Clip, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        embedded.append(len(pixels))
        return original(self, pixels)

    monkeypatch.setattr(Clip, "embed_pixels", count)
    options = ["--provider", "cpu", "--threads", "1", "--dim", "8"]
    assert main(["memory", str(own.root), "--images", str(many), *options]) == 0
    assert sum(embedded) == 1600 - finished // BATCH * BATCH
    assert kept(own) == []
    other = tmp_path / "other"
    assert main(["memory", str(tiny_bundle), "--images", str(many), *options, "--out", str(other)]) == 0
    again, whole = dict(files(own.root)), dict(files(other))
    assert again.keys() == whole.keys()
    for name, content in whole.items():
        if not name.endswith("reduction.npz"):  # a zip keeps the time
            assert again[name] == content, name
    for part in ("pictures", "texts"):
        one, two = (np.load(root / "memory" / part / "reduction.npz") for root in (own.root, other))
        np.testing.assert_allclose(one["components"], two["components"], atol=1e-5)
        np.testing.assert_allclose(one["mean"], two["mean"], atol=1e-5)


@pytest.mark.parametrize("kind", ["link", "pipe", "second name"])
def test_what_a_stranger_laid_in_the_place_of_the_file_is_refused(
    own: Bundle, clip: Counting, pictures: list[LabelledImage], tmp_path: Path, kind: str
) -> None:
    with EmbeddedPictures(own, clip, pictures) as embedded:
        place = embedded.path
    precious = tmp_path / "precious"
    precious.write_bytes(b"x" * 1000)
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "link":
        place.symlink_to(precious)
    else:
        place.hardlink_to(precious)
    with pytest.raises(InputError, match="cannot be written"):
        EmbeddedPictures(own, clip, pictures)
    assert precious.read_bytes() == b"x" * 1000
    place.unlink()
