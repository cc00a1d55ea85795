"""Changes a bundle's memory in place, and exports its vectors; needs no PyTorch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from rar.runtime.errors import InputError
from rar.runtime.memory import Memory, Modality
from rar.runtime.picture.load import Reading
from rar.runtime.recognizer import Recognizer

from ..interchange import Block, Embeddings
from ..pictures.labelled import LabelledImage, named

# Pictures per change: each change is on disk when it returns.
_BATCH = 32
_ROWS = 8192


def add_images(
    path: str | os.PathLike[str],
    images: Sequence[LabelledImage],
    provider: str = "auto",
    threads: int | None = None,
    reading: Reading | None = None,
) -> None:
    """Adds labelled pictures to a bundle's memory; pictures added before an interruption stay.

    Args:
        path: The bundle.
        images: The pictures; new classes are created, with their names as texts.
        provider: Device of the encoder.
        threads: Threads of the encoder.
        reading: How large pictures may be; None for the defaults.

    Raises:
        InputError: A picture cannot be read.
        BundleError: The bundle is damaged, or another process changes its memory.
    """
    memory = Recognizer.open(path, provider, threads=threads, reading=reading).memory
    with tqdm(total=len(images), desc="pictures", unit="", disable=None) as bar:
        for start in range(0, len(images), _BATCH):
            batch = images[start : start + _BATCH]
            memory.add([image.path for image in batch], [image.label for image in batch])
            bar.update(len(batch))
    memory.save()
    memory.close()


def add_embeddings(
    path: str | os.PathLike[str], embeddings: Embeddings, provider: str = "auto", threads: int | None = None
) -> None:
    """Adds precomputed embeddings to a bundle's memory, like `add_images`; the encoder embeds new classes' names.

    Raises:
        InputError: Their dimension is not the encoder's, or a vector is zero or not finite.
        BundleError: The bundle is damaged, or another process changes its memory.
    """
    memory = Recognizer.open(path, provider, threads=threads).memory
    if embeddings.dim != memory.dim:
        raise InputError(
            f"embeddings of {embeddings.dim} dimensions do not fit the encoder's {memory.dim}"
            "; make them with this encoder, or export theirs"
        )
    for label in {label for block in embeddings.read() for label in block.labels}:  # before any is added
        named(label, "the embeddings")
    with tqdm(total=embeddings.count, desc="embeddings", unit="", disable=None) as bar:
        for unit, block in embeddings.unit_blocks():
            memory.add(unit, block.labels, sources=block.sources)
            bar.update(len(unit))
    memory.save()
    memory.close()


def remove_classes(path: str | os.PathLike[str], labels: Sequence[str]) -> None:
    """Removes classes with all their entries.

    Raises:
        InputError: There is no such class; nothing was removed.
        BundleError: The bundle is damaged, or another process changes its memory.
    """
    memory = Memory.open(path)
    known = set(memory.labels)
    if unknown := [label for label in labels if label not in known]:
        raise InputError(f"the memory has no class {unknown[0]!r}; nothing was removed")
    for label in dict.fromkeys(labels):
        memory.remove(label)
    memory.save()
    memory.close()


def embeddings_of(memory: Memory, modality: Modality | None = None) -> Embeddings:
    """A memory's present entries at full dimension, changes included.

    Args:
        memory: The memory.
        modality: The part; None for the pictures, or the texts of a memory without pictures.

    Raises:
        InputError: The part is missing or empty.
    """
    names, parts = memory.labels, memory.parts
    while memory.labels != names:  # another process may have renamed a class meanwhile
        names, parts = memory.labels, memory.parts
    modality = modality or ("pictures" if "pictures" in parts else "texts")
    if modality not in parts:
        raise InputError(f"the memory has no {modality}; it has {' and '.join(parts)}")
    part = parts[modality]
    labels = np.concatenate([part.labels, part.added.labels])
    kept = np.flatnonzero(labels >= 0)
    if not len(kept):
        raise InputError(f"the memory's {modality} are empty; add some with `rar-export add`")

    def read() -> Iterator[Block]:
        for start in range(0, len(kept), _ROWS):
            rows = kept[start : start + _ROWS]
            built = rows[rows < len(part.built)]
            added = rows[len(built) :] - len(part.built)
            yield Block(
                np.concatenate([part.vectors[built], part.added.vectors[added]]),
                [names[label] for label in labels[rows].tolist()],
                [part.source(entry) for entry in rows.tolist()],
            )

    return Embeddings(len(kept), memory.dim, read)
