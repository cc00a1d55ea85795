"""A memory as one page of HTML: example pictures of each class, and the classes it is nearest to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.runtime.bundle.manifest import Bundle
from rar.runtime.errors import InputError
from rar.runtime.memory import Memory
from rar.runtime.memory.fit.measure import spread
from rar.runtime.memory.part import Part

from ..page.document import Block, Section, Table, Text, Thumbnails, to_html
from ..page.thumbnail import thumbnail
from .confusions import Neighbours, by_class, neighbours

_PICTURES = 4
# A class's pictures take about 15 kB of the page; those beyond the limit stand in the table alone.
_CLASSES = 1000
_PAIRS = 30


def page(bundle: Bundle, pictures: Path) -> str:
    """The page.

    Args:
        bundle: With a memory.
        pictures: The folder that pictures are shown from; others are counted.

    Raises:
        InputError: The bundle has no memory.
    """
    if "memory" not in bundle.components:
        raise InputError(f"{bundle.root}: has no memory to show; build one with `rar-export memory`")
    memory = Memory.open(bundle)
    around = neighbours(memory)
    labels = memory.labels
    order = sorted(range(len(labels)), key=lambda label: -around[label].mistaken)  # stable: else as they are
    shown = sorted(order[:_CLASSES])
    counts = {name: part.counts for name, part in memory.parts.items()}
    told = ", ".join(f"{int(count.sum())} {name}" for name, count in counts.items())
    sections = [Section("Memory", [Text(f"{len(labels)} classes, {told}."), *_most_mistaken(labels, around)])]
    pictured = memory.parts.get("pictures")
    entries = by_class(pictured, len(labels)) if pictured is not None else []
    hidden = 0
    for label in tqdm(shown, desc="classes", unit="", disable=None):
        sources = _examples(pictured, entries[label]) if pictured is not None else []
        uris = [uri for source in sources if (uri := thumbnail(Path(source), pictures))]
        hidden += len(sources) - len(uris)
        many = ", ".join(f"{int(count[label])} {name}" for name, count in counts.items())
        blocks: list[Block] = [Text(many)]
        if uris:
            blocks.append(Thumbnails(f"{len(uris)} of its pictures", uris))
        sections.append(Section(labels[label], [*blocks, *_near(around[label])]))
    notes = list(_notes(len(labels) - len(shown), hidden, pictures))
    sections[0] = Section(sections[0].title, [*sections[0].blocks, *notes])
    return to_html(f"{bundle.root.name}: what it remembers", sections)


def _examples(pictures: Part, entries: npt.NDArray[np.int64]) -> list[str]:
    return [pictures.source(int(entries[place])) for place in spread(len(entries), _PICTURES)]


def _most_mistaken(labels: list[str], around: list[Neighbours]) -> Iterator[Block]:
    """The pairs whose entries lie nearest to each other's."""
    pairs = [
        (near.mistaken, near.cosine, label, near.label, one.looked_at)
        for label, one in zip(labels, around, strict=True)
        for near in one.near
    ]
    pairs.sort(key=lambda pair: (-pair[0], -pair[1]))
    rows = [
        (label, other, f"{mistaken} of {of}", f"{cosine:.3f}") for mistaken, cosine, label, other, of in pairs[:_PAIRS]
    ]
    if rows:
        yield Text("Where a class's entries lie nearer to another class than to the rest of their own, it is mistaken.")
        yield Table(("class", "nearest", "mistaken", "highest cosine"), rows)


def _near(one: Neighbours) -> Iterator[Block]:
    rows = [
        (near.label, f"{near.nearest} of {one.looked_at}", f"{near.mistaken} of {one.looked_at}", f"{near.cosine:.3f}")
        for near in one.near
    ]
    if rows:
        yield Table(("nearest class", "is the nearest for", "is mistaken by", "highest cosine"), rows)


def _notes(left_out: int, hidden: int, pictures: Path) -> Iterator[Text]:
    if left_out:
        yield Text(f"{left_out} more classes, which are mistaken less, are not shown.")
    if hidden:
        yield Text(
            f"{hidden} pictures cannot be read or lie outside the folder {pictures}; name theirs with --pictures."
        )
