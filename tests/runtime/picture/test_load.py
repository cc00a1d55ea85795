"""Pictures from anywhere become upright uint8 RGB, or one ImageError that names them."""

import contextlib
import io
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from rar.runtime import ImageError, InputError
from rar.runtime.picture.formats import formats
from rar.runtime.picture.load import MAX_PIXELS, Reading, decode, load_image

Pixels = npt.NDArray[np.uint8]


def gradient(height: int = 12, width: int = 20) -> Pixels:
    """Smooth and without symmetry, so that a turn or a flip shows even after JPEG."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + 2 * y) * 4 % 200], 2).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


LOSSLESS: dict[str, Any] = {"WEBP": {"lossless": True, "exact": True}}


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and ends where its pixels would begin."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return header + struct.pack(">I", 1000) + b"IDAT"


class TestSources:
    def test_path_str_bytes_pil_and_array_give_the_same(self, tmp_path: Path) -> None:
        pixels = gradient()
        path = tmp_path / "a.png"
        Image.fromarray(pixels).save(path)
        content = path.read_bytes()
        for source in (path, str(path), content, bytearray(content), Image.open(path), Image.fromarray(pixels), pixels):
            loaded = load_image(source)  # type: ignore[arg-type]
            assert loaded.dtype == np.uint8
            np.testing.assert_array_equal(loaded, pixels)

    def test_an_array_is_not_copied(self) -> None:
        pixels = gradient()
        assert load_image(pixels) is pixels

    @pytest.mark.parametrize("kind", formats())
    def test_every_format(self, kind: str) -> None:
        loaded = load_image(encoded(Image.fromarray(gradient(64, 96)), kind))
        assert loaded.shape == (64, 96, 3)
        assert np.abs(loaded.astype(int) - gradient(64, 96)).mean() < 30  # GIF and JPEG lose

    def test_the_suffix_says_nothing(self, tmp_path: Path) -> None:
        Image.fromarray(gradient()).save(tmp_path / "a.png")
        (tmp_path / "a.png").rename(tmp_path / "a.jpg")
        np.testing.assert_array_equal(load_image(tmp_path / "a.jpg"), gradient())

    def test_other_formats_are_not_parsed(self) -> None:
        for kind in ("PDF", "EPS", "ICO", "TGA"):
            with pytest.raises(ImageError, match="not a picture"):
                load_image(encoded(Image.fromarray(gradient()), kind))

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros((4, 4), np.uint8),
            np.zeros((4, 4, 4), np.uint8),
            np.zeros((4, 4, 1), np.uint8),
            np.zeros((3, 4, 4), np.uint8),
            np.zeros((1, 4, 4, 3), np.uint8),
            np.zeros((4, 4, 3), np.float32),
            np.zeros((4, 4, 3), np.int8),
            np.zeros((4, 4, 3), bool),
            np.zeros((0, 4, 3), np.uint8),
            np.zeros((4, 0, 3), np.uint8),
            np.zeros((), np.uint8),
            np.array([[["a", "b", "c"]]]),
            np.array([None]),
        ],
        ids=lambda array: f"{array.dtype}{list(array.shape)}",
    )
    def test_wrong_arrays(self, array: npt.NDArray[Any]) -> None:
        with pytest.raises(ImageError, match="uint8 RGB"):
            load_image(array)

    @pytest.mark.parametrize("source", [None, 3, 3.5, ["a.png"], {"path": "a.png"}, object()])
    def test_what_is_no_picture_at_all(self, source: Any) -> None:
        with pytest.raises(ImageError, match="is no picture"):
            load_image(source)


class TestModes:
    def test_greyscale(self) -> None:
        grey = gradient()[:, :, 0]
        loaded = load_image(encoded(Image.fromarray(grey), "PNG"))
        np.testing.assert_array_equal(loaded, np.repeat(grey[:, :, None], 3, 2))

    def test_black_and_white(self) -> None:
        bits = gradient()[:, :, 0] > 100
        loaded = load_image(encoded(Image.fromarray(bits), "PNG"))
        np.testing.assert_array_equal(loaded[:, :, 1], bits * np.uint8(255))

    @pytest.mark.parametrize("transparency", [None, 0, bytes([0, 128, 255])])
    @pytest.mark.filterwarnings("ignore:Palette images with Transparency")
    def test_palette(self, transparency: int | bytes | None) -> None:
        image = Image.new("P", (3, 1))
        image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
        image.putdata([0, 1, 2])
        options = {} if transparency is None else {"transparency": transparency}
        loaded = load_image(encoded(image, "PNG", **options))
        assert loaded.tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]

    def test_alpha_is_dropped(self) -> None:
        rgba = np.dstack([gradient(), np.zeros((12, 20), np.uint8)])
        np.testing.assert_array_equal(load_image(encoded(Image.fromarray(rgba), "PNG")), gradient())
        np.testing.assert_array_equal(load_image(Image.fromarray(rgba)), gradient())

    def test_grey_with_alpha(self) -> None:
        grey = np.dstack([gradient()[:, :, 0], np.zeros((12, 20), np.uint8)])
        loaded = load_image(encoded(Image.fromarray(grey, "LA"), "PNG"))
        np.testing.assert_array_equal(loaded[:, :, 2], grey[:, :, 0])

    def test_cmyk(self) -> None:
        image = Image.fromarray(gradient(64, 64)).convert("CMYK")
        content = encoded(image, "JPEG", quality=100, subsampling=0)
        expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        np.testing.assert_array_equal(load_image(content), expected)
        assert np.abs(expected.astype(int) - gradient(64, 64)).mean() < 10

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
    def test_16_bit_grey_keeps_the_upper_byte(self, kind: str) -> None:
        values = np.array([[0, 255, 256, 0x1234, 0x7FFF, 0x8000, 0xFFFF]], np.uint16)
        loaded = load_image(encoded(Image.fromarray(values), kind))
        assert loaded[0, :, 0].tolist() == [0, 0, 1, 0x12, 0x7F, 0x80, 0xFF]
        assert (loaded == loaded[:, :, :1]).all()

    def test_16_bit_rgb(self) -> None:
        rows = (np.arange(4 * 3).reshape(1, 4, 3) * 5000).astype(">u2")
        body = zlib.compress(b"\0" + rows.tobytes())

        def chunk(name: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

        header = struct.pack(">IIBBBBB", 4, 1, 16, 2, 0, 0, 0)
        png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
        np.testing.assert_array_equal(load_image(png), rows >> 8)

    @pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 20_000), (20_000, 3), (1, 5)])
    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_extreme_sides(self, height: int, width: int, kind: str) -> None:
        loaded = load_image(encoded(Image.new("RGB", (width, height), (200, 100, 50)), kind))
        assert loaded.shape == (height, width, 3)
        assert np.abs(loaded.astype(int) - (200, 100, 50)).max() < 4

    def test_of_an_animation_the_first_frame(self) -> None:
        frames = [Image.new("RGB", (8, 6), color) for color in ("red", "lime", "blue")]
        for kind in ("GIF", "WEBP", "TIFF"):
            options = {} if kind == "TIFF" else {"duration": 10}
            content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
            loaded = load_image(content)
            assert loaded.shape == (6, 8, 3)
            assert np.abs(loaded[3, 3].astype(int) - (255, 0, 0)).max() < 8, kind


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
    def test_all_eight_stand_upright(self, orientation: int, kind: str) -> None:
        upright = gradient(24, 40)
        turn = {
            1: lambda a: a,
            2: lambda a: a[:, ::-1],
            3: lambda a: a[::-1, ::-1],
            4: lambda a: a[::-1],
            5: lambda a: a.transpose(1, 0, 2),
            6: lambda a: a.transpose(1, 0, 2)[::-1],
            7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
            8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
        }[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        options: dict[str, Any] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
        content = encoded(Image.fromarray(np.ascontiguousarray(turn(upright))), kind, exif=exif, **options)
        loaded = load_image(content)
        assert loaded.shape == upright.shape
        assert np.abs(loaded.astype(int) - upright).max() <= (12 if kind == "JPEG" else 0)
        np.testing.assert_array_equal(load_image(Image.open(io.BytesIO(content))), loaded)

    @pytest.mark.parametrize("orientation", [0, 9, 65535])
    def test_an_orientation_that_is_none_is_ignored(self, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(Image.fromarray(gradient()), "PNG", exif=exif)
        np.testing.assert_array_equal(load_image(content), gradient())

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize(
        ("tag", "kind", "count", "value"),
        [
            (0x010E, 5, 1, 0),  # a description that is a fraction
            (0x010E, 11, 1, 0),  # ... a float
            (0x011A, 1, 1, 0),  # a resolution that is bytes
            (0x011A, 2, 1, 0),  # ... text
            (0x9286, 16, 1, 0),  # a type that is none
            (0xA005, 1, 1, 0),  # an offset that is bytes
            (0xA005, 6, 1, 0xFFFFFFFF),  # ... negative
        ],
    )
    def test_an_odd_tag_beside_the_orientation_does_no_harm(self, tag: int, kind: int, count: int, value: int) -> None:
        entries = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHII", tag, kind, count, value)
        exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4) + b"ABCDEFGHIJKLMNOP"
        assert load_image(encoded(Image.fromarray(gradient(12, 20)), "JPEG", exif=exif)).shape == (20, 12, 3)

    @pytest.mark.filterwarnings("ignore")
    @given(st.integers(0, 40), st.binary(min_size=1, max_size=6))
    def test_damaged_exif_raises_nothing_but_image_error(self, at: int, garbage: bytes) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        exif[0x010E] = "a description"
        exif[0x9286] = b"a comment"
        block = bytearray(exif.tobytes())
        block[6 + at : 6 + at + len(garbage)] = garbage
        content = encoded(Image.fromarray(gradient()), "JPEG", exif=bytes(block))
        with contextlib.suppress(ImageError):
            load_image(content)


class TestLimits:
    def test_over_the_limit_is_refused_before_it_is_decoded(self) -> None:
        # The file ends after its header: any attempt to decode would fail for that reason instead.
        with pytest.raises(ImageError, match="10001x10000 is over the limit of 100000000"):
            load_image(png_header(10_001, 10_000))

    @pytest.mark.parametrize("side", [13_500, 20_000, 100_000, 2**31 - 1])
    def test_bombs(self, side: int) -> None:
        with pytest.raises(ImageError):
            load_image(png_header(side, side))

    def test_the_limit_is_inclusive(self) -> None:
        image = Image.fromarray(gradient())
        for source in (gradient(), image, encoded(image, "PNG")):
            assert load_image(source, max_pixels=240).shape == (12, 20, 3)
            with pytest.raises(ImageError, match="20x12 is over the limit of 239"):
                load_image(source, max_pixels=239)

    def test_a_large_picture_within_the_limit_is_not_pillow_s_business(self, recwarn: pytest.WarningsRecorder) -> None:
        assert MAX_PIXELS > Image.MAX_IMAGE_PIXELS  # type: ignore[operator]
        content = png_header(9_999, 9_999)
        with pytest.raises(ImageError, match="cannot be decoded"):
            load_image(content)
        assert not [warning for warning in recwarn if "Bomb" in warning.category.__name__]

    @pytest.mark.parametrize("size", [(0, 5), (5, 0)])
    def test_no_pixels(self, size: tuple[int, int]) -> None:
        with pytest.raises(ImageError):
            load_image(png_header(*size))
        with pytest.raises(ImageError):
            load_image(Image.new("RGB", size))


class TestLargePictures:
    """What phones write is over the limits of Pillow, which hold for the whole process."""

    def test_the_limit_is_a_setting_beyond_pillow_s_own(self) -> None:
        content = encoded(Image.new("L", (20_000, 9_500), 77), "PNG")
        with pytest.raises(ImageError, match="20000x9500 is over the limit of 100000000"):
            load_image(content)
        assert 2 * Image.MAX_IMAGE_PIXELS < 20_000 * 9_500  # type: ignore[operator]  # where Pillow raises
        pixels = decode(content, Reading(max_pixels=200_000_000)).pixels
        assert pixels.shape == (9_500, 20_000, 3)
        assert (pixels[::500, ::500] == 77).all()

    @pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK", "LA", "RGBA"])
    @pytest.mark.parametrize("orientation", [1, 6])
    def test_strips_give_what_the_whole_gives(
        self, mode: str, orientation: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = Image.fromarray(gradient(61, 40)).convert(mode)
        if mode in ("LA", "RGBA"):
            image.putalpha(Image.fromarray(gradient(61, 40)[:, :, 0]))
        image.getexif()[0x0112] = orientation
        whole = decode(image).pixels
        monkeypatch.setattr("rar.runtime.picture.load._STRIP", 100)
        np.testing.assert_array_equal(decode(image).pixels, whole)
        assert whole.shape[2] == (4 if mode in ("LA", "RGBA") else 3)

    @pytest.mark.parametrize("setting", [{"max_pixels": 0}, {"batch_bytes": 1.5}, {"max_pixels": True}])
    def test_limits_that_are_none_are_refused(self, setting: dict[str, Any]) -> None:
        with pytest.raises(InputError, match=f"{next(iter(setting))} must be an integer above zero"):
            Reading(**setting)


class TestAlpha:
    """`decode` keeps the alpha of transparent pictures, for models that put them over a colour."""

    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF"])
    def test_a_transparent_picture_has_four_channels(self, kind: str) -> None:
        alpha = np.where(gradient()[:, :, 0] > 100, 255, 0).astype(np.uint8)
        content = encoded(Image.fromarray(np.dstack([gradient(), alpha])), kind, **LOSSLESS.get(kind, {}))
        pixels = decode(content).pixels
        assert pixels.shape == (12, 20, 4)
        np.testing.assert_array_equal(pixels[:, :, 3], alpha)
        assert load_image(content).shape == (12, 20, 3)

    def test_an_opaque_one_has_three(self) -> None:
        for mode in ("RGB", "RGBA", "LA", "P", "L"):
            assert decode(encoded(Image.fromarray(gradient()).convert(mode), "PNG")).pixels.shape == (12, 20, 3)

    def test_a_colour_that_stands_for_nothing(self) -> None:
        content = encoded(Image.new("RGB", (2, 1), (10, 20, 30)), "PNG", transparency=(10, 20, 30))
        assert decode(content).pixels.tolist() == [[[10, 20, 30, 0]] * 2]

    def test_it_stands_upright(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        alpha = gradient()[:, :, 0]
        content = encoded(Image.fromarray(np.dstack([gradient(), alpha])), "PNG", exif=exif)
        pixels = decode(content).pixels
        np.testing.assert_array_equal(pixels[:, :, 3], np.rot90(alpha, -1))
        np.testing.assert_array_equal(pixels[:, :, :3], load_image(content))


class TestCut:
    """JPEGs whose end is missing."""

    @pytest.mark.parametrize("progressive", [False, True])
    @pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
    @pytest.mark.parametrize("as_path", [False, True])
    def test_what_is_there_is_taken_where_it_is_asked_for(
        self, progressive: bool, share: float, as_path: bool, tmp_path: Path
    ) -> None:
        whole = encoded(Image.fromarray(gradient(160, 200)), "JPEG", progressive=progressive, quality=95)
        (tmp_path / "a.jpg").write_bytes(whole[: int(len(whole) * share)])
        source = tmp_path / "a.jpg" if as_path else (tmp_path / "a.jpg").read_bytes()
        with pytest.raises(ImageError, match="damaged"):
            decode(source)
        decoded = decode(source, Reading(tolerant=True))
        assert decoded.truncated
        top = decoded.pixels[:40].astype(int) - load_image(whole)[:40]
        assert np.abs(top).mean() < 20  # of the progressive one the coarse scans

    @pytest.mark.parametrize("progressive", [False, True])
    def test_wherever_it_was_cut(self, progressive: bool, noise: Callable[..., Pixels]) -> None:
        whole = encoded(Image.fromarray(noise(64, 64)), "JPEG", progressive=progressive)
        begin = whole.index(b"\xff\xda") + 40
        for length in range(begin, len(whole) - 2, 7):
            assert decode(whole[:length], Reading(tolerant=True)).truncated

    def test_a_whole_one_is_not_marked(self) -> None:
        content = encoded(Image.fromarray(gradient(64, 64)), "JPEG")
        decoded = decode(content, Reading(tolerant=True))
        assert not decoded.truncated
        np.testing.assert_array_equal(decoded.pixels, load_image(content))

    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP"])
    def test_other_formats_stay_broken(self, kind: str, noise: Callable[..., Pixels]) -> None:
        content = encoded(Image.fromarray(noise(64, 64)), kind)
        with pytest.raises(ImageError):
            decode(content[: len(content) // 2], Reading(tolerant=True))

    @pytest.mark.parametrize("length", [2, 20, 200])
    def test_without_a_pixel_it_stays_broken(self, length: int) -> None:
        content = encoded(Image.fromarray(gradient(64, 64)), "JPEG")
        with pytest.raises(ImageError):
            decode(content[:length], Reading(tolerant=True))


class TestBroken:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match=r"nowhere\.jpg: no such file"):
            load_image(tmp_path / "nowhere.jpg")

    @pytest.mark.parametrize("link", [False, True])
    @pytest.mark.parametrize("kind", ["pipe", "device"])
    def test_what_would_be_waited_for_or_never_end(self, tmp_path: Path, kind: str, link: bool) -> None:
        path = Path("/dev/zero")
        if kind == "pipe":
            os.mkfifo(path := tmp_path / "pipe.png")
        if link:
            (tmp_path / "link.png").symlink_to(path)
            path = tmp_path / "link.png"
        with pytest.raises(ImageError, match="regular file"):
            load_image(path)

    def test_a_link_to_a_picture_is_followed(self, tmp_path: Path) -> None:
        Image.new("RGB", (3, 2)).save(tmp_path / "picture.png")
        (tmp_path / "link.png").symlink_to("picture.png")
        assert load_image(tmp_path / "link.png").shape == (2, 3, 3)

    def test_files_are_closed(self, tmp_path: Path) -> None:
        Image.new("RGB", (3, 2)).save(tmp_path / "picture.png")
        (tmp_path / "text.png").write_text("no picture")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            load_image(tmp_path / "picture.png")
            with pytest.raises(ImageError):
                load_image(tmp_path / "text.png")
        assert len(os.listdir("/proc/self/fd")) == before

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError) as caught:
            load_image(tmp_path)
        assert str(tmp_path) in str(caught.value)

    @pytest.mark.parametrize("name", ["", "\x00", "a\x00.png", "x" * 300 + ".png", "a.png/b.png"])
    def test_a_path_that_cannot_be(self, tmp_path: Path, name: str) -> None:
        Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
        with pytest.raises(ImageError):
            load_image(f"{tmp_path}/{name}")

    @pytest.mark.parametrize(
        "content", [b"", b"\0", b"hello", b"%PDF-1.4", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF89a"]
    )
    def test_what_is_no_picture(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(ImageError, match=r"a\.jpg"):
            load_image(tmp_path / "a.jpg")
        with pytest.raises(ImageError, match=f"picture of {len(content)} bytes"):
            load_image(content)

    @pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97])
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF"])
    def test_truncated(self, kind: str, share: float, noise: Callable[..., Pixels]) -> None:
        content = encoded(Image.fromarray(noise(64, 64)), kind)
        with pytest.raises(ImageError):
            load_image(content[: int(len(content) * share)])

    @pytest.mark.parametrize("kind", ["JPEG", "PNG"])
    def test_truncated_behind_a_lazily_opened_pil_image(self, kind: str, noise: Callable[..., Pixels]) -> None:
        content = encoded(Image.fromarray(noise(64, 64)), kind)
        with pytest.raises(ImageError):
            load_image(Image.open(io.BytesIO(content[: len(content) // 2])))

    def test_a_closed_pil_image(self, tmp_path: Path) -> None:
        Image.fromarray(gradient()).save(tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as image:
            pass
        with pytest.raises(ImageError):
            load_image(image)

    @pytest.mark.parametrize("mode", ["LAB", "HSV", "YCbCr", "RGBX", "PA", "RGBa", "La"])
    def test_rare_modes_of_pil_images_convert_or_fail_as_image_error(self, mode: str) -> None:
        try:
            loaded = load_image(Image.new(mode, (4, 3)))
        except ImageError:
            return
        assert loaded.shape == (3, 4, 3)

    @given(st.binary(max_size=200))
    def test_random_bytes_raise_nothing_but_image_error(self, content: bytes) -> None:
        with pytest.raises(ImageError):
            load_image(content)

    @pytest.mark.parametrize("kind", formats())
    @pytest.mark.filterwarnings("ignore")
    def test_damaged_files_raise_nothing_but_image_error(self, kind: str) -> None:
        whole = encoded(Image.fromarray(gradient(16, 16)), kind)

        @given(st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), min_size=1, max_size=6), st.integers(0, 9))
        @example(damage=[(0, 0)], cut=0)
        def check(damage: list[tuple[int, int]], cut: int) -> None:
            content = bytearray(whole)
            for at, value in damage:
                content[at % len(content)] = value
            try:
                loaded = load_image(bytes(content[: len(content) - cut]), max_pixels=1_000_000)
            except ImageError:
                return
            assert loaded.ndim == 3

        check()


class TestDraft:
    """JPEGs decoded at a fraction of their size."""

    @pytest.mark.parametrize(
        ("draft", "divisor"), [(1, 8), (30, 8), (31, 4), (60, 4), (61, 2), (120, 2), (121, 1), (10**9, 1)]
    )
    def test_both_sides_stay_at_least_twice_as_long(self, draft: int, divisor: int) -> None:
        content = encoded(Image.fromarray(gradient(480, 963)), "JPEG", quality=95)
        loaded = load_image(content, draft=draft)
        assert loaded.shape == (480 // divisor, -(-963 // divisor), 3)
        whole = load_image(content)
        if divisor == 1:
            np.testing.assert_array_equal(loaded, whole)
        small = np.asarray(Image.fromarray(whole).resize(loaded.shape[1::-1], Image.Resampling.BOX))
        assert np.abs(loaded.astype(int) - small).mean() < 8  # of the blue saw's edges

    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    @pytest.mark.parametrize("progressive", [False, True])
    def test_every_kind_of_jpeg(self, mode: str, progressive: bool) -> None:
        content = encoded(
            Image.fromarray(gradient(256, 320)).convert(mode), "JPEG", progressive=progressive, quality=95
        )
        whole = load_image(content)
        loaded = load_image(content, draft=32)
        assert loaded.shape == (64, 80, 3)
        small = np.asarray(Image.fromarray(whole).resize((80, 64), Image.Resampling.BOX))
        assert np.abs(loaded.astype(int) - small).mean() < 4

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_orientation_is_applied(self, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(Image.fromarray(gradient(256, 320)), "JPEG", quality=95, exif=exif)
        whole = load_image(content)
        loaded = load_image(content, draft=32)
        assert loaded.shape == ((64, 80, 3) if orientation < 5 else (80, 64, 3))
        small = np.asarray(Image.fromarray(whole).resize(loaded.shape[1::-1], Image.Resampling.BOX))
        assert np.abs(loaded.astype(int) - small).mean() < 4

    @pytest.mark.parametrize("kind", sorted(set(formats()) - {"JPEG"}))
    def test_other_formats_are_decoded_whole(self, kind: str) -> None:
        content = encoded(Image.fromarray(gradient(64, 96)), kind)
        np.testing.assert_array_equal(load_image(content, draft=4), load_image(content))

    def test_arrays_and_images_are_left_as_they_are(self) -> None:
        pixels = gradient(64, 96)
        assert load_image(pixels, draft=4) is pixels
        with Image.open(io.BytesIO(encoded(Image.fromarray(pixels), "JPEG"))) as image:
            assert load_image(image, draft=4).shape == pixels.shape
            assert image.size == (96, 64)

    def test_the_limit_is_that_of_the_full_size(self) -> None:
        content = encoded(Image.fromarray(gradient(256, 320)), "JPEG")
        assert load_image(content, max_pixels=256 * 320, draft=8).shape == (32, 40, 3)
        with pytest.raises(ImageError, match="320x256 is over the limit"):
            load_image(content, max_pixels=256 * 320 - 1, draft=8)

    @pytest.mark.parametrize("draft", [None, 1, 224])
    @pytest.mark.parametrize("side", [10_001, 65_500, 65_535])
    def test_a_bomb_is_refused_before_it_is_decoded(self, side: int, draft: int | None) -> None:
        content = bytearray(encoded(Image.fromarray(gradient(16, 16)), "JPEG"))
        at = content.index(b"\xff\xc0") + 5  # height and width in the frame's header
        content[at : at + 4] = struct.pack(">HH", side, side)
        tracemalloc.start()
        with pytest.raises(ImageError, match=f"{side}x{side} is over the limit"):
            load_image(bytes(content), draft=draft)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()

    @pytest.mark.parametrize("draft", [None, 8])
    @pytest.mark.parametrize("progressive", [False, True])
    def test_a_jpeg_cut_anywhere_is_an_image_error(
        self, draft: int | None, progressive: bool, noise: Callable[..., Pixels]
    ) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        content = encoded(Image.fromarray(noise(64, 64)), "JPEG", progressive=progressive, exif=exif)
        assert load_image(content, draft=draft).shape[2] == 3
        for length in range(0, len(content) - 2, 10):  # the last two bytes only say that it ends
            with pytest.raises(ImageError):
                load_image(content[:length], draft=draft)

    @pytest.mark.parametrize("draft", [0, -1, 2.0, True, "224"])
    def test_what_is_no_side_is_refused(self, draft: Any) -> None:
        with pytest.raises(InputError, match="draft must be an integer above zero"):
            load_image(gradient(), draft=draft)


def test_pillow_agrees_on_what_upright_is() -> None:
    """The table of turns above is Pillow's own."""
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.fromarray(gradient()), "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    np.testing.assert_array_equal(load_image(content), expected)
