"""Builds a bundle's memory from labelled pictures, names, descriptions or embeddings; needs no PyTorch."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import write_json
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.bundle.unfinished import sweep
from rar.runtime.encoder.clip import Clip
from rar.runtime.errors import BundleError, InputError
from rar.runtime.memory import Memory, log
from rar.runtime.memory.discriminant import settle_rank, write_fit
from rar.runtime.memory.files import map_npy
from rar.runtime.memory.fit.index import IndexOptions
from rar.runtime.memory.fit.measure import sample
from rar.runtime.memory.fit.part import build_part
from rar.runtime.memory.fit.write import VectorWriter
from rar.runtime.memory.lock import WriterLock
from rar.runtime.memory.view import LOG
from rar.runtime.picture.load import Reading
from rar.runtime.rank.protocol import Rank

from ..interchange import Embeddings
from ..pictures import labelled
from ..pictures.check import Duplicates, Tell, check_images
from ..pictures.embed import EmbeddedPictures, Embedder
from ..pictures.labelled import LabelledImage
from .near import near_duplicates

Labels = npt.NDArray[np.int32]

# If pictures and names both represent the classes: the best of 0 to 0.9 on the Grocery validation pictures
# (benchmarks/results/grocery-text-weight.json).
_MIXED_TEXT_WEIGHT = 0.5


@dataclass(frozen=True)
class MemorySource:
    """The sources of a memory; at least one of pictures, embeddings, classes and descriptions.

    Attributes:
        images: Labelled pictures.
        embeddings: Precomputed vectors with a class each; instead of `images`.
        classes: Class names that become texts of the memory.
        descriptions: Sentences per class, for retrieval by text and for WCA.
        tags: Classes per tag; a search may be limited to a tag.
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
    rank: Rank | None = None,
    provider: str = "auto",
    threads: int | None = None,
    *,
    index: IndexOptions | None = None,
    pool: int = 1,
    skip_broken: bool = False,
    duplicates: Duplicates = "keep",
    tell: Tell = lambda line: None,
    reading: Reading | None = None,
    embedder: Embedder | None = None,
) -> dict[str, Any]:
    """Embeds a source and writes the bundle's memory, replacing the existing one.

    Names and descriptions are embedded for every class, so that WCA can rank them, if the encoder has a text tower;
    their weight in the retrieval is `text_weight`. If a build is interrupted, the next one keeps its embedded pictures.

    Args:
        bundle: The bundle; must hold an encoder.
        source: The sources of the memory.
        dim: Dimensions of the index: a number, a share of the full dimension such as `1/9`, `recall=99.5` for the
            smallest number that keeps that recall, or `none` for all; by default 64, or all if the encoder has fewer.
        text_weight: Share of the texts in a class's similarity; by default 0 for pictures, 1 for texts, and a
            value between for both.
        rank: The bundle's default ranker; None for the memory's discriminant where it gains (`memory/held_out.py`) or
            else `none`, also after the memory has changed and was compacted.
        provider: Device of the encoder.
        threads: Threads of the encoder.
        index: Further options of the index.
        pool: A class's similarity is the mean of this number of its best entries.
        skip_broken: Leaves out pictures that cannot be read, and classes without any other.
        duplicates: What is done with pictures that are there twice; see `check_images`. Those that are only nearly the
            same are listed.
        tell: Is given what was found in the pictures, line by line.
        reading: How large pictures may be; None for the defaults.
        embedder: What embeds the pictures; None for this process.

    Returns:
        The manifest's entry.

    Raises:
        InputError: A source, a name, a picture or a setting is invalid; all broken pictures are named. The old memory
            stays.
        BundleError: The bundle has no usable encoder, another process changes its memory, or the disk is full.
    """
    clip = Clip(bundle, provider, threads)
    index = index or IndexOptions()
    if pool < 1:
        raise InputError(f"pool={pool}; give 1 for a class's best entry, or how many of its best are averaged")
    index.target(dim, clip.dim)  # checked before hours of embedding, like the following
    source = _with_names(source)
    named = list(source.classes) or list(source.descriptions)
    weight = _text_weight(source.embeddings is not None or bool(source.images), bool(named), text_weight)
    if not clip.templates and (named or weight):
        raise InputError(f"{bundle.root}: the encoder sees pictures only; leave names and texts out of its memory")
    if source.embeddings is None:
        _class_names(source, named, {image.label for image in source.images})
    elif source.embeddings.dim != clip.dim:
        raise InputError(
            f"embeddings of {source.embeddings.dim} dimensions do not fit the encoder's {clip.dim}"
            "; make them with this encoder, or export theirs"
        )
    source = _without(source, check_images(source.images, skip_broken, duplicates, tell, reading), named, tell)
    info = {
        "encoder": bundle.component("clip").fingerprint,
        "dim": clip.dim,
        "text_weight": weight,
        "pool": pool,
        **({"rank": "none", "rank_by": "discriminant"} if rank is None else {"rank": rank}),
        "built": secrets.token_hex(8),  # so that what is fitted to this memory is not stored with another
    }
    lock = WriterLock(bundle.root)
    try:
        sweep(bundle.root, "memory")
        if not source.images:
            return _write(bundle, clip, source, (), named, dim, index, lock, info)
        with EmbeddedPictures(bundle, clip, source.images, reading) as pictures:
            pictures.embed(embedder)
            written = _write(bundle, clip, source, pictures, named, dim, index, lock, info)
        for line in near_duplicates(Memory.open(bundle.root, threads=threads)):
            tell(line)
        return written
    except OSError as error:
        raise BundleError(f"{bundle.root}: cannot be written ({error}); the old memory stays") from error
    finally:
        lock.release()


