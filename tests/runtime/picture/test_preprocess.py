"""Preprocess against Pillow and torchvision's arithmetic, bit for bit, and what it refuses."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pillow_reference import resize

from rar.runtime.errors import ImageError, InputError
from rar.runtime.picture.preprocess import Preprocess

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
FILTERS = ("box", "bilinear", "hamming", "bicubic", "lanczos")
FITS = ("crop", "squash", "pad")

Pixels = npt.NDArray[np.uint8]


def picture(height: int, width: int, seed: int = 0) -> Pixels:
    """Noise with hard black and white patches, which drive filters with negative lobes out of 0 … 255."""
    chance = np.random.default_rng(seed)
    pixels = chance.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[: height // 3] = (pixels[: height // 3] > 127) * np.uint8(255)
    return pixels


def pillow_prepare(
    pixels: Pixels,
    size: int,
    name: str = "bicubic",
    fit: str = "crop",
    shortest_edge: int | None = None,
    fill: tuple[int, int, int] = (0, 0, 0),
) -> Pixels:
    """What torchvision (crop, squash) and open_clip (pad) do with Pillow: uint8 [size, size, 3]."""
    height, width = pixels.shape[:2]
    if fit == "crop":
        edge = shortest_edge or size
        shape = (edge, int(edge * height / width)) if width <= height else (int(edge * width / height), edge)
    elif fit == "squash":
        shape = (size, size)
    else:
        ratio = max(height, width) / size
        shape = (max(1, round(width / ratio)), max(1, round(height / ratio)))
    resized = resize(pixels, *shape, name)
    for axis in (0, 1):
        spare = size - resized.shape[axis]
        if spare < 0:
            first = round(-spare / 2)
            resized = resized.take(range(first, first + size), axis=axis)
    canvas = np.full((size, size, 3), fill, np.uint8)
    top, left = ((size - side) // 2 for side in resized.shape[:2])
    canvas[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
    return canvas


def normalised(pixels: Pixels, mean: tuple[float, ...], std: tuple[float, ...]) -> npt.NDArray[np.float32]:
    """torchvision's ToTensor and Normalize, in the same float32 steps."""
    unit = pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    below, scale = (np.array(values, np.float32)[:, None, None] for values in (mean, std))
    return np.asarray((unit - below) / scale, np.float32)


def expected(pixels: Pixels, pre: Preprocess) -> npt.NDArray[np.float32]:
    prepared = pillow_prepare(pixels, pre.size, pre.filter, pre.fit, pre.shortest_edge, pre.fill)
    return normalised(prepared, pre.mean, pre.std)


@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    size=st.integers(1, 64),
    name=st.sampled_from(FILTERS),
    fit=st.sampled_from(FITS),
    seed=st.integers(0, 9),
)
@example(height=2000, width=3, size=16, name="bicubic", fit="crop", seed=0)
@example(height=3, width=2000, size=16, name="lanczos", fit="crop", seed=0)
@example(height=1, width=1, size=7, name="bicubic", fit="squash", seed=0)
@example(height=2000, width=1999, size=1, name="bilinear", fit="squash", seed=0)
@example(height=1, width=2000, size=32, name="bicubic", fit="pad", seed=0)
@settings(deadline=None, max_examples=150)
def test_equals_pillow_then_torchvision(height: int, width: int, size: int, name: str, fit: str, seed: int) -> None:
    pixels = picture(height, width, seed)
    pre = Preprocess(size, CLIP_MEAN, CLIP_STD, name, fit, fill=(1, 2, 250), threads=1)
    np.testing.assert_array_equal(pre([pixels])[0], expected(pixels, pre))


@pytest.mark.parametrize("height", [223, 224, 225, 348, 1000])
@pytest.mark.parametrize("width", [224, 333, 1001])
def test_centre_crop_offset_is_torchvisions(height: int, width: int) -> None:
    pixels = picture(height, width)
    pre = Preprocess(224, CLIP_MEAN, CLIP_STD, threads=1)
    np.testing.assert_array_equal(pre([pixels])[0], expected(pixels, pre))


@pytest.mark.parametrize("shortest_edge", [20, 32, 36, 37])
def test_shortest_edge_and_crop_size_may_differ(shortest_edge: int) -> None:
    pixels = picture(50, 81)
    pre = Preprocess(32, CLIP_MEAN, CLIP_STD, shortest_edge=shortest_edge, threads=1)
    np.testing.assert_array_equal(pre([pixels])[0], expected(pixels, pre))


