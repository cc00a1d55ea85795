"""Builds a bundle's memory from labelled pictures, names, descriptions or ready embeddings; needs no PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.runtime import bundle as bundles
from rar.runtime.bundle import Bundle
from rar.runtime.clip import Clip
from rar.runtime.errors import BundleError, InputError
from rar.runtime.files import write_json
from rar.runtime.memory import log
from rar.runtime.memory.files import map_npy
from rar.runtime.memory.lock import WriterLock
from rar.runtime.memory.view import LOG
from rar.runtime.memory.write import VectorWriter
from rar.runtime.rank import Rank

from . import labelled
from .build import build_part
from .embedding import EmbeddedPictures
from .fit import IndexOptions
from .interchange import Embeddings
from .labelled import LabelledImage
from .measure import sample

Labels = npt.NDArray[np.int32]

# Where pictures and names both stand for the classes: the best of 0 to 0.9 on the Grocery validation pictures
# (benchmarks/results/grocery-text-weight.json).
_MIXED_TEXT_WEIGHT = 0.5


@dataclass(frozen=True)
class MemorySource:
    """What a memory is built from; at least one of pictures, embeddings, classes and descriptions.

    Attributes:
        images: Labelled pictures.
        embeddings: Ready-made vectors with a class each; instead of `images`.
        classes: Class names that stand in the memory as texts.
        descriptions: Sentences a class, for retrieval by text and for WCA.
        tags: Classes a tag; a search may be limited to a tag.
    """

    images: Sequence[LabelledImage] = ()
    embeddings: Embeddings | None = None
    classes: Sequence[str] = ()
    descriptions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tags: Mapping[str, Sequence[str]] = field(default_factory=dict)


def build_memory(
    bundle: Bundle,
    source: MemorySource,
    dim: str | None = None,
    text_weight: float | None = None,
    rank: Rank = "none",
    provider: str = "auto",
    threads: int | None = None,
    *,
    index: IndexOptions | None = None,
    pool: int = 1,
) -> dict[str, Any]:
    """Embeds a source and writes the bundle's memory, replacing the one it has.

    Names and descriptions are embedded for every class, so that WCA can rank them; they take part in the
    retrieval by `text_weight`. Pictures that were embedded when a build is interrupted are not embedded again by the
    next one.

    Args:
        bundle: The bundle; must hold an encoder.
        source: What the memory is made from.
        dim: Dimensions of the index: a number, a share of the full dimension such as `1/9`, `recall=99.5` for as many
            as keep that recall, or `none` for all; by default 64, or all where the encoder has fewer.
        text_weight: Share of the texts in a class's similarity; by default 0 for pictures, 1 for texts, and a
            value between for both.
        rank: The bundle's default ranker.
        provider: Device of the encoder.
        threads: Threads of the encoder.
        index: What else is asked of the index.
        pool: A class's similarity is the mean of its best so many entries.

    Returns:
        What was written into the manifest.

    Raises:
        InputError: A source, a picture or a setting cannot be used; the old memory stays.
        BundleError: The bundle has no usable encoder, another process changes its memory, or the disk is full.
    """
    clip = Clip(bundle, provider, threads)
    index = index or IndexOptions()
    if pool < 1:
        raise InputError(f"pool={pool}; give 1 for a class's best entry, or how many of its best are averaged")
    index.target(dim, clip.dim)  # before hours of embedding, as what follows
    named = list(source.classes) or list(source.descriptions)
    weight = _text_weight(source.embeddings is not None or bool(source.images), bool(named), text_weight)
    if source.embeddings is None:
        _class_names(source, named, {image.label for image in source.images})
    elif source.embeddings.dim != clip.dim:
        raise InputError(f"embeddings of {source.embeddings.dim} dimensions do not fit the encoder's {clip.dim}")
    info = {"encoder": bundle.component("clip").fingerprint, "dim": clip.dim, "text_weight": weight, "pool": pool}
    lock = WriterLock(bundle.root)
    try:
        bundles.sweep(bundle.root, "memory")
        if not source.images:
            return _write(bundle, clip, source, (), named, dim, index, {**info, "rank": rank})
        with EmbeddedPictures(bundle, clip, source.images) as pictures:
            pictures.embed()
            return _write(bundle, clip, source, pictures, named, dim, index, {**info, "rank": rank})
    except OSError as error:
        raise BundleError(f"{bundle.root}: cannot be written ({error}); the old memory stays") from error
    finally:
        lock.release()


def _write(
    bundle: Bundle,
    clip: Clip,
    source: MemorySource,
    pictures: Iterable[npt.NDArray[np.float16]],
    named: Sequence[str],
    dim: str | None,
    index: IndexOptions,
    info: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes the component; returns its info."""
    target = index.target(dim, clip.dim)
    asked = {} if dim is None else {"asked": dim}
    with bundles.stage(bundle.root, "memory") as staging:
        staging.info.update(info)
        names: Sequence[str] = ()
        if source.images or source.embeddings is not None:
            names, sources = _write_vectors(staging.folder / "pictures", clip.dim, source, pictures)
        labels = _class_names(source, named, set(names))
        staging.info["classes"] = len(labels)
        queries = None
        if names:
            folder = staging.folder / "pictures"
            staging.info["pictures"] = build_part(folder, _positions(labels, names), sources, target, index) | asked
            queries = sample(map_npy(folder / "vectors.npy"))
        folder = staging.folder / "texts"
        rows, texts = _write_texts(folder, clip, labels, source.descriptions)
        part = build_part(folder, rows, texts, target, index, cross_modal=True, queries=queries)
        staging.info["texts"] = part | asked
        write_json(staging.folder / "labels.json", labels)
        if source.tags:
            write_json(staging.folder / "tags.json", {tag: list(own) for tag, own in source.tags.items()})
    log.remove(bundle.root / LOG)  # of changes to the memory that was replaced
    return staging.info


