"""Does the CPU keep the GPU fed? Decoding, preparation and the whole loop from JPEG files, at several batch sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from rar.export.memory.build import MemorySource, build_memory
from rar.export.pictures.labelled import LabelledImage
from rar.runtime import Recognizer, Result
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.encoder.clip import Clip
from rar.runtime.picture.load import Pixels, load_image

from .step import Row, Setting, side_by_side

_MODEL = "b32-fp16"
_BATCHES = (1, 16, 64, 256)


def run(setting: Setting) -> Iterator[Row]:
    """The stages one by one, then the loop, and how far the slowest stage is behind the session."""
    bundle = Bundle.open(setting.models / _MODEL)
    clip = Clip(bundle, setting.provider)
    for batch in _BATCHES:
        paths = list(islice(cycle(setting.pictures), batch))
        pictures = [load_image(path) for path in paths]
        pixels = clip.preprocess(pictures)
        timed = side_by_side(
            {
                "decode, one thread": partial(_decode, paths),
                "preprocess": partial(clip.preprocess, pictures),
                "session, from host memory": partial(clip.embed_pixels, pixels),
            },
            setting.slice,
        )  # fmt: skip
        fed = np.median(timed["session, from host memory"].seconds) / np.median(timed["preprocess"].seconds)
        yield {
            "model": _MODEL, "batch": batch, "sizes": sorted({picture.shape[:2] for picture in pictures}),
            "timed": {name: one.row(batch) for name, one in timed.items()}, "prepared_per_embedded": float(fed),
        }  # fmt: skip
    yield from _loop(setting, bundle)


def _loop(setting: Setting, bundle: Bundle) -> Iterator[Row]:
    labelled = [LabelledImage(path, path.stem) for path in setting.pictures]
    build_memory(bundle, MemorySource(images=labelled), provider=setting.provider)
    recognizer = Recognizer.open(bundle.root, setting.provider)
    answers = [result.label for result in recognizer.recognize(list(setting.pictures), k=2)]
    right = float(np.mean([label == path.stem for label, path in zip(answers, setting.pictures, strict=True)]))
    for batch in _BATCHES:
        paths = list(islice(cycle(setting.pictures), max(256, 2 * batch)))
        timed = side_by_side(
            {"stream": partial(_recognise, recognizer, paths, batch)},
            setting.slice,
        )
        yield {
            "model": _MODEL, "loop": "from JPEG files to results", "batch": batch, "entries": len(labelled),
            "own_pictures_recognised": right, "timed": {name: one.row(len(paths)) for name, one in timed.items()},
        }  # fmt: skip


def _decode(paths: Sequence[Path]) -> list[Pixels]:
    return [load_image(path) for path in paths]


def _recognise(recognizer: Recognizer, paths: Sequence[Path], batch: int) -> list[Result]:
    return list(recognizer.stream(paths, k=2, batch_size=batch))
