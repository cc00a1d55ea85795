"""The memory: embedded pictures and texts, searched for the k most similar classes. It can grow on the device.

A memory has up to two parts, pictures and texts, each with its own reduction and index. They are kept apart
because the two lie in different regions of a dual encoder's space (the modality gap): one PCA centred between
them would spend its dimensions on the gap, and in one index the texts would never be among the nearest.

    memory/labels.json  tags.json (where there are tags)
    memory/pictures/    vectors.npy  entries.npy  sources.npy  sources.utf8  reduction.npz
                        index.usearch  (index-1.usearch and on: further shards)
                        discriminant.npz  discriminant-factor.npy  discriminant-weights.npy
    memory/texts/       the same, without a discriminant
    memory.log          changes since the build, beside the manifest; memory.lock names the writing process
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from weakref import WeakSet

import numpy as np

from ..bundle.manifest import MANIFEST, Bundle
from ..errors import InputError
from ..machine.cores import usable_cores
from ..picture.given import Given
from ..picture.load import Reading
from .changes import Add, Drop, Entries, Relabel, Remove
from .collapse import Candidate, Entry
from .discriminant import Discriminant
from .embed import Embedder, check_labels, check_sources, listed, name_texts, to_vectors
from .info import Weighing
from .part import Modality, Part
from .reduction import Floats
from .search import Request, search
from .state import State, weights_of
from .view import LOG, View, follow, read
from .writer import Writer

# `save` folds the log when so many entries were added: comparing with them then costs what walking the graph does.
_ADDED = 2048
# Or when this share of a part's entries was removed.
_GONE = 0.25


class Memory:
    """Classes and the pictures and texts that represent them.

    Several threads may search and change it, and so may a forked child. It follows the changes of other processes:
    each search checks for new ones. One process at a time changes a memory. That process holds the memory's lock from
    its first change until `close` or its end.

    Example:
        >>> memory = Memory.open("bundle")
        >>> for candidate in memory.search(queries, k=5)[0]:
        ...     print(candidate.label, candidate.similarity, candidate.entry)
    """

    def __init__(
        self,
        root: Path,
        view: View,
        embed: Embedder | None = None,
        threads: int | None = None,
        reading: Reading | None = None,
    ) -> None:
        self._root = root
        self._files = (str(root / MANIFEST), str(root / LOG))
        self._view = view
        self._embed = embed
        self._reading = reading or Reading()
        self._threads = threads or usable_cores()
        # Held to replace the view and to change the memory. A search takes one view and keeps it.
        self._guard = threading.RLock()
        self._writer: Writer | None = None
        _HANDLES.add(self)

    @classmethod
    def open(
        cls,
        bundle: Bundle | str | os.PathLike[str],
        text_weight: float | None = None,
        *,
        centred: bool | None = None,
        embed: Embedder | None = None,
        threads: int | None = None,
        reading: Reading | None = None,
    ) -> Memory:
        """Maps a bundle's memory and reads its log; nothing large is read.

        Args:
            bundle: The bundle or its path.
            text_weight: Replaces the stored weight of the texts, 0 to 1.
            centred: Replaces the stored choice; see `search`.
            embed: Embeds added pictures and names; without it only vectors can be added.
            threads: Threads of a search; None for one per core.
            reading: How large added pictures may be; None for the defaults.

        Raises:
            BundleError: The bundle has no memory, or it is damaged.
            InputError: The weight needs a modality that the memory lacks.
        """
        root = bundle.root if isinstance(bundle, Bundle) else Path(bundle).absolute()
        return cls(root, read(root, text_weight, centred), embed, threads, reading)

    @property
    def encoder(self) -> str | None:
        """Fingerprint of the encoder that it was made with; None if the manifest names none."""
        return self._view.info.encoder

    @property
    def pool(self) -> int:
        """How many of a class's best entries count in each modality."""
        return self._view.weighing.pool

    @property
    def centred(self) -> bool:
        """Whether the modalities' means are subtracted first."""
        return self._view.weighing.centred

    @property
    def labels(self) -> list[str]:
        """The classes' names; entries refer to them by position."""
        return list(self.state.names)

    @property
    def tags(self) -> dict[str, list[str]]:
        """The classes that have each tag."""
        return {tag: sorted(names) for tag, names in self.state.tags.items()}

    @property
    def parts(self) -> Mapping[Modality, Part]:
        """The current part of each modality."""
        return self.state.parts

    @property
    def discriminant(self) -> Discriminant | None:
        """The discriminant of the present classes; None for a memory without one, which `compact` fits."""
        return self.state.discriminant

    @property
    def text_weight(self) -> float:
        """Share w of the texts in a class's similarity, (1 - w) * pictures + w * texts.

        0 is RAR's picture-picture retrieval, 1 its picture-text retrieval.
        """
        return self._view.weighing.text_weight

    @property
    def classes(self) -> int:
        """How many classes a search can find with the current weight."""
        return self.state.everything.classes

    @property
    def dim(self) -> int:
        """The full dimension d."""
        return self._view.state.dim

    def texts(self, label: str) -> list[tuple[str, Floats]]:
        """A class's texts, each with its vector, float32 [d]; empty for an unknown class."""
        state = self.state
        if "texts" not in state.parts or (name := state.known(label)) is None:
            return []
        part = state.parts["texts"]
        return [(part.source(entry), part.vector(entry)) for entry in part.entries(state.positions[name])]

    def entries(self, label: str) -> list[Entry]:
        """A class's pictures, then its texts, in the order of their addition; empty for an unknown class."""
        state = self._current().state
        if (name := state.known(label)) is None:
            return []
        position = state.positions[name]
        return [
            Entry(modality, part.source(entry))
            for modality, part in state.parts.items()
            for entry in part.entries(position)
        ]

    def check_k(self, k: int | None, labels: Collection[str] | None = None, tags: Collection[str] | None = None) -> int:
        """The number of candidates that a search gives for k: itself, or for None 5, or all classes of fewer.

        Raises:
            InputError: k is below 1 or above the number of classes, or a label or tag is unknown.
        """
        return self.state.scope(labels, tags).check_k(k)

    def search(
        self,
        queries: Floats,
        k: int | None = None,
        *,
        labels: Collection[str] | None = None,
        tags: Collection[str] | None = None,
        rescore: int | None = None,
        ef: int | None = None,
        exact: bool | None = None,
        fewer: bool = False,
    ) -> list[list[Candidate]]:
        """The k classes most similar to each query.

        The nearest `rescore` entries of each index, only a few per class, are scored at full dimension and collapsed to
        classes. If they hold fewer than k classes, all entries are compared. A class's similarity in a modality is the
        mean of its best `pool` cosines there (stored with the memory, 1 by default).

        In a centred memory the cosine of query q and entry v is that of q - p and v - m: p is the mean of the pictures,
        m the mean of the entry's modality, both at build time. The index returns the entries nearest to q - p, so R
        must be somewhat larger.

        Args:
            queries: float32 [N, d], L2-normalised.
            k: Distinct classes a query; None for 5, or all of fewer.
            labels: The only classes that are looked for; None for all.
            tags: Only classes that have one of these are looked for; None for all.
            rescore: R, the entries fetched from each index and scored exactly; the stored number if None.
            ef: Width of the graph walk; the stored one if None.
            exact: True compares with every entry at full dimension, False walks the index first; None takes the
                faster way.
            fewer: Returns what there is, instead of an error, if there are fewer classes than k, even none, or if a
                label or tag is unknown: for a caller that checked them once, and goes on while the memory changes.

        Returns:
            For each query k candidates, one per class, best first.

        Raises:
            InputError: The queries have another shape or hold NaN; k is below 1 or above the number of classes that can
                be found; or a label or tag is unknown.
            BundleError: The memory is damaged, or was replaced by one that does not fit.
        """
        view = self._current()
        queries = _check_queries(queries, view.state.dim)
        scope = view.state.scope(labels, tags, missing_ok=fewer)
        if fewer and not scope.classes:
            return [[] for _ in queries]
        if fewer and k is not None:
            k = min(k, scope.classes)
        k = scope.check_k(k)
        return search(view.state, view.weighing, queries, Request(k, scope, rescore, ef, exact, self._threads))

    def search_pictures(
        self,
        queries: Floats,
        k: int,
        *,
        labels: Collection[str] | None = None,
        tags: Collection[str] | None = None,
    ) -> list[list[Candidate]]:
        """The classes of the pictures nearest to each query, whatever weight texts have, how classes pool, or centring.

        Args:
            queries: float32 [N, d], L2-normalised.
            k: Classes a query; fewer where there are fewer.
            labels: As for `search`; unknown ones are passed over.
            tags: As for `search`; unknown ones are passed over.

        Returns:
            Candidates whose similarity is the cosine of the nearest picture; none in a memory without pictures.

        Raises:
            InputError: The queries have another shape or hold NaN.
            BundleError: As `search`.
        """
        view = self._current()
        queries = _check_queries(queries, view.state.dim)
        if "pictures" not in view.state.parts:
            return [[] for _ in queries]
        state = replace(view.state, weights=weights_of(0.0)) if self.text_weight else view.state
        scope = state.scope(labels, tags, missing_ok=True)
        if not scope.classes:
            return [[] for _ in queries]
        return search(state, Weighing(0.0), queries, Request(min(k, scope.classes), scope, threads=self._threads))

    def add(
        self,
        images: Given | Iterable[Given] | Floats,
        labels: str | Sequence[str],
        *,
        sources: Sequence[str] | None = None,
    ) -> None:
        """Adds pictures. They are on disk when the call returns, and the next search finds them.

        A new class is created. With an embedder, its name is added as a text.

        Args:
            images: Pictures as `Recognizer.recognize` takes them, or vectors of them, float32 [N, d].
            labels: The class of each, or one class for all.
            sources: The source of each; by default the path, for pictures given as paths.

        Raises:
            InputError: A picture cannot be read, a vector is zero or not finite, or the numbers of labels, sources and
                pictures differ; nothing was added.
            BundleError: Another process changes the memory, or it cannot be written; nothing was added.
        """
        items = listed(images, self._reading)
        names = check_labels(labels, len(items))
        origins = check_sources(sources, items)
        with self._changing():  # if writing is impossible, say so before pictures are embedded
            pass
        vectors = to_vectors(items, self._embed, self.dim, self._reading)
        with self._changing() as (writer, view):
            names = tuple(view.state.known(name) or name for name in names)
            new = [label for label in dict.fromkeys(names) if label not in view.state.positions]
            texts = name_texts(new, self._embed, self.dim)
            self._view = writer.write(view, Add({"pictures": Entries(vectors, names, origins), **texts}))

    def remove(self, label: str, *, sources: Collection[str] | None = None) -> None:
        """Removes a class with all its entries, or some of its pictures. It is on disk when the call returns.

        Args:
            label: The class.
            sources: Removes only its pictures that have one of these sources, as they were given to `add`. The class
                goes with its last entry. None removes the class.

        Raises:
            InputError: There is no such class, or no picture of it has one of the sources; nothing changed.
            BundleError: Another process changes the memory, or it cannot be written; nothing changed.
        """
        with self._changing() as (writer, view):
            name = view.state.names[view.state.position(label)]
            if sources is None:
                self._view = writer.write(view, Remove(name))
                return
            wanted = tuple(dict.fromkeys([sources] if isinstance(sources, str) else sources))
            present = self.entries(name)
            pictures = {entry.source for entry in present if entry.modality == "pictures"}
            if unknown := [source for source in wanted if source not in pictures]:
                raise InputError(f"the class {name!r} has no picture {unknown[0]!r:.200}; nothing was removed")
            last = all(entry.modality == "pictures" and entry.source in wanted for entry in present)
            self._view = writer.write(view, Remove(name) if last else Drop(name, wanted))

    def relabel(self, old: str, new: str) -> None:
        """Renames a class, or merges it into the class that has the new name. The change is on disk at return.

        With an embedder, the text that is the old name is removed, and the new name is added as a text.

        Raises:
            InputError: There is no class `old`, or `new` cannot be a class name.
            BundleError: Another process changes the memory, or it cannot be written; nothing changed.
        """
        (new,) = check_labels([new], 1)
        with self._changing() as (writer, view):
            old = view.state.names[view.state.position(old)]
            if old == new:
                raise InputError(f"the class {old!r} has this name already; choose another name")
            if (present := view.state.known(new)) not in (None, old):
                new = present
            known = new in view.state.positions
            texts = name_texts([] if known else [new], self._embed, self.dim)
            self._view = writer.write(view, Relabel(old, new, texts, forget=self._embed is not None))

    def save(self) -> None:
        """Compacts the memory if that pays. Nothing is lost without it: each change is on disk when its call returns.

        It pays when 2,048 entries were added to a part since it was built, because every search compares with each of
        them; when a quarter of a part's entries were removed; or when as many pictures were added as the discriminant
        was fitted on.

        Raises:
            BundleError: As `compact`.
        """
        state = self._current().state
        outgrown = state.fit is not None and state.parts["pictures"].added.count >= state.fit.counts.sum()
        parts = state.parts.values()
        if outgrown or any(part.added.count >= _ADDED or part.gone > _GONE * max(1, len(part)) for part in parts):
            self.compact()

    def compact(self) -> None:
        """Folds all changes into new files and an empty log. Searches continue meanwhile, in this and other processes.

        The discriminant is fitted again, and what an earlier release did not fit for the first time.

        Raises:
            BundleError: Another process changes the memory, or it cannot be written; nothing changed.
        """
        with self._changing() as (writer, view):
            fit = view.state.fit
            unfitted = "pictures" in view.state.parts and (fit is None or fit.strangers is None)
            if view.position is not None or unfitted:
                writer.compact(view)
                self._view = follow(self._root, view)

    def close(self) -> None:
        """Lets other processes change the memory. It can still be searched, and changed again."""
        with self._guard:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    @property
    def state(self) -> State:
        """The content at this time; it never changes, a change makes a new one."""
        return self._current().state

    def _current(self) -> View:
        """The current view of the memory."""
        view, writer = self._view, self._writer
        # While this process holds the lock, no other changes the memory, and the view has this process's changes.
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
        """The current view; no other thread or process changes the memory until the block ends."""
        with self._guard:
            writer = self._writer if self._writer is not None and self._writer.alive else Writer(self._root)
            view = self._follow()
            self._writer = writer  # from now on the view is what counts
            yield writer, view


_HANDLES: WeakSet[Memory] = WeakSet()


def _unlock() -> None:
    """In a forked child: another thread of the parent may have held a guard, and is not here to give it back."""
    for memory in list(_HANDLES):
        memory._guard = threading.RLock()


os.register_at_fork(after_in_child=_unlock)


def _check_queries(queries: Floats, dim: int) -> Floats:
    queries = np.ascontiguousarray(queries, np.float32)
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise InputError(f"queries must have shape [N, {dim}], not {list(queries.shape)}")
    # One sum of squares finds NaN and infinity in a third of the time of a check per value.
    flat = queries.ravel()
    if not np.isfinite(np.dot(flat, flat)) and not np.isfinite(queries).all():
        raise InputError("a query holds NaN or infinity; check the embedding")
    return queries
