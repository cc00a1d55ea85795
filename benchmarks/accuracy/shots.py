"""Accuracy by the number of pictures per class: builds real memories from seeded draws and measures them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rar.export.interchange import Embeddings
from rar.export.memory.build import MemorySource, build_memory
from rar.export.pictures.embed import embed_images
from rar.export.pictures.labelled import LabelledImage, few_shot
from rar.export.tune.fit import Retrieved, drawn, ranker_name, rankers, retrieve
from rar.runtime.bundle.copy import copy
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.encoder.clip import Clip
from rar.runtime.errors import InputError
from rar.runtime.memory.info import MemoryInfo
from rar.runtime.rank.protocol import Ranker
from rar.runtime.rank.tuning import Tuning
from rar.runtime.recognizer import Recognizer

from .published import Shots
from .rows import Measure, Measured


@dataclass(frozen=True)
class Asked:
    """The memories to build and the measurements on them.

    Attributes:
        bundle: Its encoder, MLLM and tuning are used; its memory is not.
        provider: Device.
        train: Pictures for the draws.
        test: Pictures to recognise.
        shots: Pictures per class; 0 for names and descriptions alone, or `all`.
        draws: Draws of each number.
        k: Candidates.
        wanted: The rankers.
        descriptions: Sentences per class.
    """

    bundle: Bundle
    provider: str
    train: Sequence[LabelledImage]
    test: Sequence[LabelledImage]
    shots: Sequence[Shots]
    draws: int
    k: int
    wanted: Sequence[str]
    descriptions: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass
class Table:
    """The results of the memories.

    Attributes:
        provider: What ran the encoder.
        rows: Shots -> figure -> mean, standard deviation (None for one draw) and the draws, in percent.
        last: The rows of the last draw of each, by name.
        means: Shots -> the mean metrics of the retrieval, and of the last ranker if one was requested.
        missing: What Ctrl-C left undone.
    """

    provider: str
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    last: dict[str, Measured] = field(default_factory=dict)
    means: dict[Shots, tuple[dict[str, float], dict[str, float]]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def add(self, shots: Shots, draws: Sequence[dict[str, Measured]]) -> None:
        """Adds the draws of one number of shots."""
        name, ranked = _name(shots), list(draws[-1])[-1]
        self.rows[name] = _spread(draws)
        self.last |= {f"{name}: {ranker}": measured for ranker, measured in draws[-1].items()}
        self.means[shots] = (_means(draws, "none"), {} if ranked == "none" else _means(draws, ranked))


def by_shots(asked: Asked, measure: Measure) -> Table:
    """Builds a memory per draw and measures retrieval and rankers on it.

    Each picture is embedded once for all draws. A ranker that the bundle was tuned for is fused with the weight of its
    tuning, which was fitted for the bundle's own memory. Ctrl-C ends it with the finished draws.
    """
    folder = Path(tempfile.mkdtemp(prefix="rar-shots-"))
    try:
        draws = {shots: _draws(asked, shots) for shots in asked.shots}
        bench = _Bench(asked, measure, copy(asked.bundle, folder / "bundle", without="memory"))
        table = Table(bench.embed([image for drawn in draws.values() for images in drawn for image in images]))
        with tqdm(total=sum(map(len, draws.values())), desc="memories", disable=None) as bar:
            for shots, drawn in draws.items():
                finished: list[dict[str, Measured]] = []
                try:
                    for images in () if table.missing else drawn:
                        finished.append(bench.draw(images))
                        bar.update()
                except KeyboardInterrupt:
                    if not table.rows and not finished:
                        raise
                if len(finished) < len(drawn):
                    table.missing.append(f"{_name(shots)}: {len(drawn) - len(finished)} of {len(drawn)} draws")
                if finished:
                    table.add(shots, finished)
        return table
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Bench:
    """A bundle whose memory is rebuilt for each draw, from pictures that are embedded once."""

    def __init__(self, asked: Asked, measure: Measure, target: Bundle) -> None:
        self._asked, self._measure, self._target = asked, measure, target
        self._tuning = Tuning.of(MemoryInfo.of(asked.bundle).tune) if "memory" in asked.bundle.components else None
        self._classes = sorted({image.label for image in (*asked.train, *asked.test)})
        self._places: dict[LabelledImage, int] = {}
        self._vectors = np.empty((0, 0), np.float32)
        self._queries: Retrieved | None = None

    def embed(self, images: Sequence[LabelledImage]) -> str:
        """Embeds the pictures of all draws; returns what ran the encoder."""
        clip = Clip(self._target, self._asked.provider)
        pictures = list(dict.fromkeys(images))
        self._places = {image: place for place, image in enumerate(pictures)}
        self._vectors = embed_images(clip, pictures)
        return clip.visual.provider

    def draw(self, images: Sequence[LabelledImage]) -> dict[str, Measured]:
        """Rows of the retrieval and of each ranker on a memory of these pictures, or of names without pictures."""
        asked = self._asked
        build_memory(self._target, self._source(images), text_weight=float(not images), provider=asked.provider)
        recognizer = Recognizer.open(self._target.root, asked.provider)
        k = min(asked.k, recognizer.memory.classes)
        queries = self._queries or retrieve(recognizer, asked.test, k)
        embeddings = np.stack([query.embedding for query in queries.undecoded])
        self._queries = queries = queries.with_candidates(recognizer.memory.search(embeddings, k))
        rows = {"none": self._measure.retrieved([query.candidates for query in queries.undecoded])}
        if asked.wanted:
            wider = drawn(recognizer.memory, queries, k)
            for one in choose(recognizer, self._target, asked.wanted):
                given = queries if recognizer.first_opinion(one[0]["rank"]) is None else wider
                rows |= dict(self._measure.ranked(given, [one], self._tuning))
        return rows

    def _source(self, images: Sequence[LabelledImage]) -> MemorySource:
        told = self._asked.descriptions
        if not images:
            return MemorySource(classes=self._classes, descriptions=told)
        labels = [image.label for image in images]
        vectors = self._vectors[[self._places[image] for image in images]]
        known = set(labels)
        descriptions = {label: texts for label, texts in told.items() if label in known}
        return MemorySource(embeddings=Embeddings.of(vectors, labels), descriptions=descriptions)


def choose(recognizer: Recognizer, bundle: Bundle, wanted: Sequence[str]) -> list[tuple[dict[str, Any], Ranker]]:
    """The selected rankers of the bundle: by rank, by full name, or `all`.

    Raises:
        InputError: The bundle has no such ranker.
    """
    loaded = list(rankers(recognizer, bundle.root, None))
    names = {alias for settings, _ in loaded for alias in ("all", settings["rank"], ranker_name(settings))}
    if missing := [name for name in wanted if name not in names]:
        raise InputError(f"{bundle.root}: has no ranker {missing[0]!r}; choose {', '.join(sorted(names)) or 'none'}")
    return [
        (settings, ranker)
        for settings, ranker in loaded
        if {"all", settings["rank"], ranker_name(settings)} & set(wanted)
    ]


def _draws(asked: Asked, shots: Shots) -> list[list[LabelledImage]]:
    if shots == "all":
        return [list(asked.train)]
    return [few_shot(list(asked.train), shots, seed) for seed in range(asked.draws)] if shots else [[]]


def _name(shots: Shots) -> str:
    return "all pictures" if shots == "all" else f"{shots} shots"


def _spread(draws: Sequence[Mapping[str, Measured]]) -> dict[str, Any]:
    """Columns of one number of shots."""
    retrieval = [rows["none"].final for rows in draws]
    columns = {"retrieval": retrieval, f"in {draws[0]['none'].row['k']}": _metric(draws, "none", "recall")}
    for ranker in draws[0]:
        if ranker != "none":
            finals = [rows[ranker].final for rows in draws]
            columns[ranker] = finals
            columns[f"{ranker}, gain"] = [final - retrieved for final, retrieved in zip(finals, retrieval, strict=True)]
    return {name: _pm(values) for name, values in columns.items()}


def _pm(values: Sequence[float]) -> dict[str, Any]:
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": sd, "draws": list(values)}


def _metric(draws: Sequence[Mapping[str, Measured]], ranker: str, metric: str) -> list[float]:
    values = [rows[ranker].row[metric] for rows in draws]
    return [value["percent"] if isinstance(value, dict) else value for value in values]


def _means(draws: Sequence[Mapping[str, Measured]], ranker: str) -> dict[str, float]:
    means = {"top1": float(np.mean([rows[ranker].final for rows in draws]))}
    for metric in ("top5", "cacc", "sacc"):
        if metric in draws[0][ranker].row:
            means[metric] = float(np.mean(_metric(draws, ranker, metric)))
    return means