def _class_names(source: MemorySource, named: Sequence[str], of_pictures: Iterable[str]) -> list[str]:
    """The memory's classes: those that were named, then those of the pictures."""
    labels = list(dict.fromkeys([*named, *sorted(of_pictures)]))
    labelled.check_labels(labels, "the memory")
    known = set(labels)
    for what, names in (("descriptions name", source.descriptions), *_tagged(source)):
        if unknown := [name for name in names if name not in known]:
            raise InputError(f"{what} {unknown[0]!r}, which is none of the memory's {len(labels)} classes")
    return labels


def _tagged(source: MemorySource) -> Iterable[tuple[str, Sequence[str]]]:
    return ((f"the tag {tag!r} names", names) for tag, names in source.tags.items())


def _text_weight(pictures: bool, names: bool, wanted: float | None) -> float:
    if wanted is None:
        return _MIXED_TEXT_WEIGHT if pictures and names else float(not pictures)
    if not 0 <= wanted <= 1 or (wanted < 1 and not pictures):
        raise InputError(
            f"text weight {wanted} does not fit; 0 is pictures only, 1 texts only, and pictures need --images"
        )
    return wanted


def _write_vectors(
    folder: Path, dim: int, source: MemorySource, pictures: Iterable[npt.NDArray[np.float16]]
) -> tuple[list[str], Iterable[str]]:
    """Writes the vectors of a part of pictures; returns the class of each, and where it came from."""
    folder.mkdir()
    with VectorWriter(folder, dim) as writer:
        if source.embeddings is None:
            for vectors in pictures:
                writer.append(vectors)
            return [image.label for image in source.images], (str(image.path) for image in source.images)
        labels: list[str] = []
        sources: list[str] = []
        known: dict[str, str] = {}
        with tqdm(total=source.embeddings.count, desc="embeddings", unit="", disable=None) as bar:
            for unit, block in source.embeddings.unit_blocks():
                writer.append(unit)
                labels += [known.setdefault(label, label) for label in block.labels]  # one string a class
                sources += block.sources
                bar.update(len(unit))
        return labels, sources


def _write_texts(
    folder: Path, clip: Clip, labels: Sequence[str], descriptions: Mapping[str, Sequence[str]]
) -> tuple[Labels, list[str]]:
    """Writes the vectors of a part of texts: each class's name in the model's templates, then its descriptions.

    Returns:
        The class of each text, int32 [n], and the texts.
    """
    names = clip.embed_names(labels)
    sentences = clip.embed_texts([sentence for label in labels for sentence in descriptions.get(label, ())])
    folder.mkdir()
    owners: list[int] = []
    texts: list[str] = []
    taken = 0
    with VectorWriter(folder, clip.dim) as writer:
        for position, label in enumerate(labels):
            own = [label, *descriptions.get(label, ())]
            writer.append(np.vstack([names[position], sentences[taken : taken + len(own) - 1]]))
            owners += [position] * len(own)
            texts += own
            taken += len(own) - 1
    return np.array(owners, np.int32), texts


def _positions(labels: Sequence[str], names: Sequence[str]) -> Labels:
    """Names to their positions in the memory's labels: int32 [n]."""
    positions = {label: position for position, label in enumerate(labels)}
    return np.fromiter((positions[name] for name in names), np.int32, len(names))
