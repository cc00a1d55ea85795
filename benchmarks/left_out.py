"""Memories without some of the classes: what `added-classes` and `open-set` begin with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.export.interchange import Embeddings
from rar.export.memory.build import MemorySource, build_memory
from rar.export.pictures.embed import embed_images
from rar.export.pictures.labelled import read_images
from rar.runtime.bundle.copy import copy
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.encoder.clip import Clip
from rar.runtime.memory import Memory

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Labelled:
    """Embedded pictures."""

    vectors: Floats
    labels: npt.NDArray[np.str_]

    def of(self, classes: Sequence[str], shots: int | None = None) -> Labelled:
        """Those of some classes, of each at most so many, the first ones."""
        places = [np.flatnonzero(self.labels == label)[:shots] for label in classes]
        rows = np.concatenate(places)
        return Labelled(self.vectors[rows], self.labels[rows])


def embedded(clip: Clip, path: str) -> Labelled:
    """Embeds labelled pictures."""
    images = read_images(path)
    return Labelled(embed_images(clip, images), np.array([image.label for image in images]))


@contextmanager
def encoder_alone(source: Bundle) -> Iterator[Bundle]:
    """A copy of a bundle with nothing but its encoder, in a folder that goes again."""
    with tempfile.TemporaryDirectory(prefix="rar-left-out-") as folder:
        yield copy(Bundle(source.root, {"clip": source.component("clip")}), Path(folder) / "bundle", without=None)


@dataclass(frozen=True)
class Draw:
    """A memory that was built without the classes `new`."""

    number: int
    new: list[str]
    old: list[str]
    memory: Memory


def memories(bundle: Bundle, train: Labelled, left_out: int, draws: int, provider: str) -> Iterator[Draw]:
    """A memory a draw of the classes that it lacks, open until the next one is asked for."""
    names = sorted(set(train.labels.tolist()))
    for number in tqdm(range(draws), desc="draws", disable=None):
        new = sorted(np.random.default_rng(number).permutation(names)[:left_out].tolist())
        old = [name for name in names if name not in set(new)]
        known = train.of(old)
        embeddings = Embeddings.of(known.vectors, known.labels.tolist())
        build_memory(bundle, MemorySource(embeddings=embeddings), provider=provider)
        memory = Memory.open(bundle)
        try:
            yield Draw(number, new, old, memory)
        finally:
            memory.close()
