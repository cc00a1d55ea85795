"""The usual retrieval in PyTorch: the encoder that was exported, Pillow, and NumPy's or faiss's search."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from rar.runtime.bundle.manifest import Bundle
from rar.runtime.errors import RarError
from rar.runtime.stages import in_stage

from ..latency.work import Opened

Floats: TypeAlias = npt.NDArray[np.float32]
# Embeddings, float32 [N, d] -> places of the nearest entries, best first: int64 [N, n].
Search: TypeAlias = Callable[[Floats], npt.NDArray[np.int64]]

_BATCHES = (1, 8, 32)
_NEIGHBOURS = 50  # as many as the runtime scores again
_NAMES_FILE = "names.npy"

# Files of the folder that `stacks.prepare` fills.
VECTORS, LABELS, NAMES, INDEX = "vectors.npy", "labels.json", "names", "index.faiss"


@dataclass(frozen=True)
class Terms:
    """The inputs of all peers.

    Attributes:
        folder: What was prepared.
        bundle: The bundle that they are compared with.
        encoder: The source of its encoder: `starter`; `open_clip`, model, weights; or `transformers`, folder.
        mllm: The source of its MLLM, `starter` or a folder; None without an MLLM.
        merged: Whether the starter's adapter was merged into it. Other adapters are ignored: they do not change speed.
        k: Candidates.
        threads: Threads of all libraries; None for one per core.
        pictures: Some of those that are to be recognised, to try or to calibrate something on.
        fp32: The same encoder and memory at fp32; None without such a bundle.
    """

    folder: Path
    bundle: Path
    encoder: tuple[str, ...]
    mllm: str | None
    merged: bool
    k: int
    threads: int | None
    pictures: tuple[Path, ...] = ()
    fp32: Path | None = None

    def labels(self) -> list[str]:
        """The class of each entry."""
        return [str(label) for label in json.loads((self.folder / LABELS).read_text(encoding="utf-8"))]


@dataclass(frozen=True)
class Seen:
    """Pictures that went through the tower; `features` is what an MLLM may see them by, a tensor or None."""

    images: list[Image.Image]
    embeddings: Floats
    features: Any


class Tower:
    """The picture tower in PyTorch, eager, with its own preparation in Pillow."""

    def __init__(self, terms: Terms) -> None:
        import torch

        if terms.threads:
            torch.set_num_threads(terms.threads)
        self._network, self._prepare = network(terms)

    def see(self, pictures: Sequence[Path]) -> Seen:
        """Decodes, prepares and embeds pictures."""
        import torch

        with in_stage("decode"):
            images = decode(pictures)
        with in_stage("preprocess"):
            pixels = torch.from_numpy(np.stack([self._prepare(image) for image in images]))
        with in_stage("embed"), torch.inference_mode():
            outputs = self._network(pixels)
            # Some encoders give features for an MLLM beside the embedding.
            embeddings, features = outputs[:2] if isinstance(outputs, tuple) else (outputs, None)
        return Seen(images, embeddings.numpy(), features)


def open_eager(terms: Terms) -> Opened:
    """PyTorch eager in its default layout, and NumPy's exact search."""
    return _open(Tower(terms), exact(terms), terms)


def open_clip_retrieval(terms: Terms) -> Opened:
    """clip-retrieval's way: PyTorch eager, and the faiss index that autofaiss chooses, whose vectors it reconstructs.

    Like `knn_search` of clip_back.py without its filters: the index is searched one query at a time.
    """
    index = read_index(terms, "clip-retrieval")

    def search(embeddings: Floats) -> npt.NDArray[np.int64]:
        neighbours = [index.search_and_reconstruct(row[None], _NEIGHBOURS)[1][0] for row in embeddings]
        return np.stack(neighbours)

    return _open(Tower(terms), search, terms)


def exact(terms: Terms) -> Search:
    """Exact search by NumPy."""
    vectors = np.load(terms.folder / VECTORS)

    return lambda embeddings: nearest(embeddings, vectors)


