"""A memory that grew answers as one that was built at once; what was fitted follows its entries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memories import Floats, unit

from rar.benchmarks.memory.synthetic import Mixture
from rar.runtime import Bundle, BundleError, Memory
from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import write_json
from rar.runtime.memory.fit import part as fit
from rar.runtime.memory.fit.index import IndexOptions
from rar.runtime.memory.fit.write import VectorWriter

MIXTURE = Mixture(dim=96, intrinsic=24, clusters=40)
NAMES = ("a", "b", "c")
# What is measured in seconds may come out either way, and an added vector is rounded once more.
ABOUT = {"search", "recall", "fitted", "ef", "rescore", "kept"}


def entries(count: int) -> Floats:
    return np.concatenate([vectors for vectors, _ in MIXTURE.entries(count)])


def made(root: Path, vectors: Floats, dim: str | None = None, options: IndexOptions | None = None) -> Memory:
    """A memory that is built of these vectors, whose classes follow each other in turn."""
    options = options or IndexOptions()
    with stage(root, "memory") as staging:
        staging.info.update(encoder="none", dim=vectors.shape[1], text_weight=0.0, pool=1, classes=len(NAMES))
        folder = staging.folder / "pictures"
        folder.mkdir()
        with VectorWriter(folder, vectors.shape[1]) as writer:
            writer.append(vectors)
        labels = np.arange(len(vectors), dtype=np.int32) % len(NAMES)
        target = options.target(dim, vectors.shape[1])
        info = fit.build_part(folder, labels, map(str, range(len(vectors))), target, options)
        staging.info["pictures"] = info | ({} if dim is None else {"asked": dim})
        write_json(staging.folder / "labels.json", NAMES)
    return Memory.open(root)


def grown(memory: Memory, vectors: Floats, first: int) -> Memory:
    memory.add(vectors, [NAMES[(first + row) % len(NAMES)] for row in range(len(vectors))])
    memory.compact()
    return memory


def facts(root: Path) -> Mapping[str, Any]:
    return Bundle.open(root).component("memory").info["pictures"]


def told(root: Path, **changes: Any) -> None:
    """Alters what the manifest says of the pictures; None takes away what is not always there."""
    path = root / "bundle.json"
    manifest = json.loads(path.read_text())
    info = manifest["components"]["memory"]["info"]["pictures"]
    for name, value in changes.items():
        info[name] = value
        if value is None and name in ("asked", "fitted"):
            del info[name]
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("count", [100, 1500])
def test_what_grew_from_three_pictures_is_what_is_built_at_once(tmp_path: Path, count: int) -> None:
    vectors = entries(count)
    memory = made(tmp_path / "grown", vectors[:3])
    assert facts(tmp_path / "grown")["index_dim"] == 2
    reader = Memory.open(tmp_path / "grown")
    grown(memory, vectors[3:], 3)
    whole = made(tmp_path / "whole", vectors)
    ours, theirs = facts(tmp_path / "grown"), facts(tmp_path / "whole")
    assert {k: v for k, v in ours.items() if k not in ABOUT} == {k: v for k, v in theirs.items() if k not in ABOUT}
    assert ours["index_dim"] == 64
    assert (ours["recall"], ours["fitted"]["entries"]) == (pytest.approx(theirs["recall"], abs=0.01), count)
    assert ours["kept"] == pytest.approx(theirs["kept"], abs=1e-6)
    queries = unit(entries(count + 50)[count:])
    for candidates in zip(memory.search(queries, 3), reader.search(queries, 3), whole.search(queries, 3), strict=True):
        assert len({tuple(candidate.label for candidate in found) for found in candidates}) == 1


def test_a_reduction_stays_until_the_entries_have_doubled_but_what_is_found_is_measured_anew(tmp_path: Path) -> None:
    vectors = entries(1300)
    memory = made(tmp_path, vectors[:600])
    first = facts(tmp_path)
    before = memory.parts["pictures"].reduction
    grown(memory, vectors[600:1199], 0)
    assert np.array_equal(memory.parts["pictures"].reduction.components, before.components)
    assert facts(tmp_path)["fitted"] == first["fitted"]
    assert facts(tmp_path)["recall"] is not None
    grown(memory, vectors[1199:1200], 0)
    assert not np.array_equal(memory.parts["pictures"].reduction.components, before.components)
    assert facts(tmp_path)["fitted"]["entries"] == 1200


def test_a_reduction_goes_when_what_is_found_has_become_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "choose_search", _walking)
    chance = np.random.default_rng(0)
    flat, other = np.zeros((600, 96)), np.zeros((500, 96))
    flat[:, :8], other[:, 40:70] = chance.normal(size=(600, 8)), chance.normal(size=(500, 30))
    memory = made(tmp_path, unit(flat), "8")
    assert facts(tmp_path)["recall"] > 0.95
    grown(memory, unit(other), 0)
    assert facts(tmp_path)["fitted"]["entries"] == 1100
    assert memory.parts["pictures"].reduction.dim == 8


def _walking(*args: Any, **options: Any) -> Any:
    """As on a machine where walking the graph is the faster way; of so few entries it is not here."""
    settings = CHOOSE(*args, **options)
    if settings.search == "index":
        return settings
    graphs, vectors, reduction, before, held, _ = args
    ids, _ = fit._native.search(graphs, reduction.queries(held.queries), 400, 512, held.labels, None, 1)
    recall = held.recall(fit._native.score(vectors, held.queries, np.ascontiguousarray(ids[:, :50]), 1))
    return fit.replace(before, ef=512, rescore=50, search="index", recall=recall)


CHOOSE = fit.choose_search


@pytest.mark.parametrize(("dim", "kept"), [(None, 64), ("24", 24), ("1/4", 24), ("none", None), ("recall=90", ...)])
def test_what_was_asked_of_few_entries_holds_for_many(tmp_path: Path, dim: str | None, kept: Any) -> None:
    vectors = entries(700)
    memory = grown(made(tmp_path, vectors[:5], dim), vectors[5:], 5)
    part = memory.parts["pictures"]
    assert facts(tmp_path).get("asked") == dim
    if kept is ...:
        assert 4 < part.reduction.dim < 96
    else:
        assert (None if part.reduction.components is None else part.reduction.dim) == kept


def test_a_reducer_that_was_asked_for_stays(tmp_path: Path) -> None:
    vectors = entries(400)
    none = grown(made(tmp_path / "none", vectors[:5], options=IndexOptions("none")), vectors[5:], 5)
    assert none.parts["pictures"].reduction.components is None
    first = grown(made(tmp_path / "first", vectors[:5], "16", IndexOptions("truncate")), vectors[5:], 5)
    components = first.parts["pictures"].reduction.components
    assert components is not None
    assert np.array_equal(np.abs(components), np.eye(16, 96, dtype=np.float32))


def test_a_recall_that_no_dimension_keeps_any_more_keeps_all(tmp_path: Path) -> None:
    vectors = entries(500)
    memory = made(tmp_path, vectors[:30], "recall=90")
    told(tmp_path, asked="recall=100", index_dtype="f16")
    memory = grown(Memory.open(tmp_path), vectors[30:], 0)
    assert facts(tmp_path)["entries"] == 500
    assert len(memory.search(unit(vectors[:2]), 2)[0]) == 2


def test_what_earlier_releases_compacted_is_fitted_at_the_next_change(tmp_path: Path) -> None:
    vectors = entries(800)
    memory = made(tmp_path, vectors[:500], "2")
    told(tmp_path, fitted=None, asked=None, recall=None, search="exact")
    memory = grown(Memory.open(tmp_path), vectors[500:510], 0)
    assert memory.parts["pictures"].reduction.dim == 64
    assert facts(tmp_path)["fitted"]["entries"] == 510


def test_pictures_that_a_memory_of_texts_is_taught_are_reduced_as_usual(tmp_path: Path) -> None:
    vectors = entries(300)
    memory = made(tmp_path, vectors[:200])
    with stage(tmp_path / "texts", "memory") as staging:
        staging.info.update(encoder="none", dim=96, text_weight=1.0, pool=1, classes=len(NAMES))
        folder = staging.folder / "texts"
        folder.mkdir()
        with VectorWriter(folder, 96) as writer:
            writer.append(vectors[:3])
        options = IndexOptions()
        labels = np.arange(3, dtype=np.int32)
        staging.info["texts"] = fit.build_part(folder, labels, NAMES, options.target(None, 96), options)
        write_json(staging.folder / "labels.json", NAMES)
    memory = grown(Memory.open(tmp_path / "texts"), vectors, 0)
    assert memory.parts["pictures"].reduction.dim == 64
    assert memory.parts["texts"].reduction.dim == 2
    assert facts(tmp_path / "texts")["fitted"]["entries"] == 300


@pytest.mark.parametrize(
    "fitted",
    [3, {"entries": 3}, {"entries": 0, "recall": None, "day": "", "reducer": "pca", "shards": 1},
     {"entries": 3, "recall": 1e400, "day": "", "reducer": "pca", "shards": 1},
     {"entries": 3, "recall": None, "day": 7, "reducer": "pca", "shards": 1},
     {"entries": 3, "recall": None, "day": "", "reducer": "whitened", "shards": 1}],
)  # fmt: skip
def test_a_malformed_note_of_what_it_was_fitted_on_is_refused(tmp_path: Path, fitted: object) -> None:
    made(tmp_path, entries(5))
    told(tmp_path, fitted=fitted)
    with pytest.raises(BundleError, match="memory/pictures"):
        Memory.open(tmp_path)
