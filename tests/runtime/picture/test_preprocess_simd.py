"""Every instruction set this processor has, against Pillow, bit for bit."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pillow_reference import resize

from rar.runtime.errors import InputError
from rar.runtime.picture.preprocess import Preprocess, native_features

LEVELS = native_features()["available"]
FILTERS = ("box", "bilinear", "hamming", "bicubic", "lanczos")

Pixels = npt.NDArray[np.uint8]


@contextmanager
def level_forced(level: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAR_SIMD", level)
        yield


def preprocess(level: str, size: int, **options: Any) -> Preprocess:
    """Gives back the uint8 values themselves: u / 255 / (1 / 255) differs from u by far less than one."""
    with level_forced(level):
        return Preprocess(size, (0, 0, 0), (1 / 255,) * 3, **({"threads": 1} | options))


def levels_of(result: npt.NDArray[np.float32]) -> Pixels:
    return np.asarray(np.rint(result).transpose(0, 2, 3, 1), np.uint8)


def picture(height: int, width: int, seed: int) -> Pixels:
    """Runs of black and white between noise: filters with negative lobes leave 0 … 255 at their edges."""
    chance = np.random.default_rng(seed)
    pixels = chance.integers(0, 256, (height, width, 3), dtype=np.uint8)
    hard = chance.random((height, width, 1)) < 0.5
    return np.where(hard, (pixels > 127) * np.uint8(255), pixels)


@pytest.mark.parametrize("level", LEVELS)
@given(data=st.data())
@settings(deadline=None, max_examples=300)
def test_squash_of_any_size_equals_pillow(level: str, data: st.DataObject) -> None:
    long = st.integers(1, 2000)
    short = st.integers(1, 60)
    height, width = data.draw(st.one_of(st.tuples(long, short), st.tuples(short, long), st.tuples(short, short)))
    size = data.draw(st.integers(1, 100))
    name = data.draw(st.sampled_from(FILTERS))
    pixels = picture(height, width, data.draw(st.integers(0, 99)))
    reference = resize(pixels, size, size, name)
    result = preprocess(level, size, filter=name, fit="squash")([pixels])
    np.testing.assert_array_equal(levels_of(result)[0], np.asarray(reference))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("size", "fit"), [(224, "squash"), (224, "pad"), (250, "crop"), (256, "squash")])
@pytest.mark.parametrize("misaligned", [0, 4])
def test_results_too_large_for_the_caches_are_the_same(
    level: str, threads: int, size: int, fit: str, misaligned: int
) -> None:
    pictures = [picture(60, 50 + i, i) for i in range(29)]
    pre = preprocess(level, size, fit=fit, threads=threads, fill=(9, 8, 7))
    alone = np.concatenate([pre([pixels]) for pixels in pictures])
    memory = np.empty(alone.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + misaligned
    out = memory[start : start + alone.nbytes].view(np.float32).reshape(alone.shape)
    np.testing.assert_array_equal(pre(pictures, out=out), alone)
    np.testing.assert_array_equal(pre(pictures), alone)
    np.testing.assert_array_equal(pre(pictures, dtype=np.float16), alone.astype(np.float16))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(("height", "width"), [(2000, 1801), (1500, 300), (277, 1999), (1080, 1920)])
def test_large_pictures_equal_pillow(level: str, name: str, height: int, width: int) -> None:
    pixels = picture(height, width, 1)
    reference = resize(pixels, 97, 97, name)
    result = preprocess(level, 97, filter=name, fit="squash")([pixels])
    np.testing.assert_array_equal(levels_of(result)[0], np.asarray(reference))


@pytest.mark.parametrize("level", LEVELS)
@given(
    box=st.tuples(st.integers(0, 89), st.integers(0, 69), st.integers(1, 90), st.integers(1, 70)),
    size=st.integers(1, 40),
    fit=st.sampled_from(["crop", "squash", "pad"]),
    name=st.sampled_from(FILTERS),
)
@example(box=(89, 69, 1, 1), size=40, fit="crop", name="lanczos")
@settings(deadline=None, max_examples=60)
def test_views_at_the_memory_s_edge_equal_the_scalar_form(
    level: str, box: tuple[int, int, int, int], size: int, fit: str, name: str
) -> None:
    left, top, width, height = box
    view = picture(70, 90, 3)[top : top + height, left : left + width]
    fast, plain = (preprocess(one, size, fit=fit, filter=name) for one in (level, "scalar"))
    np.testing.assert_array_equal(fast([view]), plain([view]))
    np.testing.assert_array_equal(fast([view[::-1]]), plain([view[::-1]]))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize(("height", "width"), [(700, 900), (1400, 500)])
def test_bands_of_one_large_picture_join_without_a_seam(level: str, threads: int, height: int, width: int) -> None:
    pixels = picture(height, width, 4)
    options = {"fit": "squash", "size": 50}
    whole = preprocess(level, **options, threads=1)([pixels])  # type: ignore[arg-type]
    np.testing.assert_array_equal(preprocess(level, **options, threads=threads)([pixels]), whole)  # type: ignore[arg-type]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ((0.0, 1 / 255, 1.0), (1.0, 1 / 3, 1 / 255)),
        ((1e-40, -3e5, 0.1), (1e-40, 1e-39, 3e38)),
    ],
)
def test_each_value_normalises_to_torchvisions_float_and_numpys_half(
    level: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    pixels = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16)[:, :, None], 3, axis=2)
    with level_forced(level):
        pre = Preprocess(16, mean, std)
    unit = pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    with np.errstate(over="ignore", under="ignore"):
        reference = (unit - np.array(mean, np.float32)[:, None, None]) / np.array(std, np.float32)[:, None, None]
        halves = reference.astype(np.float16)
    np.testing.assert_array_equal(pre([pixels])[0], reference)
    np.testing.assert_array_equal(pre([pixels], dtype=np.float16)[0].view(np.uint16), halves.view(np.uint16))


@pytest.mark.parametrize("level", LEVELS)
def test_float16_is_the_rounded_float32(level: str) -> None:
    images = [picture(77, 50, 5), picture(31, 99, 6)]
    with level_forced(level):
        pre = Preprocess(37, (0.48, 0.45, 0.40), (0.26, 0.26, 0.27), fit="pad", fill=(9, 8, 7))
    out = np.empty((2, 3, 37, 37), np.float16)
    assert pre(images, out) is out
    np.testing.assert_array_equal(out, pre(images).astype(np.float16))


def test_forced_level_is_reported() -> None:
    for level in LEVELS:
        with level_forced(level):
            assert native_features() == {"simd": level, "available": LEVELS}


def test_scalar_is_always_available_and_the_fastest_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAR_SIMD", raising=False)
    assert LEVELS[0] == "scalar"
    assert native_features()["simd"] == LEVELS[-1]


@pytest.mark.parametrize("level", ["sse9", "AVX2 ", "auto"])
def test_unknown_level_is_refused(level: str) -> None:
    with level_forced(level):
        with pytest.raises(InputError, match="RAR_SIMD"):
            native_features()
        with pytest.raises(InputError, match="RAR_SIMD"):
            Preprocess(16, (0, 0, 0), (1, 1, 1))