def test_tall_picture_takes_pillows_vertical_pass_first() -> None:
    pixels = picture(900, 130)
    pre = Preprocess(64, CLIP_MEAN, CLIP_STD, fit="squash", threads=1)
    np.testing.assert_array_equal(pre([pixels])[0], expected(pixels, pre))


def test_very_long_picture_costs_only_what_is_kept() -> None:
    pre = Preprocess(224, CLIP_MEAN, CLIP_STD, threads=1)
    assert pre([picture(3, 20_000)]).shape == (1, 3, 224, 224)
    assert pre([picture(20_000, 3)]).shape == (1, 3, 224, 224)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(2, 50_000), (50_000, 2), (1, 1), (1, 50_000), (50_000, 1)])
def test_extreme_shapes_equal_the_scalar_form(
    fit: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = picture(*shape)
    fast = Preprocess(50, CLIP_MEAN, CLIP_STD, fit=fit)([pixels])
    monkeypatch.setenv("RAR_SIMD", "scalar")
    np.testing.assert_array_equal(fast, Preprocess(50, CLIP_MEAN, CLIP_STD, fit=fit)([pixels]))


def test_open_clip_transforms_agree() -> None:
    transform = pytest.importorskip("open_clip.transform")
    for mode, fit in (("shortest", "crop"), ("squash", "squash"), ("longest", "pad")):
        reference = transform.image_transform(
            96, is_train=False, mean=CLIP_MEAN, std=CLIP_STD, resize_mode=mode, interpolation="bicubic"
        )
        pre = Preprocess(96, CLIP_MEAN, CLIP_STD, "bicubic", fit)
        for height, width in ((97, 211), (300, 200), (96, 96), (31, 500)):
            pixels = picture(height, width)
            np.testing.assert_array_equal(pre([pixels])[0], reference(Image.fromarray(pixels)).numpy())


def test_view_is_resized_as_pillows_crop_and_not_copied() -> None:
    pixels = picture(120, 160)
    crop = pixels[10:90, 20:140]
    pre = Preprocess(48, CLIP_MEAN, CLIP_STD, fit="squash", threads=1)
    reference = Image.fromarray(pixels).crop((20, 10, 140, 90)).resize((48, 48), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(pre([crop])[0], normalised(np.asarray(reference), CLIP_MEAN, CLIP_STD))


@pytest.mark.parametrize(
    "view",
    [
        np.s_[::-1],
        np.s_[:, ::-1],
        np.s_[:, :, ::-1],
        np.s_[::2, ::3],
        np.s_[5:6, 7:8],
        np.s_[3:40:2, 4:30],
    ],
)
def test_any_strides_give_the_result_of_a_copy(view: tuple[slice, ...]) -> None:
    pixels = picture(60, 70)[view]
    pre = Preprocess(24, CLIP_MEAN, CLIP_STD)
    np.testing.assert_array_equal(pre([pixels]), pre([np.ascontiguousarray(pixels)]))


def test_fortran_order_and_read_only_pictures_are_taken() -> None:
    pixels = picture(40, 50)
    pre = Preprocess(24, CLIP_MEAN, CLIP_STD)
    frozen = pixels.copy()
    frozen.flags.writeable = False
    for form in (np.asfortranarray(pixels), frozen):
        np.testing.assert_array_equal(pre([form]), pre([pixels]))


def test_pictures_from_another_process_are_taken() -> None:
    pixels = picture(40, 50)
    # A process pool sends an array with a dtype that is equal, but another object.
    sent = pixels.view(np.dtype(np.uint8, copy=True))
    assert sent.dtype is not pixels.dtype
    pre = Preprocess(24, CLIP_MEAN, CLIP_STD)
    np.testing.assert_array_equal(pre([sent]), pre([pixels]))


def test_batch_of_mixed_sizes_is_the_same_with_any_number_of_threads() -> None:
    images = [picture(20 + 7 * i, 90 - 5 * i, i) for i in range(12)]
    one, many = (Preprocess(32, CLIP_MEAN, CLIP_STD, threads=count) for count in (1, 5))
    np.testing.assert_array_equal(one(images), many(images))
    for position, image in enumerate(images):
        np.testing.assert_array_equal(many(images)[position], one([image])[0])


def test_many_python_threads_share_one_preprocessor() -> None:
    images = [picture(50 + i, 60, i) for i in range(8)]
    pre = Preprocess(32, CLIP_MEAN, CLIP_STD, threads=3)
    reference = pre(images)
    with ThreadPoolExecutor(6) as executor:
        for result in executor.map(lambda _: pre(images), range(30)):
            np.testing.assert_array_equal(result, reference)


def test_writes_into_rows_of_the_callers_buffer_and_nowhere_else() -> None:
    pre = Preprocess(16, CLIP_MEAN, CLIP_STD)
    images = [picture(30, 20), picture(17, 40)]
    batch = np.full((5, 3, 16, 16), 7, np.float32)
    result = pre(images, out=batch[1:3])
    assert np.shares_memory(result, batch)
    np.testing.assert_array_equal(batch[1:3], pre(images))
    assert (batch[[0, 3, 4]] == 7).all()


def test_no_picture_gives_an_empty_batch() -> None:
    assert Preprocess(16, CLIP_MEAN, CLIP_STD)([]).shape == (0, 3, 16, 16)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 0, 3), np.uint8),
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 5), np.uint8),
        np.zeros((5, 5, 3), np.float32),
        np.zeros((5, 5, 3), np.int8),
        np.lib.stride_tricks.as_strided(np.zeros(3, np.uint8), (2**20 + 1, 1, 3), (0, 3, 1)),
        "photo.jpg",
        None,
    ],
)
def test_bad_picture_is_named(bad: object) -> None:
    with pytest.raises(ImageError, match="picture 1"):
        Preprocess(16, CLIP_MEAN, CLIP_STD)([picture(5, 5), bad])  # type: ignore[list-item]


