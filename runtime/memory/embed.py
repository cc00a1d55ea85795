"""Turns pictures and names into entries of a memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import ImageError, InputError
from ..picture.budget import in_parts
from ..picture.given import Given, Picture, decode, is_single, own
from ..picture.load import Pixels, Reading
from .changes import Entries
from .names import class_name
from .part import Modality
from .reduction import Floats

_BATCH = 16


class Embedder(Protocol):
    """Turns pictures and names into vectors; `Clip` does."""

    @property
    def preprocess(self) -> Callable[[Sequence[Pixels]], Floats]:
        """uint8 [H, W, 3] pictures -> the input of `embed_pixels`."""

    @property
    def templates(self) -> Sequence[str]:
        """How names are written; none if texts have no vectors."""

    def embed_pixels(self, pixels: Floats) -> Floats:
        """The input -> float32 [N, d], L2-normalised."""

    def embed_names(self, names: Sequence[str]) -> Floats:
        """Class names -> float32 [N, d], L2-normalised."""


def listed(images: Given | Iterable[Given] | Floats, reading: Reading) -> list[Picture] | Floats:
    """Pictures as a list, even a single one; vectors unchanged.

    Those of a generator are made our own, one by one: it may reuse or close what it gave.
    """
    if isinstance(images, np.ndarray) and images.ndim != 3:
        vectors: Floats = images  # type: ignore[assignment]  # `to_vectors` checks the type
        return vectors
    if is_single(images):
        return [images]  # type: ignore[list-item]
    if isinstance(images, (list, tuple)):
        return list(images)
    return [own(image, reading) for image in images]  # type: ignore[arg-type, union-attr]


def to_vectors(
    images: list[Picture] | Floats, embed: Embedder | None, dim: int, reading: Reading
) -> npt.NDArray[np.float16]:
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
        batch = images[start : start + _BATCH]
        tensors, done = [], start
        for part in in_parts(batch, reading.batch_bytes):
            tensors.append(embed.preprocess([_load(image, done + i, reading) for i, image in enumerate(part)]))
            done += len(part)
        pixels = np.concatenate(tensors)
        vectors[start : start + len(pixels)] = _unit(embed.embed_pixels(pixels), dim)
    return vectors


def name_texts(names: Sequence[str], embed: Embedder | None, dim: int) -> dict[Modality, Entries]:
    """Class names as text entries; empty without an embedder, or if it sees pictures only."""
    if embed is None or not names or not embed.templates:
        return {}
    return {"texts": Entries(_unit(embed.embed_names(names), dim), tuple(names), tuple(names))}


def _load(image: Picture, number: int, reading: Reading) -> Pixels:
    decoded = decode(image, reading)
    if isinstance(decoded, ImageError):
        raise InputError(f"picture {number}: {decoded}; nothing was added") from decoded
    return decoded.pixels


def _unit(vectors: npt.NDArray[Any], dim: int) -> npt.NDArray[np.float16]:
    if vectors.ndim != 2 or vectors.shape[1] != dim or not np.issubdtype(vectors.dtype, np.floating):
        raise InputError(f"vectors must be float32 of shape [N, {dim}], not {vectors.dtype} of {list(vectors.shape)}")
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)))
    if len(wrong):
        raise InputError(f"vector {int(wrong[0])} is zero, NaN or infinite; embed its picture again, or leave it out")
    return np.asarray(wide / norms, np.float16)


def check_labels(labels: str | Sequence[str], count: int) -> tuple[str, ...]:
    """The class of each of `count` pictures, its name composed.

    Raises:
        InputError: The number of labels differs, or one cannot be a class name.
    """
    names = (labels,) * count if isinstance(labels, str) else tuple(labels)
    if not count:
        raise InputError("there is nothing to add; give one picture or more")
    if len(names) != count:
        raise InputError(f"{len(names)} labels do not fit {count} pictures; give one a picture")
    try:
        kept = {name: class_name(name) for name in dict.fromkeys(names)}
    except ValueError as error:
        raise InputError(str(error)) from error
    return tuple(kept[name] for name in names)


def check_sources(sources: Sequence[str] | None, images: list[Picture] | Floats) -> tuple[str, ...]:
    """The source of each picture: as given, or the picture's path.

    Raises:
        InputError: The number of sources differs, or one is not a text.
    """
    if sources is None:
        return tuple(os.fsdecode(image) if isinstance(image, (str, os.PathLike)) else "" for image in images)
    if isinstance(sources, str) or len(sources) != len(images) or not all(isinstance(one, str) for one in sources):
        raise InputError(f"sources must be {len(images)} texts, one a picture")
    return tuple(sources)
