"""Training pictures in the form of the vision graph's inputs: pixels, or another encoder's features."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.runtime.bundle.files import atomic_file
from rar.runtime.encoder.clip import Clip
from rar.runtime.errors import ExportError
from rar.runtime.picture.alpha import flattened
from rar.runtime.picture.load import Pixels, decode
from rar.runtime.picture.preprocess import Preprocess

from .views import random_view

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]

NO_FEATURES = "the encoder gives no image_features, which this model sees by; export it again"

_PICTURES = 8


class Pictures(Protocol):
    """Makes the vision graph's inputs from pictures."""

    def __call__(self, paths: Sequence[str], chance: np.random.Generator | None) -> Floats:
        """A random view of each, or with None the unchanged pictures: float32 [N, ...]."""
        ...


class PixelPictures:
    """Pictures that are decoded and prepared each time they are shown."""

    def __init__(self, preprocess: Preprocess, augment: bool) -> None:
        self._preprocess, self._augment, self._squash = preprocess, augment, squash(preprocess)

    def __call__(self, paths: Sequence[str], chance: np.random.Generator | None) -> Floats:
        """See `Pictures`."""
        pixels = [_shown(path, self._preprocess) for path in paths]
        if chance is None or not self._augment:
            return self._preprocess(pixels)
        return self._squash([random_view(picture, chance) for picture in pixels])


class FeaturePictures:
    """Features of pictures and of their random views, computed beforehand (`compute`)."""

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


def _shown(path: str, preprocess: Preprocess) -> Pixels:
    """A picture as the model sees it, a transparent one over the model's own colour: uint8 [H, W, 3]."""
    return flattened(decode(path).pixels, preprocess.background)


def squash(preprocess: Preprocess) -> Preprocess:
    """The preparation of views: they are already crops, and their aspect ratio is part of the augmentation."""
    return Preprocess.from_dict({**preprocess.to_dict(), "fit": "squash", "shortest_edge": None})


def compute(clip: Clip, paths: Sequence[str], views: int, seed: int, file: Path) -> Halves:
    """Features of each unchanged picture and of random views: float16 [pictures, 1 + views, t, C], memory-mapped.

    Args:
        clip: An encoder with `image_features`.
        paths: The pictures.
        views: Random views per picture.
        seed: Seed of the views.
        file: The file of the features; it is read if it is already complete.

    Raises:
        ImageError: A picture cannot be read.
        ExportError: The encoder gives no features, or the file holds features of other pictures.
    """
    if not file.exists():
        _compute(clip, paths, views, seed, file)
    features = np.load(file, mmap_mode="r")
    if features.shape[:2] != (len(paths), 1 + views):
        raise ExportError(f"{file}: holds the features of other pictures; delete it")
    return cast(Halves, features)


def _compute(clip: Clip, paths: Sequence[str], views: int, seed: int, file: Path) -> None:
    prepare_view = squash(clip.preprocess)

    def prepare(start: int) -> npt.NDArray[np.float32]:
        tensors = []
        for number, path in enumerate(paths[start : start + _PICTURES], start):
            pixels = _shown(path, clip.preprocess)
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
