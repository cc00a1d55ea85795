"""Pictures and names on their way into a memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import ImageError, InputError
from ..images import Pixels, Source, load_image
from .changes import Entries, check_name
from .part import Modality
from .reduction import Floats

_BATCH = 16


class Embedder(Protocol):
    """How pictures and names become vectors; `Clip` is one."""

    @property
    def preprocess(self) -> Callable[[Sequence[Pixels]], Floats]:
        """uint8 [H, W, 3] pictures to what `embed_pixels` takes."""

    def embed_pixels(self, pixels: Floats) -> Floats:
        """To float32 [N, d], L2-normalised."""

    def embed_names(self, names: Sequence[str]) -> Floats:
        """Class names to float32 [N, d], L2-normalised."""


def listed(images: Source | Iterable[Source] | Floats) -> list[Source] | Floats:
    """Pictures as a list, be it of a single one; vectors as they are."""
    if isinstance(images, np.ndarray) and images.ndim != 3:
        vectors: Floats = images  # type: ignore[assignment]  # `to_vectors` checks the type
        return vectors
    single = isinstance(images, (str, os.PathLike, bytes, np.ndarray)) or hasattr(images, "getexif")
    return [images] if single else list(images)  # type: ignore[list-item, arg-type]


def to_vectors(images: list[Source] | Floats, embed: Embedder | None, dim: int) -> npt.NDArray[np.float16]:
    """float16 [N, d], L2-normalised: pictures embedded, or vectors checked.

    Raises:
        InputError: A picture cannot be read, or a vector is not finite, zero, or of another dimension.
    """
    if isinstance(images, np.ndarray):
        return _unit(images, dim)
    if embed is None:
        raise InputError("pictures can be added where the memory knows the encoder: use `Recognizer.open(...).memory`")
    vectors = np.empty((len(images), dim), np.float16)
    for start in range(0, len(images), _BATCH):
        pixels = [_load(image, start + i) for i, image in enumerate(images[start : start + _BATCH])]
        vectors[start : start + len(pixels)] = _unit(embed.embed_pixels(embed.preprocess(pixels)), dim)
    return vectors


def name_texts(names: Sequence[str], embed: Embedder | None, dim: int) -> dict[Modality, Entries]:
    """Class names as texts; none where there is no embedder."""
    if embed is None or not names:
        return {}
    return {"texts": Entries(_unit(embed.embed_names(names), dim), tuple(names), tuple(names))}


def _load(image: Source, number: int) -> Pixels:
    try:
        return load_image(image)
    except ImageError as error:
        raise InputError(f"picture {number}: {error}; nothing was added") from error


def _unit(vectors: npt.NDArray[Any], dim: int) -> npt.NDArray[np.float16]:
    if vectors.ndim != 2 or vectors.shape[1] != dim or not np.issubdtype(vectors.dtype, np.floating):
        raise InputError(f"vectors must be float32 of shape [N, {dim}], not {vectors.dtype} of {list(vectors.shape)}")
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)))
    if len(wrong):
        raise InputError(f"vector {int(wrong[0])} is zero, NaN or infinite")
    return np.asarray(wide / norms, np.float16)


def check_labels(labels: str | Sequence[str], count: int) -> tuple[str, ...]:
    """The class of each of so many pictures.

    Raises:
        InputError: There are not as many, or one cannot be a name.
    """
    names = (labels,) * count if isinstance(labels, str) else tuple(labels)
    if not count:
        raise InputError("there is nothing to add; give one picture or more")
    if len(names) != count:
        raise InputError(f"{len(names)} labels do not fit {count} pictures; give one a picture")
    try:
        for name in dict.fromkeys(names):
            check_name(name)
    except ValueError as error:
        raise InputError(str(error)) from error
    return names


def check_sources(sources: Sequence[str] | None, images: list[Source] | Floats) -> tuple[str, ...]:
    """Where each picture came from: as given, or the paths among the pictures.

    Raises:
        InputError: There are not as many, or one is no text.
    """
    if sources is None:
        return tuple(os.fsdecode(image) if isinstance(image, (str, os.PathLike)) else "" for image in images)
    if isinstance(sources, str) or len(sources) != len(images) or not all(isinstance(one, str) for one in sources):
        raise InputError(f"sources must be {len(images)} texts, one a picture")
    return tuple(sources)
