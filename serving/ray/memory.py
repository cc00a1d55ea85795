"""A memory that is larger than a machine: bundles of shards, each searched by an actor on the node where it lies.

Each shard is a bundle whose memory holds a part of the entries, made with one encoder. A query goes to all shards, and
each returns its k best classes at full dimension. A class's similarity is that of its best entry, so the best of all
shards are the best of one memory with all entries. Where a class's similarity is made of several entries (a pool above
1, pictures beside texts), a class must lie in one shard, whole; that shard then compares its candidates with all of
their entries, so that no similarity depends on what other classes its walk met. What fits neither is refused.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rar.runtime.bundle.manifest import MANIFEST, Signature, signature
from rar.runtime.errors import BundleError, InputError, RarError
from rar.runtime.memory import Candidate, Memory, Modality
from rar.runtime.memory.reduction import Floats
from rar.runtime.memory.state import Scope
from rar.runtime.memory.view import LOG

from .cluster import nodes, own_error

# Searches that one shard answers at a time.
_TOGETHER = 4


@dataclass(frozen=True)
class Shard:
    """Where a shard lies: a bundle's folder, on the node with this address or id; None for any node."""

    bundle: str
    node: str | None = None


@dataclass(frozen=True)
class Settings:
    """What all shards must have in common."""

    encoder: str | None
    dim: int
    text_weight: float
    pool: int
    centred: bool
    parts: tuple[Modality, ...]


@dataclass(frozen=True)
class Names:
    """The classes of one shard at one time.

    Attributes:
        labels: All.
        found: Those that a search can find.
        lacking: Those of them that lack pictures or texts, where both count.
        tags: The classes that have each tag.
    """

    labels: tuple[str, ...]
    found: frozenset[str]
    lacking: frozenset[str]
    tags: Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class _Together:
    """The classes of all shards; `labels` has those of the first shard first."""

    labels: Mapping[str, None]
    found: frozenset[str]
    tags: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, shards: Sequence[Names]) -> _Together:
        tags: dict[str, frozenset[str]] = {}
        for shard in shards:
            for tag, names in shard.tags.items():
                tags[tag] = tags.get(tag, frozenset()) | names
        labels = dict.fromkeys(label for shard in shards for label in shard.labels)
        return cls(labels, frozenset().union(*(shard.found for shard in shards)), tags)


# Changes when the shard's memory does.
Version = tuple[Signature | None, Signature | None]


class _Server:
    """One shard, in an actor."""

    def __init__(self, bundle: str, text_weight: float | None, threads: int) -> None:
        self._root = Path(bundle)
        self._memory = Memory.open(bundle, text_weight, threads=threads)

    def settings(self) -> Settings:
        memory = self._memory
        parts = tuple(memory.parts)
        return Settings(memory.encoder, memory.dim, memory.text_weight, memory.pool, memory.centred, parts)

    def names(self, known: Version | None) -> tuple[Version, Names | None]:
        """The classes and their version; no classes where the caller has this version."""
        version = (signature(self._root / MANIFEST), signature(self._root / LOG))
        if version == known:
            return version, None
        state = self._memory.state
        complete = np.logical_and.reduce([state.parts[name].counts > 0 for name in state.weights])
        names = np.array(state.names, object)
        found, lacking = names[state.present].tolist(), names[state.present & ~complete].tolist()
        return version, Names(state.names, frozenset(found), frozenset(lacking), dict(state.tags))

    def texts(self, label: str) -> list[tuple[str, Floats]]:
        return self._memory.texts(label)

    def search_pictures(self, queries: Floats, asked: dict[str, Any]) -> list[list[Candidate]]:
        return self._memory.search_pictures(queries, **asked)

    def search(self, queries: Floats, whole: bool, asked: dict[str, Any]) -> list[list[Candidate]]:
        """The shard's best classes; where `whole`, each compared with all of its entries."""
        found = self._memory.search(queries, **asked, fewer=True)
        if not whole or asked["exact"]:
            return found
        again = {**asked, "tags": None, "exact": True}
        return [
            self._memory.search(queries[i : i + 1], **{**again, "labels": [one.label for one in some]}, fewer=True)[0]
            for i, some in enumerate(found)
        ]