def test_bad_output_buffers_are_refused() -> None:
    pre = Preprocess(16, CLIP_MEAN, CLIP_STD)
    frozen = np.zeros((1, 3, 16, 16), np.float32)
    frozen.flags.writeable = False
    for bad in (
        np.zeros((2, 3, 16, 16), np.float32),
        np.zeros((1, 3, 16, 15), np.float32),
        np.zeros((1, 3, 16, 16), np.float64),
        np.zeros((1, 3, 16, 32), np.float32)[..., ::2],
        np.zeros((1, 16, 16, 3), np.float32).transpose(0, 3, 1, 2),
        frozen,
        [0.0],
    ):
        with pytest.raises(InputError, match="out must be"):
            pre([picture(5, 5)], out=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"size": -1},
        {"size": 10**9},
        {"size": 224.0},
        {"size": True},
        {"mean": (0.5, 0.5)},
        {"mean": (0.5, float("nan"), 0.5)},
        {"mean": "abc"},
        {"mean": (None, 0, 0)},
        {"std": (0.5, 0.0, 0.5)},
        {"std": (0.5, -1.0, 0.5)},
        {"std": (0.5, float("inf"), 0.5)},
        {"filter": "nearest"},
        {"filter": 3},
        {"fit": "stretch"},
        {"shortest_edge": 0},
        {"fill": (0, 0, 256)},
        {"fill": (0, 0)},
        {"fill": (0.5, 0, 0)},
        {"threads": 0},
    ],
)
def test_bad_settings_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Preprocess(**({"size": 16, "mean": CLIP_MEAN, "std": CLIP_STD} | change))  # type: ignore[arg-type]


def test_settings_survive_json() -> None:
    pre = Preprocess(16, CLIP_MEAN, CLIP_STD, "lanczos", "pad", shortest_edge=20, fill=(1, 2, 3))
    again = Preprocess.from_dict(json.loads(json.dumps(pre.to_dict())), threads=2)
    assert again.to_dict() == pre.to_dict()
    assert again.threads == 2


@pytest.mark.parametrize("bad", [{"size": 16}, {"size": 16, "mean": [0] * 3, "std": [1] * 3, "crop": 1}, [16], None])
def test_from_dict_refuses_missing_and_unknown_keys(bad: object) -> None:
    with pytest.raises(InputError):
        Preprocess.from_dict(bad)  # type: ignore[arg-type]


def test_from_dict_takes_only_the_required_keys() -> None:
    pre = Preprocess.from_dict({"size": 16, "mean": [0, 0, 0], "std": [1, 1, 1]})
    assert (pre.filter, pre.fit, pre.shortest_edge, pre.fill) == ("bicubic", "crop", 16, (0, 0, 0))


@pytest.mark.parametrize("attribute", ["size", "mean", "std", "filter", "fit", "shortest_edge", "fill", "threads"])
def test_attributes_are_read_only(attribute: str) -> None:
    with pytest.raises(AttributeError):
        setattr(Preprocess(16, CLIP_MEAN, CLIP_STD), attribute, 1)
