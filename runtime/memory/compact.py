"""Folds the changes of a memory into a new generation of its files.

Entries that a part had keep their places and their index as long as few of them are gone: the added ones follow, with
an index of their own, which takes over the smaller ones before it. So most of a large memory is copied and not indexed
again, and the number of indices stays small. Where many entries are gone, or the part is small, it is written anew
without them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bundle import Bundle, Staging
from ..files import write_json
from .files import NpyWriter, map_npy
from .part import Part, PartSettings, shard_name
from .state import State
from .write import part_info, write_entries, write_index, write_shard

# Parts of up to so many entries are written anew: that takes a second.
_SMALL = 10_000
# As are those of which more than this share is gone.
_GONE = 0.25
# Comparing with every entry is not slower than walking a graph up to about here.
_EXACT = 5_000
_BLOCK = 8192


def write_generation(bundle: Bundle, state: State, staging: Staging) -> None:
    """Writes a memory's state as a component.

    Args:
        bundle: Where its present files are.
        state: What the memory holds.
        staging: The new component, empty.
    """
    before = bundle.component("memory").info
    staging.info.update(before, classes=len(state.names))
    for name, part in state.parts.items():
        folder = staging.folder / name
        folder.mkdir()
        files = [bundle.file("memory", f"{name}/{shard_name(i)}", check=False) for i in range(len(part.graphs))]
        staging.info[name] = {**before.get(name, {}), **_write_part(folder, part, files)}
    write_json(staging.folder / "labels.json", list(state.names))
    if state.tags:
        write_json(staging.folder / "tags.json", {tag: sorted(names) for tag, names in state.tags.items()})


def _write_part(folder: Path, part: Part, files: list[Path]) -> Mapping[str, Any]:
    gone = int((part.labels < 0).sum())
    keeps = len(part.built) > _SMALL and gone <= _GONE * len(part.built)
    kept = np.arange(len(part.built)) if keeps else np.flatnonzero(part.labels >= 0)
    added = np.flatnonzero(part.added.labels >= 0)
    unchanged = keeps and not len(added) and not gone
    with NpyWriter(folder / "vectors.npy", np.float16, part.vectors.shape[1:]) as writer:
        for start in range(0, len(kept), _BLOCK):
            writer.append(part.vectors[kept[start : start + _BLOCK]])
        for start in range(0, len(added), _BLOCK):
            writer.append(part.added.vectors[added[start : start + _BLOCK]])
    labels = np.concatenate([part.labels[kept], part.added.labels[added]])
    write_entries(folder, labels, _sources(part, kept, added))
    settings = part.settings if unchanged else _settled(part.settings, len(labels))
    if not keeps:
        settings = write_index(folder, part.reduction, settings)
        return part_info(folder, part.reduction, settings)
    part.reduction.save(folder / "reduction.npz")
    settings = replace(settings, shards=_extend_index(folder, part, files, len(labels), settings))
    return part_info(folder, part.reduction, settings)


def _settled(settings: PartSettings, count: int) -> PartSettings:
    """The settings of a part that has changed: what was measured does not hold for it."""
    search = "index" if settings.search == "exact" and count > _EXACT else settings.search
    return replace(settings, search=search, recall=None)


def _extend_index(folder: Path, part: Part, files: list[Path], count: int, settings: PartSettings) -> int:
    """Writes the shards of a part whose built entries keep their places; returns how many there are."""
    sizes = [graph.size for graph in part.graphs]
    end = len(part.built)
    # A shard is taken over by one that is as large, so each is larger than all that follow.
    while sizes and sizes[-1] <= count - end:
        end -= sizes.pop()
    for shard, file in enumerate(files[: len(sizes)]):
        _link(file, folder / shard_name(shard))
    if end == count:
        return len(sizes)
    vectors = map_npy(folder / "vectors.npy")
    write_shard(folder / shard_name(len(sizes)), vectors, np.arange(end, count), part.reduction, settings)
    return len(sizes) + 1


def _link(source: Path, target: Path) -> None:
    """The same file under another name, where the file system has such; else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _sources(part: Part, kept: npt.NDArray[np.int64], added: npt.NDArray[np.int64]) -> Iterator[str]:
    for entry in kept.tolist():
        yield part.sources[entry]
    for entry in added.tolist():
        yield part.added.named[entry]