class RayMemory:
    """Shards on the nodes of a Ray cluster, searched as one `Memory`; a `Retrieval`.

    It follows changes that are made to the shards' bundles, each on its own node. It has no discriminant: that is
    fitted on all pictures of a memory, and no node has them.

    Example:
        >>> memory = RayMemory.open([Shard("/srv/a", "10.0.0.1"), Shard("/srv/b", "10.0.0.2")])
        >>> rec = Recognizer.open("/srv/encoder", memory=memory)
    """

    def __init__(
        self, shards: Sequence[Shard], servers: Sequence[ActorHandle], settings: Settings, wait: float
    ) -> None:
        self._shards, self._servers = tuple(shards), tuple(servers)
        self._settings = settings
        self._wait = wait
        nothing = Names((), frozenset(), frozenset(), {})
        self._together = _Together.of([])
        self._names: list[tuple[Version | None, Names]] = [(None, nothing)] * len(self._servers)

    @classmethod
    def open(
        cls,
        shards: Iterable[Shard | str],
        text_weight: float | None = None,
        *,
        threads: int = 1,
        seconds: float = 60.0,
    ) -> RayMemory:
        """Starts an actor for each shard.

        Args:
            shards: The shards, or their bundles' folders.
            text_weight: Replaces the stored weight of the texts, 0 to 1, in all.
            threads: Threads of a search in each shard.
            seconds: How long a shard may take to answer. One that does not is an error: an answer without it could be
                a wrong one.

        Raises:
            BundleError: A shard cannot be opened; or shards were made with different encoders or settings.
            InputError: There is no such node; or the memory is centred, which needs one mean of all entries; or a class
                lies in several shards whose similarity is made of several entries.
            RarError: A shard does not answer.
        """
        listed = [one if isinstance(one, Shard) else Shard(one) for one in shards]
        if not listed:
            raise InputError("give at least one shard")
        actor = ray.remote(_Server)
        servers = [
            actor.options(
                num_cpus=0,
                max_concurrency=_TOGETHER,
                max_restarts=-1,
                max_task_retries=-1,
                scheduling_strategy=_place(shard),
            ).remote(os.path.abspath(shard.bundle), text_weight, threads)
            for shard in listed
        ]
        unset = Settings(None, 0, 0.0, 1, False, ())
        memory = cls(listed, servers, unset, seconds)
        try:
            memory._settings = _common(listed, memory._ask("settings"))
            memory._current()
        except BaseException:
            memory.close()
            raise
        return memory

    @property
    def encoder(self) -> str | None:
        """Fingerprint of the encoder that all shards were made with."""
        return self._settings.encoder

    @property
    def parts(self) -> Collection[Modality]:
        """The modalities."""
        return self._settings.parts

    @property
    def discriminant(self) -> None:
        """There is none."""
        return None

    @property
    def text_weight(self) -> float:
        """Share of the texts in a class's similarity."""
        return self._settings.text_weight

    @property
    def classes(self) -> int:
        """How many classes a search can find."""
        return self._scope(None, None).classes

    @property
    def labels(self) -> list[str]:
        """The classes' names, those of the first shard first."""
        return list(self._current().labels)

    def texts(self, label: str) -> list[tuple[str, Floats]]:
        """A class's texts, each with its vector, float32 [d]; empty for an unknown class."""
        return [text for texts in self._ask("texts", label) for text in texts]

    def check_k(self, k: int | None, labels: Collection[str] | None = None, tags: Collection[str] | None = None) -> int:
        """As `Memory.check_k`."""
        return self._scope(labels, tags).check_k(k)

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
        """As `Memory.search`.

        Raises:
            InputError: As there.
            RarError: A shard does not answer, or its node is lost.
        """
        if not fewer or k is None:
            k = self.check_k(k, labels, tags)
        asked = {"k": k, "labels": labels, "tags": tags, "rescore": rescore, "ef": ef, "exact": exact}
        found = self._ask("search", ray.put(np.ascontiguousarray(queries, np.float32)), self._whole, asked)
        return [best(lists, k) for lists in zip(*found, strict=True)]

    def search_pictures(
        self,
        queries: Floats,
        k: int,
        *,
        labels: Collection[str] | None = None,
        tags: Collection[str] | None = None,
    ) -> list[list[Candidate]]:
        """As `Memory.search_pictures`: each class by its nearest picture, wherever that lies."""
        asked = {"k": k, "labels": labels, "tags": tags}
        found = self._ask("search_pictures", ray.put(np.ascontiguousarray(queries, np.float32)), asked)
        return [best(lists, k) for lists in zip(*found, strict=True)]

    def close(self) -> None:
        """Ends the shards' actors."""
        for server in self._servers:
            ray.kill(server)

    @property
    def _whole(self) -> bool:
        """Whether a class's similarity is made of several entries."""
        return self._settings.pool > 1 or 0 < self._settings.text_weight < 1

    def _current(self) -> _Together:
        """The shards' classes as they are now; only those of shards that changed are sent."""
        before = self._names
        told = self._ask("names", each=[version for version, _ in before])
        if any(new is not None for _, new in told):
            names = [
                (version, old if new is None else new) for (version, new), (_, old) in zip(told, before, strict=True)
            ]
            shards = [one for _, one in names]
            if self._whole:
                _check_whole(self._shards, shards)
            self._names, self._together = names, _Together.of(shards)
        return self._together

    def _scope(self, labels: Collection[str] | None, tags: Collection[str] | None) -> Scope:
        """The classes among the given labels that have one of the given tags; see `State.scope`."""
        now = self._current()
        if labels is None and tags is None:
            return Scope(None, len(now.found), {})
        found = set(now.found)
        for what, given, known in (("label", labels, now.labels), ("tag", tags, now.tags)):
            if isinstance(given, str):
                raise InputError(f"{what}s={given!r}: give a list of {what}s, even of one")
            for one in given or ():
                if one not in known:
                    raise InputError(f"no shard has the {what} {one!r}; they have {len(known)} others")
        if labels is not None:
            found &= set(labels)
        if tags is not None:
            found &= set().union(*(now.tags[tag] for tag in tags))
        return Scope(np.empty(0, np.uint8), len(found), {})

    def _ask(self, what: str, *arguments: Any, each: Sequence[Any] | None = None) -> list[Any]:
        """What all shards answer.

        Raises:
            RarError: One fails, or does not answer in time.
        """
        own = [()] * len(self._servers) if each is None else [(one,) for one in each]
        asked = [
            getattr(server, what).remote(*arguments, *more) for server, more in zip(self._servers, own, strict=True)
        ]
        try:
            return list(ray.get(asked, timeout=self._wait))
        except ray.exceptions.GetTimeoutError as error:
            late = [shard for shard, one in zip(self._shards, asked, strict=True) if not ray.wait([one], timeout=0)[0]]
            where = ", ".join(f"{one.bundle} on {one.node or 'any node'}" for one in late)
            raise RarError(f"{where}: does not answer in {self._wait:g} s; is its node lost?") from error
        except ray.exceptions.RayError as error:
            raise own_error(error) from error


