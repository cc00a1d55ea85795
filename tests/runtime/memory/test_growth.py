"""A memory that grows equals a plain model of it, whatever is done to it, and however it is read."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from memory_model import build, vectors_of

from rar.runtime import Bundle, InputError, Memory
from rar.runtime.memory import compact

LABELS = st.sampled_from(["a", "b", "c", "d", "e", "f", "g", "烤鸭", "a,b", '"]'])


class Growing(RuleBasedStateMachine):
    """One writer, and one reader that was opened at the beginning, against the model."""

    folder: Path
    runs = 0

    @initialize(
        text_weight=st.sampled_from([0.0, 0.4, 1.0]),
        pool=st.integers(1, 3),
        small=st.sampled_from([0, 6, 10_000]),
        each=st.integers(1, 8),
    )
    def start(self, text_weight: float, pool: int, small: int, each: int) -> None:
        type(self).runs += 1
        self.root = self.folder / str(self.runs)
        self.model = build(self.root, text_weight, pool, each)
        self.writer = Memory.open(self.root)
        self.reader = Memory.open(self.root)
        # Compacting keeps or rewrites a part by its size; here it is done both ways.
        self.small, compact._SMALL = compact._SMALL, small
        self.seed = 100

    @rule(labels=st.lists(LABELS, min_size=1, max_size=6), length=st.floats(0.01, 100))
    def add(self, labels: list[str], length: float) -> None:
        self.seed += 1
        vectors = vectors_of(len(labels), self.seed) * np.float32(length)
        sources = [f"{self.seed}/{i}" for i in range(len(labels))]
        self.writer.add(vectors, labels, sources=sources)
        self.model.add(labels, vectors, sources)

    @precondition(lambda self: self.model.classes)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        label = data.draw(st.sampled_from(self.model.classes))
        self.writer.remove(label)
        self.model.remove(label)

    @precondition(lambda self: self.model.entries["pictures"])
    @rule(data=st.data(), several=st.booleans())
    def drop(self, data: st.DataObject, several: bool) -> None:
        label, source, _ = data.draw(st.sampled_from(self.model.entries["pictures"]))
        own = [entry[1] for entry in self.model.entries["pictures"] if entry[0] == label]
        sources = own if several else [source]
        with pytest.raises(InputError, match="has no picture 'nothing'"):
            self.writer.remove(label, sources=[*sources, "nothing"])
        self.writer.remove(label, sources=sources)
        self.model.drop(label, sources)

    @precondition(lambda self: self.model.classes)
    @rule(data=st.data(), new=LABELS)
    def relabel(self, data: st.DataObject, new: str) -> None:
        old = data.draw(st.sampled_from(self.model.classes))
        if old == new:
            with pytest.raises(InputError, match="has this name already"):
                self.writer.relabel(old, new)
            return
        self.writer.relabel(old, new)
        self.model.relabel(old, new)

    @rule(label=LABELS)
    def what_is_not_there(self, label: str) -> None:
        if label in self.model.classes:
            return
        for call in (self.writer.remove, lambda label: self.writer.relabel(label, "x")):
            with pytest.raises(InputError, match="the memory has no class"):
                call(label)

    @rule()
    def compact(self) -> None:
        self.writer.compact()

    @rule()
    def save(self) -> None:
        self.writer.save()

    @rule()
    def reopen(self) -> None:
        self.writer.close()
        self.writer = Memory.open(self.root)

    @rule()
    def copy(self) -> None:
        """A copy of the folder is the memory as it is."""
        other = self.root.with_name("copy")
        shutil.copytree(self.root, other)
        self.model.check_memory(Memory.open(other))
        shutil.rmtree(other)

    @rule(
        seed=st.integers(0, 9),
        exact=st.sampled_from([None, True]),
        labels=st.none() | st.sets(LABELS, min_size=1),
        tags=st.none() | st.sets(st.sampled_from(["vowel", "early", "none"]), min_size=1),
        data=st.data(),
    )
    def search(self, seed: int, exact: Any, labels: Any, tags: Any, data: st.DataObject) -> None:
        queries = vectors_of(2, seed)
        for memory in (self.writer, self.reader):
            if labels and not labels <= set(self.model.classes):
                with pytest.raises(InputError, match="no class"):
                    memory.search(queries, 1, labels=labels)
                return
            allowed = self.model.allowed(labels, tags)
            if not allowed:
                with pytest.raises(InputError, match="0 classes"):
                    memory.search(queries, 1, labels=labels, tags=tags)
                return
        k = data.draw(st.integers(1, len(allowed)))
        # All are scored again: pools and floors are made of what was found.
        for memory in (self.writer, self.reader):
            found = memory.search(queries, k, labels=labels, tags=tags, exact=exact, rescore=1000)
            for query, candidates in zip(queries, found, strict=True):
                self.model.check(candidates, query, k, labels=labels, tags=tags)

    @invariant()
    def all_agree(self) -> None:
        if hasattr(self, "model"):
            self.model.check_memory(self.writer)
            self.model.check_memory(self.reader)
            assert Memory.open(self.root).labels == self.model.classes

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.writer.close()
            compact._SMALL = self.small
            Bundle.open(self.root).verify()
            left = {path.name for path in self.root.iterdir()} - {"bundle.json", "memory", "memory-2", "memory.log"}
            assert not left
            shutil.rmtree(self.root)


def test_any_sequence_of_changes() -> None:
    # In memory where there is such a disk: each step flushes several times.
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        machine = type("Growing", (Growing,), {"folder": Path(folder)})
        run_state_machine_as_test(machine, settings=settings(max_examples=15, stateful_step_count=20))
