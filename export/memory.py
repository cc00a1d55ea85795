"""Builds a bundle's memory from labelled pictures, names, descriptions or ready embeddings; needs no PyTorch."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.runtime import bundle as bundles
from rar.runtime.bundle import Bundle
from rar.runtime.clip import Clip
from rar.runtime.errors import ImageError, InputError
from rar.runtime.files import write_json
from rar.runtime.images import load_image
from rar.runtime.memory.part import PartSettings
from rar.runtime.memory.reduction import fit_pca
from rar.runtime.memory.write import check_vectors, write_part
from rar.runtime.recognizer import Rank

from . import labelled
from .labelled import LabelledImage

Floats = npt.NDArray[np.float32]

DEFAULT_DIM = 64
_BATCH = 32
# Where pictures and names both stand for the classes: the best of 0 to 0.9 on the Grocery validation pictures
# (benchmarks/results/grocery-text-weight.json).
_MIXED_TEXT_WEIGHT = 0.5


@dataclass(frozen=True)
class MemorySource:
    """What a memory is built from; at least one of pictures, embeddings, classes and descriptions.

    Attributes:
        images: Labelled pictures.
        embeddings: float [n, d], ready-made, with one of `embedding_labels` a row; instead of `images`.
        embedding_labels: The class of each embedding.
        classes: Class names that stand in the memory as texts.
        descriptions: Sentences a class, for retrieval by text and for WCA.
    """

    images: Sequence[LabelledImage] = ()
    embeddings: npt.NDArray[np.floating] | None = None
    embedding_labels: Sequence[str] = ()
    classes: Sequence[str] = ()
    descriptions: dict[str, list[str]] | None = None


def parse_dim(text: str, full: int) -> int | None:
    """The index's dimension from `64`, a share such as `1/9`, or `none`.

    Raises:
        InputError: None of these, or out of range.
    """
    if text == "none":
        return None
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"dim {text!r} is no number, share such as 1/9, or none") from error
    dim = int(value) if value.denominator == 1 and value >= 1 else round(full * value)
    if not 1 <= dim <= full:
        raise InputError(f"dim {text} asks for {dim} of the encoder's {full} dimensions; choose 1 to {full}")
    return dim


def build_memory(
    bundle: Bundle,
    source: MemorySource,
    dim: str | None = None,
    text_weight: float | None = None,
    rank: Rank = "none",
    provider: str = "auto",
    threads: int | None = None,
) -> dict[str, Any]:
    """Embeds a source and writes the bundle's memory, replacing the one it has.

    Names and descriptions are embedded for every class, so that WCA can rank them; they take part in the
    retrieval by `text_weight`.

    Args:
        bundle: The bundle; must hold an encoder.
        source: What the memory is made from.
        dim: Dimensions of the index: a number, a share of the full dimension, or `none` for all; by default 64,
            or all where the encoder has fewer.
        text_weight: Share of the texts in a class's similarity; by default 0 for pictures, 1 for texts, and a
            value between for both.
        rank: The bundle's default ranker.
        provider: Device of the encoder.
        threads: Threads of the encoder.

    Returns:
        What was written into the manifest.

    Raises:
        InputError: A source, a picture or a setting cannot be used; the old memory stays.
        BundleError: The bundle has no usable encoder.
    """
    clip = Clip(bundle, provider, threads)
    index_dim = min(DEFAULT_DIM, clip.dim) if dim is None else parse_dim(dim, clip.dim)
    descriptions = source.descriptions or {}
    picture_labels = list(source.embedding_labels) or [image.label for image in source.images]
    named = list(source.classes) or list(descriptions)
    labels = list(dict.fromkeys([*named, *sorted(set(picture_labels))]))
    labelled.check_labels(labels, "the memory")
    if unknown := [name for name in descriptions if name not in set(labels)]:
        raise InputError(f"descriptions name {unknown[0]!r}, which is none of the memory's {len(labels)} classes")
    weight = _text_weight(bool(picture_labels), bool(named), text_weight)
    positions = {label: position for position, label in enumerate(labels)}
    pictures = _check_embeddings(source, clip.dim) if source.embeddings is not None else None
    if pictures is None and source.images:
        pictures = embed_images(clip, source.images)
    text_labels, sentences, texts = _embed_texts(clip, labels, descriptions)
    with bundles.stage(bundle.root, "memory") as staging:
        staging.info.update(
            encoder=bundle.component("clip").fingerprint,
            classes=len(labels),
            dim=clip.dim,
            text_weight=weight,
            pool=1,
            rank=rank,
        )
        if pictures is not None:
            rows = np.array([positions[label] for label in picture_labels], np.int32)
            paths = [str(image.path) for image in source.images] or [f"row {row}" for row in range(len(rows))]
            staging.info["pictures"] = _write(staging.folder / "pictures", pictures, rows, paths, index_dim)
        staging.info["texts"] = _write(staging.folder / "texts", texts, text_labels, sentences, index_dim)
        write_json(staging.folder / "labels.json", labels)
    return staging.info


def _write(
    folder: Path, vectors: Floats, labels: npt.NDArray[np.int32], sources: Sequence[str], dim: int | None
) -> dict[str, Any]:
    check_vectors(vectors)
    reduction = fit_pca(vectors, dim, cross_modal=folder.name == "texts")
    settings = PartSettings(reducer="none" if reduction.components is None else "pca")
    return write_part(folder, [vectors], labels, sources, reduction, settings)


def _text_weight(pictures: bool, names: bool, wanted: float | None) -> float:
    if wanted is None:
        return _MIXED_TEXT_WEIGHT if pictures and names else float(not pictures)
    if not 0 <= wanted <= 1 or (wanted < 1 and not pictures):
        raise InputError(
            f"text weight {wanted} does not fit; 0 is pictures only, 1 texts only, and pictures need --images"
        )
    return wanted


def _check_embeddings(source: MemorySource, dim: int) -> Floats:
    embeddings = np.asarray(source.embeddings)
    if embeddings.ndim != 2 or embeddings.shape != (len(source.embedding_labels), dim):
        raise InputError(
            f"embeddings of shape {list(embeddings.shape)} do not fit {len(source.embedding_labels)} labels "
            f"and the encoder's {dim} dimensions"
        )
    norms = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)))
    if len(wrong):
        raise InputError(f"embedding {int(wrong[0])} is zero, NaN or infinite")
    return np.asarray(embeddings / norms, np.float32)


def embed_images(clip: Clip, images: Sequence[LabelledImage]) -> Floats:
    """Embeds labelled pictures in batches: float32 [N, d]; the next batch is decoded while one is embedded.

    Raises:
        InputError: A picture cannot be read.
    """

    def prepare(start: int) -> Floats:
        return clip.preprocess([_load(image) for image in images[start : start + _BATCH]])

    embeddings = np.empty((len(images), clip.dim), np.float32)
    starts = range(0, len(images), _BATCH)
    with (
        ThreadPoolExecutor(1) as worker,
        tqdm(total=len(images), desc="pictures", unit="", disable=None) as bar,
    ):
        ahead = worker.submit(prepare, 0)
        for start in starts:
            pixels = ahead.result()
            if start + _BATCH < len(images):
                ahead = worker.submit(prepare, start + _BATCH)
            embeddings[start : start + len(pixels)] = clip.embed_pixels(pixels)
            bar.update(len(pixels))
    return embeddings


def _load(image: LabelledImage) -> npt.NDArray[np.uint8]:
    try:
        return load_image(image.path)
    except ImageError as error:
        raise InputError(f"class {image.label!r}: {error}; mend or remove the picture") from error


def _embed_texts(
    clip: Clip, labels: Sequence[str], descriptions: dict[str, list[str]]
) -> tuple[npt.NDArray[np.int32], list[str], Floats]:
    """Each class's name, embedded in the model's templates, followed by its descriptions."""
    names = clip.embed_names(labels)
    sentences = clip.embed_texts([sentence for label in labels for sentence in descriptions.get(label, [])])
    owners: list[int] = []
    texts: list[str] = []
    rows: list[Floats] = []
    taken = 0
    for position, label in enumerate(labels):
        own = descriptions.get(label, [])
        owners += [position] * (1 + len(own))
        texts += [label, *own]
        rows += [names[position], *sentences[taken : taken + len(own)]]
        taken += len(own)
    return np.array(owners, np.int32), texts, np.stack(rows)


def read_embeddings(file: str | os.PathLike[str], labels: str | os.PathLike[str]) -> MemorySource:
    """Reads ready-made embeddings.

    Args:
        file: A `.npy` of float [n, d] in the encoder's space.
        labels: A text file with the class of each row, one a line.

    Raises:
        InputError: A file is missing or of another form.
    """
    try:
        embeddings = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{file}: not a .npy of numbers ({error})") from error
    if not isinstance(embeddings, np.ndarray):
        raise InputError(f"{file}: holds several arrays; save one as a .npy")
    if not np.issubdtype(embeddings.dtype, np.floating):
        raise InputError(f"{file}: holds {embeddings.dtype}; embeddings are floating-point")
    names = labelled.read_text(Path(labels)).rstrip("\n").split("\n")
    if blank := [line for line, name in enumerate(names, 1) if not name.strip()]:
        raise InputError(f"{labels}, line {blank[0]}: the class name is blank")
    return MemorySource(embeddings=embeddings, embedding_labels=[name.strip() for name in names])
