"""The memory: embedded pictures and texts, searched for the k most similar classes; it grows on the device.

A memory has up to two parts, pictures and texts, each with its own reduction and index. They are kept apart
because the two lie in different regions of a dual encoder's space (the modality gap): one PCA centred between
them would spend its dimensions on the gap, and in one index the texts would never be among the nearest.

    memory/labels.json  tags.json (where there are tags)
    memory/pictures/    vectors.npy  entries.npy  sources.npy  sources.utf8  reduction.npz
                        index.usearch  (index-1.usearch and on: further shards)
    memory/texts/       the same
    memory.log          changes since, beside the manifest; memory.lock: who makes them
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..bundle import MANIFEST, Bundle
from ..errors import InputError
from ..images import Source
from .changes import Add, Entries, Relabel, Remove
from .collapse import Candidate
from .embed import Embedder, check_labels, check_sources, listed, name_texts, to_vectors
from .part import Modality, Part
from .reduction import Floats
from .search import Request, search
from .state import Scope, State
from .view import LOG, View, follow, read
from .writer import Writer

# `save` folds the log when so many entries were added: comparing with them then costs what walking the graph does.
_ADDED = 2048
# Or when this share of a part's entries is gone.
_GONE = 0.25


class Memory:
    """Classes and the pictures and texts that stand for them.

    It may be searched, and changed, from several threads. It follows what other processes change: each search looks
    whether there is anything new. One process at a time changes a memory; it holds the memory's lock from its first
    change until `close`, or its end.

    Example:
        >>> memory = Memory.open("bundle")
        >>> for candidate in memory.search(queries, k=5)[0]:
        ...     print(candidate.label, candidate.similarity, candidate.entry)
    """

    def __init__(self, root: Path, view: View, embed: Embedder | None = None, threads: int | None = None) -> None:
        self._root = root
        self._files = (str(root / MANIFEST), str(root / LOG))
        self._view = view
        self._embed = embed
        self._threads = threads or os.cpu_count() or 1
        # Held to replace the view and to change the memory. A search takes one view and goes on with that.
        self._guard = threading.RLock()
        self._writer: Writer | None = None

    @classmethod
    def open(
        cls,
        bundle: Bundle | str | os.PathLike[str],
        text_weight: float | None = None,
        *,
        centred: bool | None = None,
        embed: Embedder | None = None,
        threads: int | None = None,
    ) -> Memory:
        """Maps a bundle's memory and reads its log; nothing large is read.

        Args:
            bundle: The bundle or its path.
            text_weight: Replaces the stored weight of the texts, 0 to 1.
            centred: Replaces the stored choice; see `search`.
            embed: How pictures and names that are added become vectors; without it only vectors can be added.
            threads: Threads of a search; None for one a core.

        Raises:
            BundleError: There is no memory, or it is damaged.
            InputError: The weight needs a modality that is not there.
        """
        root = bundle.root if isinstance(bundle, Bundle) else Path(bundle)
        return cls(root, read(root, text_weight, centred), embed, threads)

    @property
    def labels(self) -> list[str]:
        """The classes' names; entries refer to them by position."""
        return list(self._state.names)

    @property
    def tags(self) -> dict[str, list[str]]:
        """The classes that have each tag."""
        return {tag: sorted(names) for tag, names in self._state.tags.items()}

    @property
    def parts(self) -> Mapping[Modality, Part]:
        """The modalities there are, as they are now."""
        return self._state.parts

    @property
    def text_weight(self) -> float:
        """Share w of the texts in a class's similarity, (1 - w) * pictures + w * texts.

        0 is RAR's picture-picture retrieval, 1 its picture-text retrieval.
        """
        return self._view.weighing.text_weight

    @property
    def classes(self) -> int:
        """How many classes a search can find under that weight."""
        return self._state.everything.classes

    @property
    def dim(self) -> int:
        """The full dimension d."""
        return self._view.state.dim

    def texts(self, label: str) -> list[tuple[str, Floats]]:
        """A class's texts, each with its vector, float32 [d]; none where there is no such class."""
        state = self._state
        if "texts" not in state.parts or label not in state.positions:
            return []
        part = state.parts["texts"]
        return [(part.source(entry), part.vector(entry)) for entry in part.entries(state.positions[label])]

    def check_k(self, k: int, labels: Collection[str] | None = None, tags: Collection[str] | None = None) -> None:
        """Passes a number of candidates that a search can give.

        Raises:
            InputError: It is below 1 or above the number of classes, or there is no such label or tag.
        """
        _check_k(k, self._state.scope(labels, tags))

    def search(
        self,
        queries: Floats,
        k: int = 5,
        *,
        labels: Collection[str] | None = None,
        tags: Collection[str] | None = None,
        rescore: int | None = None,
        ef: int | None = None,
        exact: bool | None = None,
        fewer: bool = False,
    ) -> list[list[Candidate]]:
        """The k classes most similar to each query.

        The nearest `rescore` entries of each index, of a class only a few, are scored at full dimension and
        collapsed to classes; where they hold fewer than k, all entries are compared. A class's similarity in a modality
        is the mean of its best `pool` cosines there (stored with the memory, 1 by default).

        In a centred memory the cosine of query q and entry v is that of q - p and v - m: p is the mean of the pictures,
        m that of the entry's modality, both of when the memory was built. The index is asked for what is nearest to
        q - p, so R must leave it some room.

        Args:
            queries: float32 [N, d], L2-normalised.
            k: Distinct classes a query.
            labels: The only classes that are looked for; None for all.
            tags: Only classes that have one of these are looked for; None for all.
            rescore: R, the entries fetched from each index and scored exactly; the stored number if None.
            ef: Width of the graph walk; the stored one if None.
            exact: True compares with every entry at full dimension, False walks the index first; None takes what is
                faster.
            fewer: Where there are fewer than k classes to be found, gives all of them instead of an error.

        Returns:
            For each query k candidates, one a class, best first.

        Raises:
            InputError: Queries of another shape, or with NaN; k below 1 or above the number of classes that may be
                found; a label or tag that is not there.
            BundleError: The memory is damaged, or was replaced by one that does not fit.
        """
        view = self._current()
        queries = _check_queries(queries, view.state.dim)
        scope = view.state.scope(labels, tags)
        if fewer and k > scope.classes:
            k = max(1, scope.classes)
        _check_k(k, scope)
        return search(view.state, view.weighing, queries, Request(k, scope, rescore, ef, exact, self._threads))

    def add(
        self,
        images: Source | Iterable[Source] | Floats,
        labels: str | Sequence[str],
        *,
        sources: Sequence[str] | None = None,
    ) -> None:
        """Adds pictures. They are there, durably, when the call returns; they are found by the next search.

        A class that the memory does not have is made; where there is an embedder its name is added as a text.

        Args:
            images: Pictures as `Recognizer.recognize` takes them, or vectors of them, float32 [N, d].
            labels: The class of each, or one for all.
            sources: Where each came from; by default the paths of those that were given as paths.

        Raises:
            InputError: A picture cannot be read, a vector is zero or not finite, or there are not as many labels and
                sources as pictures; nothing was added.
            BundleError: Another process changes the memory, or it cannot be written; nothing was added.
        """
        items = listed(images)
        names = check_labels(labels, len(items))
        origins = check_sources(sources, items)
        with self._changing():  # what forbids to write is said before pictures are embedded
            pass
        vectors = to_vectors(items, self._embed, self.dim)
        with self._changing() as (writer, view):
            new = [label for label in dict.fromkeys(names) if label not in view.state.positions]
            texts = name_texts(new, self._embed, self.dim)
            self._view = writer.write(view, Add({"pictures": Entries(vectors, names, origins), **texts}))

    def remove(self, label: str) -> None:
        """Removes a class with all its entries. It is gone, durably, when the call returns.

        Raises:
            InputError: There is no such class.
            BundleError: Another process changes the memory, or it cannot be written; all is as it was.
        """
        with self._changing() as (writer, view):
            self._view = writer.write(view, Remove(label))

    def relabel(self, old: str, new: str) -> None:
        """Gives a class another name; or, where there is a class of that name, makes the two one, durably.

        Where there is an embedder, the text that is the old name goes, and the new name is added as one.

        Raises:
            InputError: There is no class `old`, or `new` cannot be a name.
            BundleError: Another process changes the memory, or it cannot be written; all is as it was.
        """
        check_labels([new], 1)
        if old == new:
            raise InputError(f"the class {old!r} has this name already")
        with self._changing() as (writer, view):
            known = new in view.state.positions
            texts = name_texts([] if known else [new], self._embed, self.dim)
            self._view = writer.write(view, Relabel(old, new, texts, forget=self._embed is not None))

    def save(self) -> None:
        """Compacts the memory where that pays; there is nothing to lose: each change is durable when it returns.

        It pays when 2,048 entries were added to a part since it was built, for each is compared with in every search;
        or when a quarter of a part's entries are gone.

        Raises:
            BundleError: As `compact`.
        """
        parts = self._current().state.parts.values()
        if any(part.added.count >= _ADDED or part.gone > _GONE * max(1, len(part)) for part in parts):
            self.compact()

    def compact(self) -> None:
        """Folds all changes into new files and an empty log. Searches go on meanwhile, in this and other processes.

        Raises:
            BundleError: Another process changes the memory, or it cannot be written; all is as it was.
        """
        with self._changing() as (writer, view):
            if view.position is not None:
                writer.compact(view)
                self._view = follow(self._root, view)

    def close(self) -> None:
        """Lets other processes change the memory. It can still be searched, and changed again."""
        with self._guard:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    @property
    def _state(self) -> State:
        return self._current().state

    def _current(self) -> View:
        """The memory as it is now."""
        view, writer = self._view, self._writer
        # While this process holds the lock no other one changes the memory, and its own changes are in the view.
        if (writer is not None and writer.alive) or view.is_current(*self._files):
            return view
        with self._guard:
            return self._follow()

    def _follow(self) -> View:
        if not self._view.is_current(*self._files):
            self._view = follow(self._root, self._view)
        return self._view

    @contextmanager
    def _changing(self) -> Iterator[tuple[Writer, View]]:
        """The memory as it is, which no other thread or process changes until this is over."""
        with self._guard:
            writer = self._writer if self._writer is not None and self._writer.alive else Writer(self._root)
            view = self._follow()
            self._writer = writer  # from now on the view is what counts
            yield writer, view


def _check_k(k: int, scope: Scope) -> None:
    if not 1 <= k <= scope.classes:
        allowed = "the memory holds" if scope.allowed is None else "the filter leaves"
        raise InputError(f"k={k}, but {allowed} {scope.classes} classes; choose 1 to {scope.classes}")


def _check_queries(queries: Floats, dim: int) -> Floats:
    queries = np.ascontiguousarray(queries, np.float32)
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise InputError(f"queries must have shape [N, {dim}], not {list(queries.shape)}")
    # One sum of squares tells, at a third of the time of looking at each.
    flat = queries.ravel()
    if not np.isfinite(np.dot(flat, flat)) and not np.isfinite(queries).all():
        raise InputError("a query holds NaN or infinity; check the embedding")
    return queries
