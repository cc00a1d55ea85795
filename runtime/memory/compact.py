"""Folds the changes of a memory into a new generation of its files.

Built entries keep their places and their index as long as few of them are removed. The added entries follow with an
index of their own, which absorbs smaller indices before it. So most of a large memory is copied and not indexed again,
and the number of indices stays small. If many entries are removed, or the part is small, its index is rebuilt. If it
has outgrown what its reduction was fitted on, or its recall has fallen, it is fitted and measured as if it were new: a
memory that grew answers as one that was built at once. The discriminant is fitted again, on all pictures that are left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bundle.change import Staging
from ..bundle.files import link, write_json
from ..bundle.manifest import Bundle
from ..errors import InputError
from .discriminant import settle_rank, write_fit
from .files import NpyWriter, map_npy
from .fit.index import IndexOptions, Target
from .fit.measure import sample
from .fit.part import fit_part, measure_part
from .fit.write import part_info, write_entries, write_index, write_shard
from .part import MODALITIES, Part, PartSettings, shard_name
from .reduction import Floats
from .state import State

# Parts of up to this many entries are rebuilt: it takes a second.
_SMALL = 10_000
# Parts that lost more than this share of entries are rebuilt too.
_GONE = 0.25
# A part that has this many times the entries that its reduction was fitted on gets a new one.
_GROWTH = 2
# So does a part whose recall has fallen by more than this; what is measured has a standard error of 0.14 points.
_FALLEN = 0.005
_BLOCK = 8192


def write_generation(bundle: Bundle, state: State, staging: Staging) -> None:
    """Writes a memory's state as a component.

    Args:
        bundle: The bundle that holds its present files.
        state: The memory's state.
        staging: The new component, empty.
    """
    before = bundle.component("memory").info
    staging.info.update(before, classes=len(state.names))
    queries = None
    for name in MODALITIES:
        if name not in state.parts:
            continue
        part, stored = state.parts[name], before.get(name, {})
        folder = staging.folder / name
        folder.mkdir()
        files = [bundle.file("memory", f"{name}/{shard_name(i)}", check=False) for i in range(len(part.graphs))]
        use = _Use(stored.get("asked"), cross_modal=name == "texts", queries=queries)
        staging.info[name] = {**stored, **_write_part(folder, part, files, use)}
        if name == "pictures":
            if staging.info[name]["entries"]:
                queries = sample(map_npy(folder / "vectors.npy"))
            staging.info["discriminant"] = write_fit(folder, len(state.names))
            settle_rank(staging.info)
    write_json(staging.folder / "labels.json", list(state.names))
    if state.tags:
        write_json(staging.folder / "tags.json", {tag: sorted(names) for tag, names in state.tags.items()})


@dataclass(frozen=True)
class _Use:
    """What is asked of a part's index.

    Attributes:
        asked: The dimension, as the manifest stores what the user asked for; None for the usual one.
        cross_modal: Whether the queries are vectors of another modality.
        queries: float32 [N, d], vectors of that modality; None if there are none.
    """

    asked: str | None
    cross_modal: bool
    queries: Floats | None

    @property
    def judge(self) -> bool:
        """Whether a recall can be measured."""
        return not self.cross_modal or self.queries is not None


def _write_part(folder: Path, part: Part, files: list[Path], use: _Use) -> Mapping[str, Any]:
    gone = int((part.labels < 0).sum())
    added = np.flatnonzero(part.added.labels >= 0)
    changed = gone > 0 or len(added) > 0
    outgrown = changed and _outgrown(part, len(part.labels) - gone + len(added))
    keeps = not outgrown and len(part.built) > _SMALL and gone <= _GONE * len(part.built)
    kept = np.arange(len(part.built)) if keeps else np.flatnonzero(part.labels >= 0)
    with NpyWriter(folder / "vectors.npy", np.float16, part.vectors.shape[1:]) as writer:
        for start in range(0, len(kept), _BLOCK):
            writer.append(part.vectors[kept[start : start + _BLOCK]])
        for start in range(0, len(added), _BLOCK):
            writer.append(part.added.vectors[added[start : start + _BLOCK]])
    labels = np.concatenate([part.labels[kept], part.added.labels[added]])
    write_entries(folder, labels, _sources(part, kept, added))
    options = _options(part)
    target = options.target(use.asked, part.vectors.shape[1])
    if not outgrown:
        if keeps:
            part.reduction.save(folder / "reduction.npz")
            shards = _extend_index(folder, part, files, len(labels), part.settings)
            settings = replace(part.settings, shards=shards)
        else:
            settings = write_index(folder, part.reduction, part.settings)
        if not changed:
            return part_info(folder, part.reduction, settings)
        settings = measure_part(folder, part.reduction, settings, target, use.queries, judge=use.judge)
        if not len(labels) or not _worse(settings):
            return part_info(folder, part.reduction, settings)
        _unlink_index(folder, settings)
    try:
        return _fit(folder, target, options, use)
    except InputError:  # no dimension keeps the recall that was once asked for
        return _fit(folder, None, options, use)


def _outgrown(part: Part, count: int) -> bool:
    """Whether so many entries need a new reduction: twice as many as the present one was fitted on, or more.

    So the work of fitting stays in proportion to the entries. Before `fitted` was noted, a recall was forgotten
    whenever a part had changed.
    """
    if part.settings.fitted is not None:
        return count >= _GROWTH * part.settings.fitted.entries
    return count > 0 and (part.settings.recall is None or count >= _GROWTH * len(part.built))


def _worse(settings: PartSettings) -> bool:
    """Whether the recall has fallen since the reduction was fitted."""
    fitted = settings.fitted
    return (
        fitted is not None
        and settings.recall is not None
        and fitted.recall is not None
        and settings.recall < fitted.recall - _FALLEN
    )


def _options(part: Part) -> IndexOptions:
    """What was asked of a part's index; the usual if it was never built."""
    settings = part.settings
    if not len(part.built):
        return IndexOptions()
    if (fitted := settings.fitted) is not None:
        return IndexOptions(fitted.reducer, settings.index_dtype, fitted.shards)
    return IndexOptions(settings.reducer, settings.index_dtype, settings.shards)


def _fit(folder: Path, target: Target, options: IndexOptions, use: _Use) -> dict[str, Any]:
    return fit_part(folder, target, options, cross_modal=use.cross_modal, queries=use.queries)


def _unlink_index(folder: Path, settings: PartSettings) -> None:
    for shard in range(settings.shards):
        (folder / shard_name(shard)).unlink()


def _extend_index(folder: Path, part: Part, files: list[Path], count: int, settings: PartSettings) -> int:
    """Writes the shards of a part whose built entries keep their places; returns how many there are."""
    sizes = [graph.size for graph in part.graphs]
    end = len(part.built)
    # A shard absorbs a following one that is as large, so each is larger than all that follow.
    while sizes and sizes[-1] <= count - end:
        end -= sizes.pop()
    for shard, file in enumerate(files[: len(sizes)]):
        link(file, folder / shard_name(shard))
    if end == count:
        return len(sizes)
    vectors = map_npy(folder / "vectors.npy")
    write_shard(folder / shard_name(len(sizes)), vectors, np.arange(end, count), part.reduction, settings)
    return len(sizes) + 1


def _sources(part: Part, kept: npt.NDArray[np.int64], added: npt.NDArray[np.int64]) -> Iterator[str]:
    for entry in kept.tolist():
        yield part.sources[entry]
    for entry in added.tolist():
        yield part.added.named[entry]