def nearest(embeddings: Floats, vectors: Floats) -> npt.NDArray[np.int64]:
    """The places of the nearest of all vectors, as many as the runtime scores again, best first: int64 [N, n]."""
    cosines = embeddings @ vectors.T
    count = min(_NEIGHBOURS, len(vectors) - 1)
    nearest_places = np.argpartition(-cosines, count, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(cosines, nearest_places, 1), axis=1)
    return np.asarray(np.take_along_axis(nearest_places, order, 1), np.int64)


def decode(pictures: Sequence[Path]) -> list[Image.Image]:
    """Pictures as Pillow reads them, turned as their EXIF says, in RGB."""
    images = []
    for picture in pictures:
        with Image.open(picture) as image:
            images.append(ImageOps.exif_transpose(image).convert("RGB"))
    return images


def read_index(terms: Terms, peer: str) -> Any:
    """A peer's faiss index."""
    import faiss

    if terms.threads:
        faiss.omp_set_num_threads(terms.threads)
    return faiss.read_index(str(terms.folder / peer / INDEX))


def build_clip_retrieval_index(vectors: Path, folder: Path) -> None:
    """The index that autofaiss chooses without a memory limit (`get_optimal_index_keys_v2`)."""
    import faiss

    entries = np.load(vectors)
    kind = "Flat" if len(entries) < 1000 else "HNSW15" if len(entries) < 10_000 else "HNSW32"
    index = faiss.index_factory(entries.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    index.add(entries)
    faiss.write_index(index, str(folder / INDEX))


def write_names(bundle: Path, folder: Path) -> None:
    """The sentence vectors of the starter's class names, as the bundle's own text tower makes them."""
    from rar.export.starter.classes import imagenet_classes
    from rar.export.starter.encoder import CHANNELS
    from rar.runtime.encoder.clip import Clip

    names = Clip(Bundle.open(bundle), "cpu").embed_names(imagenet_classes()[0])
    np.save(folder / _NAMES_FILE, names[:, CHANNELS:])


def distinct(places: Sequence[int] | npt.NDArray[np.int64], labels: Sequence[str], k: int) -> list[str]:
    """The first k classes of entries; faiss pads with -1."""
    return list(dict.fromkeys(labels[place] for place in places if place >= 0))[:k]


def _open(tower: Tower, search: Search, terms: Terms) -> Opened:
    labels = terms.labels()

    def answer(pictures: Sequence[Path], batch: int) -> list[str]:
        classes = []
        for start in range(0, len(pictures), batch):
            seen = tower.see(pictures[start : start + batch])
            with in_stage("search"):
                classes += [distinct(places, labels, terms.k)[0] for places in search(seen.embeddings)]
        return classes

    return Opened(answer, _BATCHES, says=versions)


def versions() -> Mapping[str, Any]:
    """The build of PyTorch: builds differ much in size."""
    import torch

    return {"torch": torch.__version__}


def network(terms: Terms) -> tuple[Any, Callable[[Image.Image], Floats]]:
    """The encoder as it was exported, a module, and its own preparation in Pillow.

    Raises:
        RarError: What it was exported from is unknown.
    """
    kind, *rest = terms.encoder
    if kind == "starter":
        import torch

        from rar.export.starter import towers

        # Not all of `towers.load`: a peer needs no text tower.
        return towers.picture_tower(
            torch.from_numpy(np.load(terms.folder / NAMES / _NAMES_FILE))
        ), towers.reference_preprocess
    sources = {"open_clip": "rar.export.encoder.openclip", "transformers": "rar.export.encoder.huggingface"}
    if kind not in sources:
        raise RarError(f"what the encoder was exported from is not known here ({' '.join(terms.encoder)})")
    model = importlib.import_module(sources[kind]).load(*rest)
    return model.visual, model.reference_preprocess
