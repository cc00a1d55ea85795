"""Turns decoded pictures into a model's input tensor, in C++: resize, crop or pad, normalise, CHW.

The uint8 result before normalisation equals Pillow's bit for bit (Pillow 13; 22-bit fixed point), because the
published numbers of CLIP models were made with it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args, overload

import numpy as np
import numpy.typing as npt

from .. import _native
from ..errors import ImageError, InputError
from ..machine.cores import usable_cores
from .alpha import flattened, unweighted, weighted
from .boxes import Blur, Boxes, Growth, grown, pixel_boxes

Filter: TypeAlias = Literal["box", "bilinear", "hamming", "bicubic", "lanczos"]
Fit: TypeAlias = Literal["crop", "squash", "pad"]
Pixels: TypeAlias = npt.NDArray[np.uint8]
Tensor: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float16]

MAX_SIZE = 8192

_KEYS = ("size", "mean", "std", "filter", "fit", "shortest_edge", "fill", "background", "weigh_alpha")
_REQUIRED = ("size", "mean", "std")
_ALPHA = ("background", "weigh_alpha")
_LINE = 64


def native_features() -> dict[str, Any]:
    """The instruction sets of the C++ core on this CPU.

    Returns:
        `simd`: the instruction set in use, the fastest available or the one that the environment variable `RAR_SIMD`
        names (`scalar`; `avx2`, `avx512`; `neon`, `dotprod`, `i8mm` on 64-bit ARM). `available`: all that this CPU can
        run, slowest first.

    Raises:
        InputError: `RAR_SIMD` names one that is not available on this CPU.
    """
    available = _native.simd_levels()
    return {"simd": _simd_level() or available[-1], "available": available}


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Preprocess:
    """One model's picture preparation.

    Attributes:
        size: Side of the square the model takes, in pixels.
        mean: Per channel, of values in 0 … 1.
        std: Per channel, above zero.
        filter: `box`, `bilinear`, `hamming`, `bicubic` or `lanczos`; always antialiased.
        fit: `crop` resizes the shorter side to `shortest_edge` and keeps the centre, as torchvision does;
            `squash` resizes both sides to `size`; `pad` resizes the longer side to `size` and fills the rest,
            as open_clip's `longest` does.
        shortest_edge: The length that `crop` resizes the shorter side to.
        fill: RGB, 0 … 255, of what the picture does not cover.
        background: RGB, 0 … 255, that a transparent picture is put over; None drops its alpha.
        weigh_alpha: Whether that comes after the resizing, in which colours count by their alpha: so it is where a
            model's own preparation resizes RGBA with Pillow. Otherwise it comes first.
        threads: That share the pictures of a call, the caller's own among them.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    filter: str
    fit: str
    shortest_edge: int
    fill: tuple[int, int, int]
    background: tuple[int, int, int] | None
    weigh_alpha: bool
    threads: int
    _core: _native.Preprocessor

    def __init__(
        self,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        filter: str = "bicubic",  # noqa: A002  # the name every image library gives it
        fit: str = "crop",
        *,
        shortest_edge: int | None = None,
        fill: Sequence[int] = (0, 0, 0),
        background: Sequence[int] | None = None,
        weigh_alpha: bool = False,
        threads: int | None = None,
    ) -> None:
        """Checks and keeps the settings.

        Args:
            size: 1 … 8192.
            mean: Three numbers.
            std: Three numbers above zero.
            filter: See the class.
            fit: See the class.
            shortest_edge: 1 … 8192; None for `size`. Below `size`, the rest is filled.
            fill: Three integers 0 … 255.
            background: Three integers 0 … 255, or None.
            weigh_alpha: See the class.
            threads: None for one a core this process may use.

        Raises:
            InputError: A setting is of the wrong kind or out of range.
        """
        size = _integer("size", size, 1, MAX_SIZE)
        settings: dict[str, Any] = {
            "size": size,
            "mean": _triple("mean", mean),
            "std": _triple("std", std),
            "filter": _choice("filter", filter, get_args(Filter)),
            "fit": _choice("fit", fit, get_args(Fit)),
            "shortest_edge": size if shortest_edge is None else _integer("shortest_edge", shortest_edge, 1, MAX_SIZE),
            "fill": _colour("fill", fill),
            "threads": usable_cores() if threads is None else _integer("threads", threads, 1, 1024),
        }
        background = None if background is None else _colour("background", background)
        if not isinstance(weigh_alpha, bool):
            raise InputError(f"weigh_alpha must be true or false, not {weigh_alpha!r}")
        try:
            core = _native.Preprocessor(**settings, simd=_simd_level())
        except ValueError as error:
            raise InputError(str(error)) from error
        # A frozen dataclass takes no assignment.
        vars(self).update(settings, background=background, weigh_alpha=weigh_alpha, _core=core)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], *, threads: int | None = None) -> Preprocess:
        """From what `to_dict` gives, as it stands in a bundle's `preprocess.json`.

        Raises:
            InputError: A setting is missing, unknown, of the wrong kind or out of range.
        """
        if not isinstance(settings, Mapping):
            raise InputError(f"preprocess settings must be an object, not {type(settings).__name__}")
        unknown = sorted(str(key) for key in settings if key not in _KEYS)
        missing = [key for key in _REQUIRED if key not in settings]
        if unknown or missing:
            raise InputError(f"preprocess settings: unknown {unknown}, missing {missing}; known are {list(_KEYS)}")
        return cls(**settings, threads=threads)

    def to_dict(self) -> dict[str, Any]:
        """The settings that belong to the model, as plain JSON values."""
        values = {key: getattr(self, key) for key in _KEYS}
        # Left out where they change nothing: earlier releases do not know them.
        values = {key: value for key, value in values.items() if key not in _ALPHA or value not in (None, False)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    def __repr__(self) -> str:
        settings = ", ".join(f"{key}={value!r}" for key, value in self.to_dict().items())
        return f"Preprocess({settings}, threads={self.threads})"

    @overload
    def __call__(
        self,
        images: Sequence[Pixels],
        out: npt.NDArray[np.float32] | None = None,
        *,
        dtype: type[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]: ...
    @overload
    def __call__(
        self, images: Sequence[Pixels], out: npt.NDArray[np.float16], *, dtype: type[np.float16] | None = None
    ) -> npt.NDArray[np.float16]: ...
    @overload
    def __call__(
        self, images: Sequence[Pixels], out: None = None, *, dtype: type[np.float16]
    ) -> npt.NDArray[np.float16]: ...
    def __call__(
        self, images: Sequence[Pixels], out: Tensor | None = None, *, dtype: type[np.floating] | None = None
    ) -> Tensor:
        """Prepares pictures of any sizes.

        Args:
            images: uint8 [H, W, 3] each, RGB, as `rar.runtime.picture.load.load_image` gives them; its `draft` decodes
                large JPEGs sooner, but the result no longer equals Pillow's. Or [H, W, 4] with alpha, as `decode` there
                gives transparent ones; they are put over `background`. Views with packed rows, such as
                `image[y0:y1, x0:x1]`, are read where they are; other strides are copied.
            out: float32 or float16 [N, 3, size, size] to write to, C-contiguous; None for a new array. Large ones
                are written faster where they start at a multiple of 64 bytes, as new ones do.
            dtype: np.float32 or np.float16; None for `out`'s, else float32.

        Returns:
            `out`: float32 or float16 [N, 3, size, size].

        Raises:
            ImageError: A picture is not uint8 [H, W, 3 or 4], is empty or has a side over 2**20. It is named.
            InputError: `out` or `dtype` is of the wrong shape or kind.
        """
        pictures = [self._checked(image, f"picture {position}") for position, image in enumerate(images)]
        target = _output(out, dtype, (len(pictures), 3, self.size, self.size))
        self._core.run(pictures, target)
        for position, image in enumerate(images) if self.weigh_alpha else ():
            if image.shape[2] == 4 and self._resizes(*image.shape[:2]):
                target[position] = self._weighed(image)
        return target

    def _resizes(self, height: int, width: int) -> bool:
        """Whether a picture of this size is resized; Pillow weighs nothing where it is not."""
        if self.fit == "crop":
            return min(height, width) != self.shortest_edge
        return max(height, width) != self.size or (self.fit == "squash" and height != width)

    def _weighed(self, image: Pixels) -> npt.NDArray[np.float32]:
        """A transparent picture whose alpha goes through the resizing: float32 [3, size, size]."""
        levels = {**self.to_dict(), "mean": (0, 0, 0), "std": (1 / 255,) * 3, "background": None, "weigh_alpha": False}
        opacity = np.repeat(image[:, :, 3:], 3, axis=2)
        (colours,) = Preprocess.from_dict(levels, threads=self.threads)([weighted(image)])
        (alpha,) = Preprocess.from_dict({**levels, "fill": (255,) * 3}, threads=self.threads)([opacity])
        small = (np.rint(values).astype(np.uint8).transpose(1, 2, 0) for values in (colours, alpha[:1]))
        flat = flattened(unweighted(*small), self.background)
        return np.asarray(((flat / 255 - self.mean) / self.std).transpose(2, 0, 1), np.float32)

    @overload
    def regions(
        self,
        image: Pixels,
        boxes: Boxes,
        grow: Growth = 1.5,
        blur: Blur | float | None = ...,
        *,
        square: bool = False,
        fit: str = "squash",
        out: npt.NDArray[np.float32] | None = None,
        dtype: type[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]: ...
    @overload
    def regions(
        self,
        image: Pixels,
        boxes: Boxes,
        grow: Growth = 1.5,
        blur: Blur | float | None = ...,
        *,
        square: bool = False,
        fit: str = "squash",
        out: npt.NDArray[np.float16] | None = None,
        dtype: type[np.float16],
    ) -> npt.NDArray[np.float16]: ...
    def regions(
        self,
        image: Pixels,
        boxes: Boxes,
        grow: Growth = 1.5,
        blur: Blur | float | None = Blur(),  # noqa: B008  # frozen
        *,
        square: bool = False,
        fit: str = "squash",
        out: Tensor | None = None,
        dtype: type[np.floating] | None = None,
    ) -> Tensor:
        """Prepares objects of one frame: each box sharp, what is around it blurred.

        A box covers every pixel it touches, grows around its middle, and the rectangle is then prepared like a
        picture. `rar.runtime.picture.boxes.box_problems` tells beforehand which boxes cannot be used.

        Args:
            image: uint8 [H, W, 3], RGB; or [H, W, 4] with alpha.
            boxes: [M, 4] numbers: x0, y0, x1, y1 in pixels, edges at x1 and y1 outside. They may reach over the
                picture's border.
            grow: Factor on the box's sides, 1 to 16. Or (limit, factor) pairs for objects of different size,
                such as [(32, 3.0), (96, 2.0), (inf, 1.5)]: the first counts whose limit is not below the root
                of the box's area.
            blur: A `Blur`, or its radius as a share of the box's longer side; None leaves everything sharp.
            square: Grows the shorter side up to the longer one, so that squashing distorts nothing.
            fit: How a region becomes square; see the class. `crop` would cut off the ends of long boxes.
            out: float32 or float16 [M, 3, size, size] to write to; None for a new array.
            dtype: np.float32 or np.float16; None for `out`'s, else float32.

        Returns:
            `out`: float32 or float16 [M, 3, size, size].

        Raises:
            ImageError: The picture, or a box cannot be used. The box is named.
            InputError: A setting, `out` or `dtype` is of the wrong kind or out of range.
        """
        frame = self._checked(image, "picture")
        if self.weigh_alpha and self.background is None and image.shape[2] == 4:
            frame = frame * (image[:, :, 3:] > 0)  # what is clear turns black in a resizing that weighs
        height, width, _ = frame.shape
        sharp = pixel_boxes(boxes, width, height)
        around = [grown(box, grow, width, height, square) for box in sharp]
        style = Blur(radius=blur) if isinstance(blur, (int, float)) else blur
        if style is not None and not isinstance(style, Blur):
            raise InputError(f"blur must be a Blur, a number or None, not {blur!r}")
        target = _output(out, dtype, (len(sharp), 3, self.size, self.size))
        self._core.run_regions(
            image=frame,
            boxes=sharp,
            around=around,
            sigmas=[0.0 if style is None else style.sigma(box) for box in sharp],
            method=None if style is None else style.method,
            fit=_choice("fit", fit, get_args(Fit)),
            out=target,
        )
        return target

    def _checked(self, image: object, name: str) -> Pixels:
        """The picture as RGB with the pixels of each row packed."""
        if not isinstance(image, np.ndarray):
            raise ImageError(f"{name}: a {type(image).__name__} is not a uint8 array [H, W, 3]; decode it first")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4):
            raise ImageError(f"{name}: must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
        height, width, _ = image.shape
        if not 1 <= height <= _native.MAX_SIDE or not 1 <= width <= _native.MAX_SIDE:
            raise ImageError(
                f"{name}: {width}x{height} is empty or has a side over {_native.MAX_SIDE} pixels; resize it"
            )
        image = flattened(image, self.background)
        if image.strides[2] == 1 and (image.strides[1] == 3 or width == 1):
            return image
        return np.ascontiguousarray(image)


def _output(out: object, dtype: object, shape: tuple[int, ...]) -> Tensor:
    """`out`, checked, or a new array."""
    if dtype not in (None, np.float32, np.float16):
        raise InputError(f"dtype must be np.float32 or np.float16, not {dtype!r}")
    if out is None:
        return _empty(shape, np.float16) if dtype == np.float16 else _empty(shape, np.float32)
    if not isinstance(out, np.ndarray):
        raise InputError(f"out must be an array, not a {type(out).__name__}")
    kinds = (np.float32, np.float16) if dtype is None else (dtype,)
    if out.dtype not in kinds or not out.dtype.isnative or out.shape != shape:
        raise InputError(
            f"out must be {' or '.join(np.dtype(kind).name for kind in kinds)} {list(shape)}, "
            f"not {out.dtype} {list(out.shape)}"
        )
    if not out.flags.c_contiguous or not out.flags.writeable or not out.flags.aligned:
        raise InputError("out must be C-contiguous, aligned and writeable")
    return cast("Tensor", out)


def _empty(shape: tuple[int, ...], dtype: type[np.floating]) -> Tensor:
    """A new array that starts at a cache line: results too large for the caches are then written past them."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + _LINE, np.uint8)
    start = -memory.ctypes.data % _LINE
    return cast("Tensor", memory[start : start + size].view(dtype).reshape(shape))


def _integer(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise InputError(f"{name} must be an integer {low} to {high}, not {value!r}")
    return int(value)


def _sequence(name: str, values: object) -> Sequence[Any]:
    if isinstance(values, str) or not isinstance(values, (Sequence, np.ndarray)) or len(values) != 3:
        raise InputError(f"{name} must be three numbers, not {values!r}")
    return list(values)


def _triple(name: str, values: object) -> tuple[float, float, float]:
    try:
        first, second, third = (float(value) for value in _sequence(name, values))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be three numbers, not {values!r}") from error
    return first, second, third


def _colour(name: str, values: object) -> tuple[int, int, int]:
    red, green, blue = (_integer(name, value, 0, 255) for value in _sequence(name, values))
    return red, green, blue


def _choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    return value


def _simd_level() -> str:
    """What `RAR_SIMD` asks for; empty for the fastest."""
    level = os.environ.get("RAR_SIMD", "")
    if level and level not in _native.simd_levels():
        raise InputError(f"RAR_SIMD={level} is not available on this CPU; choose {', '.join(_native.simd_levels())}")
    return level
