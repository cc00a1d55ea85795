"""A memory as plain lists, searched with NumPy: what the real one must equal."""

from __future__ import annotations

import resource
import signal
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from memories import Floats, add_part, unit

from rar.runtime import Candidate, Memory
from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import write_json
from rar.runtime.memory import MODALITIES, Modality

WIDTH = 12


@dataclass
class Model:
    """Classes in order, and the entries (class, source, vector as it is stored) of each modality."""

    classes: list[str]
    tags: dict[str, set[str]]
    entries: dict[Modality, list[tuple[str, str, npt.NDArray[np.float16]]]]
    text_weight: float = 0.0
    pool: int = 1
    made: int = field(default=0)

    def add(self, labels: Sequence[str], vectors: Floats, sources: Sequence[str]) -> None:
        wide = vectors.astype(np.float64)
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
        for label, vector, source in zip(labels, wide, sources, strict=True):
            if label not in self.classes:
                self.classes.append(label)
            self.entries["pictures"].append((label, source, vector.astype(np.float16)))

    def remove(self, label: str) -> None:
        self.classes.remove(label)
        for name, own in self.entries.items():
            self.entries[name] = [entry for entry in own if entry[0] != label]
        for names in self.tags.values():
            names.discard(label)

    def drop(self, label: str, sources: Collection[str]) -> None:
        own = self.entries["pictures"]
        self.entries["pictures"] = [entry for entry in own if entry[0] != label or entry[1] not in sources]
        if not any(entry[0] == label for own in self.entries.values() for entry in own):
            self.remove(label)

    def relabel(self, old: str, new: str) -> None:
        place = self.classes.index(old)
        if new in self.classes:
            del self.classes[place]
        else:
            self.classes[place] = new
        for name, own in self.entries.items():
            self.entries[name] = [(new if entry[0] == old else entry[0], *entry[1:]) for entry in own]
        for names in self.tags.values():
            if old in names:
                names.discard(old)
                names.add(new)

    def allowed(self, labels: Collection[str] | None, tags: Collection[str] | None) -> list[str]:
        """The classes that a search may find."""
        tagged = set().union(*(self.tags[tag] for tag in tags)) if tags is not None else set(self.classes)
        present = {entry[0] for name in self._active() for entry in self.entries[name]}
        return [c for c in self.classes if c in present and c in tagged and (labels is None or c in labels)]

    def similarities(self, query: Floats, allowed: Collection[str]) -> dict[str, float]:
        """Of each allowed class."""
        total = dict.fromkeys(allowed, 0.0)
        for name, weight in self._active().items():
            own = [(label, float(query @ vector.astype(np.float32))) for label, _, vector in self.entries[name]]
            own = [(label, cosine) for label, cosine in own if label in total]
            floor = min((cosine for _, cosine in own), default=0.0)
            for label in total:
                best = sorted((cosine for other, cosine in own if other == label), reverse=True)[: self.pool]
                total[label] += weight * (float(np.mean(best)) if best else floor)
        # A cosine of rounded vectors may be a little more.
        return {label: min(1.0, max(-1.0, similarity)) for label, similarity in total.items()}

    def _active(self) -> dict[Modality, float]:
        weights: dict[Modality, float] = {"pictures": 1 - self.text_weight, "texts": self.text_weight}
        return {name: weight for name, weight in weights.items() if weight > 0}

    def check(self, found: list[Candidate], query: Floats, k: int, **within: Any) -> None:
        """The k best classes, best first, each with an entry of its own; equal ones in any order."""
        expected = self.similarities(query, self.allowed(within.get("labels"), within.get("tags")))
        assert len(found) == len({c.label for c in found}) == k
        best = sorted(expected.values(), reverse=True)[:k]
        np.testing.assert_allclose([c.similarity for c in found], best, atol=1e-5)
        np.testing.assert_allclose([c.similarity for c in found], [expected[c.label] for c in found], atol=1e-5)
        for candidate in found:
            assert candidate.entry is not None
            own = [entry for entry in self.entries[candidate.entry.modality] if entry[0] == candidate.label]
            cosines = {source: float(query @ vector.astype(np.float32)) for _, source, vector in own}
            assert cosines[candidate.entry.source] >= max(cosines.values()) - 1e-5

    def check_memory(self, memory: Memory) -> None:
        """The same classes, tags and entries."""
        assert memory.labels == self.classes
        assert {tag: set(names) for tag, names in memory.tags.items()} == self.tags
        for name, own in self.entries.items():
            part = memory.parts[name]
            live = [
                (label, part.source(entry), part.vector(entry).tobytes())
                for position, label in enumerate(memory.labels)
                for entry in part.entries(position)
            ]
            expected = [(label, source, vector.astype(np.float32).tobytes()) for label, source, vector in own]
            assert sorted(live) == sorted(expected)
            assert int(part.counts.sum()) == len(own)


def vectors_of(count: int, seed: int) -> Floats:
    """Seeded unit vectors."""
    return unit(np.random.default_rng(seed).normal(size=(count, WIDTH)))


def build(root: Path, text_weight: float = 0.0, pool: int = 1, each: int = 3, seed: int = 0) -> Model:
    """A memory of four classes with tags, and its model."""
    classes = ["a", "b", "c", "d"]
    tags = {"vowel": {"a"}, "early": {"a", "b"}, "none": set[str]()}
    model = Model(classes, tags, {"pictures": [], "texts": []}, text_weight, pool)
    with stage(root, "memory") as staging:
        staging.info.update(text_weight=text_weight, pool=pool, encoder="none")
        for name, count in (("pictures", each), ("texts", 2)):
            vectors = vectors_of(count * len(classes), seed + len(name))
            labels = np.repeat(np.arange(len(classes), dtype=np.int32), count)
            sources = [f"{name}/{i}" for i in range(len(labels))]
            add_part(staging, name, vectors, labels, 6, sources=sources)  # type: ignore[arg-type]
            model.entries[name] = [  # type: ignore[index]
                (classes[label], source, vector.astype(np.float16))
                for label, source, vector in zip(labels.tolist(), sources, vectors, strict=True)
            ]
        write_json(staging.folder / "labels.json", classes)
        write_json(staging.folder / "tags.json", {tag: sorted(names) for tag, names in tags.items()})
    assert tuple(model.entries) == MODALITIES
    return model


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Files cannot grow beyond so many bytes: what a full disk does, as far as a process may do it to itself."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
