"""Training pictures as a model's vision graph takes them: pixels, or another encoder's features."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.runtime.clip import Clip
from rar.runtime.errors import ExportError
from rar.runtime.files import atomic_file
from rar.runtime.images import load_image
from rar.runtime.preprocess import Preprocess

from .views import random_view

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]

NO_FEATURES = "the encoder gives no image_features, which this model sees by; export it again"

_PICTURES = 8


class Pictures(Protocol):
    """Gives the vision graph's inputs of pictures."""

    def __call__(self, paths: Sequence[str], chance: np.random.Generator | None) -> Floats:
        """A random view of each, or with None the pictures as they are: float32 [N, ...]."""
        ...


class PixelPictures:
    """Pictures that are decoded and prepared each time they are shown."""

    def __init__(self, preprocess: Preprocess, augment: bool) -> None:
        self._preprocess, self._augment, self._squash = preprocess, augment, squash(preprocess)

    def __call__(self, paths: Sequence[str], chance: np.random.Generator | None) -> Floats:
        """See `Pictures`."""
        pixels = [load_image(path) for path in paths]
        if chance is None or not self._augment:
            return self._preprocess(pixels)
        return self._squash([random_view(picture, chance) for picture in pixels])


class FeaturePictures:
    """Features of pictures and of random views of them, computed beforehand (`compute`)."""

    def __init__(self, paths: Sequence[str], features: Halves) -> None:
        self._rows, self._features = {path: row for row, path in enumerate(paths)}, features

    def __call__(self, paths: Sequence[str], chance: np.random.Generator | None) -> Floats:
        """See `Pictures`."""
        views = self._features.shape[1]
        chosen = np.zeros(len(paths), int) if chance is None else chance.integers(views, size=len(paths))
        return self._features[[self._rows[path] for path in paths], chosen].astype(np.float32)

    def all(self, paths: Sequence[str]) -> Halves:
        """All views of pictures: float16 [N, views, t, C]."""
        return self._features[[self._rows[path] for path in paths]]


def squash(preprocess: Preprocess) -> Preprocess:
    """For views: they are crops already, and their ratio is part of the augmentation."""
    return Preprocess.from_dict({**preprocess.to_dict(), "fit": "squash", "shortest_edge": None})


def compute(clip: Clip, paths: Sequence[str], views: int, seed: int, file: Path) -> Halves:
    """Features of each picture as it is and of random views: float16 [pictures, 1 + views, t, C], memory-mapped.

    Args:
        clip: An encoder with `image_features`.
        paths: The pictures.
        views: Random views a picture.
        seed: Of the views.
        file: Where they are kept; read instead where it is complete already.

    Raises:
        ImageError: A picture cannot be read.
        ExportError: The encoder gives no features, or the file holds other pictures'.
    """
    if not file.exists():
        _compute(clip, paths, views, seed, file)
    found = np.load(file, mmap_mode="r")
    if found.shape[:2] != (len(paths), 1 + views):
        raise ExportError(f"{file}: holds the features of other pictures; delete it")
    return cast(Halves, found)


def _compute(clip: Clip, paths: Sequence[str], views: int, seed: int, file: Path) -> None:
    prepare_view = squash(clip.preprocess)

    def prepare(start: int) -> npt.NDArray[np.float32]:
        tensors = []
        for number, path in enumerate(paths[start : start + _PICTURES], start):
            pixels = load_image(path)
            chance = np.random.default_rng([seed, 2, number])
            tensors += [
                clip.preprocess([pixels]),
                *([prepare_view([random_view(pixels, chance) for _ in range(views)])] if views else []),
            ]
        return np.concatenate(tensors)

    with (
        atomic_file(file) as out,
        ThreadPoolExecutor(1) as worker,
        tqdm(total=len(paths), desc="features", disable=None) as bar,
    ):
        ahead = worker.submit(prepare, 0)
        for start in range(0, len(paths), _PICTURES):
            pixels = ahead.result()
            if start + _PICTURES < len(paths):
                ahead = worker.submit(prepare, start + _PICTURES)
            _, features = clip.encode(pixels)
            if features is None:
                raise ExportError(NO_FEATURES)
            if start == 0:
                shape = (len(paths), 1 + views, *features.shape[1:])
                header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False}
                np.lib.format.write_array_header_2_0(out, {**header, "shape": shape})
            out.write(features.astype(np.float16).tobytes())
            bar.update(len(pixels) // (1 + views))