def _with_names(source: MemorySource) -> MemorySource:
    """The source with all names as a memory keeps them.

    Raises:
        InputError: One cannot be a name, or a sentence is no text.
    """
    kept = {label: labelled.named(label, "the pictures") for label in {image.label for image in source.images}}
    for name, sentences in source.descriptions.items():
        for sentence in sentences:
            labelled.unicode_text(sentence, f"the descriptions of {name!r}")
    return replace(
        source,
        images=[replace(image, label=kept[image.label]) for image in source.images],
        classes=list(dict.fromkeys(labelled.named(name, "the classes") for name in source.classes)),
        descriptions=_by_name(source.descriptions, "descriptions"),
        tags={
            tag: [labelled.named(name, f"the tag {tag!r}") for name in names]
            for tag, names in _by_name(source.tags, "tags", "tag").items()
        },
    )


def _by_name(given: Mapping[str, Sequence[str]], where: str, what: str = "class name") -> dict[str, Sequence[str]]:
    names = {name: labelled.named(name, f"the {where}", what) for name in given}
    if names:
        labelled.check_labels(list(names.values()), f"the {where}")
    return {names[name]: texts for name, texts in given.items()}


def _without(source: MemorySource, images: Sequence[LabelledImage], named: Sequence[str], tell: Tell) -> MemorySource:
    """The source with these pictures alone, without the classes that lost all of theirs."""
    gone = {image.label for image in source.images} - {image.label for image in images} - set(named)
    if not gone:
        return replace(source, images=images)
    tell(f"{len(gone)} classes have no picture left: {', '.join(map(repr, sorted(gone)))}")
    return replace(
        source,
        images=images,
        descriptions={name: texts for name, texts in source.descriptions.items() if name not in gone},
        tags={tag: [name for name in names if name not in gone] for tag, names in source.tags.items()},
    )


def _write(
    bundle: Bundle,
    clip: Clip,
    source: MemorySource,
    pictures: Iterable[npt.NDArray[np.float16]],
    named: Sequence[str],
    dim: str | None,
    index: IndexOptions,
    lock: WriterLock,
    info: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes the component; returns its info."""
    target = index.target(dim, clip.dim)
    asked = {} if dim is None else {"asked": dim}
    with stage(bundle.root, "memory", check=lock.check) as staging:
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
            staging.info["discriminant"] = write_fit(folder, len(labels))
            settle_rank(staging.info)
        if clip.templates:
            folder = staging.folder / "texts"
            rows, texts = _write_texts(folder, clip, labels, source.descriptions)
            part = build_part(folder, rows, texts, target, index, cross_modal=True, queries=queries)
            staging.info["texts"] = part | asked
        write_json(staging.folder / "labels.json", labels)
        if source.tags:
            write_json(staging.folder / "tags.json", {tag: list(tagged) for tag, tagged in source.tags.items()})
    log.remove(bundle.root / LOG)  # the log of the replaced memory
    return staging.info


def _class_names(source: MemorySource, named: Sequence[str], of_pictures: Iterable[str]) -> list[str]:
    """The memory's classes: first the named ones, then those of the pictures."""
    labels = labelled.check_labels(list(dict.fromkeys([*named, *sorted(of_pictures)])), "the memory")
    known = set(labels)
    for what, names in (("descriptions name", source.descriptions), *_tagged(source)):
        if unknown := [name for name in names if name not in known]:
            raise InputError(
                f"{what} {unknown[0]!r}, which is none of the memory's {len(labels)} classes"
                "; correct the name, or add the class"
            )
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
    """Writes the vectors of a part of pictures; returns the class and the source of each."""
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
                for label in block.labels:  # one string object per class
                    known[label] = known.get(label) or labelled.named(label, "the embeddings")
                    labels.append(known[label])
                sources += block.sources
                bar.update(len(unit))
        return labels, sources


def _write_texts(
    folder: Path, clip: Clip, labels: Sequence[str], descriptions: Mapping[str, Sequence[str]]
) -> tuple[Labels, list[str]]:
    """Writes the vectors of a part of texts: first each class's name in the model's templates, then its descriptions.

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
            of_class = [label, *descriptions.get(label, ())]
            writer.append(np.vstack([names[position], sentences[taken : taken + len(of_class) - 1]]))
            owners += [position] * len(of_class)
            texts += of_class
            taken += len(of_class) - 1
    return np.array(owners, np.int32), texts


def _positions(labels: Sequence[str], names: Sequence[str]) -> Labels:
    """The positions of names in the memory's labels: int32 [n]."""
    positions = {label: position for position, label in enumerate(labels)}
    return np.fromiter((positions[name] for name in names), np.int32, len(names))