def best(lists: Sequence[Sequence[Candidate]], k: int) -> list[Candidate]:
    """The k best classes of several lists, each by its best similarity; of equal ones the earlier list's first."""
    firsts: dict[str, Candidate] = {}
    for candidate in (candidate for candidates in lists for candidate in candidates):
        known = firsts.get(candidate.label)
        if known is None or candidate.similarity > known.similarity:
            firsts[candidate.label] = candidate
    return sorted(firsts.values(), key=lambda one: -one.similarity)[:k]


def _place(shard: Shard) -> Any:
    """Ray's strategy for the shard's node.

    Raises:
        InputError: There is no such node.
    """
    if shard.node is None:
        return "DEFAULT"
    there = nodes()
    for node in there:
        if shard.node in (node["NodeID"], node["NodeManagerAddress"], node["NodeName"]):
            return NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    known = ", ".join(node["NodeManagerAddress"] for node in there)
    raise InputError(f"{shard.bundle}: there is no node {shard.node!r}; the cluster has {known}")


def _check_whole(shards: Sequence[Shard], names: Sequence[Names]) -> None:
    """Checks that a class's similarity needs no other shard: it lies in one, and no other's entries stand in for it."""
    of: dict[str, Shard] = {}
    for shard, here in zip(shards, names, strict=True):
        if here.lacking:
            raise InputError(
                f"{shard.bundle}: the class {min(here.lacking)!r} has no pictures or no texts; where both count, it "
                "would be compared by other classes' entries, which lie in other shards; add some"
            )
        for label in sorted(here.found):
            if label in of:
                raise InputError(
                    f"the class {label!r} lies in {of[label].bundle} and in {shard.bundle}, but its similarity is made "
                    "of several entries (a pool above 1, or pictures beside texts); put each class into one shard"
                )
            of[label] = shard


def _common(shards: Sequence[Shard], settings: Sequence[Settings]) -> Settings:
    """What all shards have in common.

    Raises:
        BundleError: They were made with different encoders or settings.
        InputError: They are centred.
    """
    first = settings[0]
    for shard, one in zip(shards, settings, strict=True):
        # A shard may lack the texts of others, where they have no weight.
        if replace(one, parts=first.parts) != first:
            raise BundleError(
                f"{shard.bundle} and {shards[0].bundle} were made with different encoders or settings "
                f"({one} and {first}); build them alike"
            )
    if first.centred:
        raise InputError(
            f"{shards[0].bundle}: a centred memory subtracts the mean of all entries, which no shard knows; build the "
            "shards without centring"
        )
    return replace(first, parts=tuple({part: None for one in settings for part in one.parts}))
