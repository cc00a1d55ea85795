"""Many changes at once give what they give one by one, and cost no more than their size."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_model import WIDTH, build

from rar.runtime import Memory
from rar.runtime.memory import Modality
from rar.runtime.memory.changes import Add, Change, Drop, Entries, Relabel, Remove
from rar.runtime.memory.part import Part
from rar.runtime.memory.state import State

LABELS = st.sampled_from(["a", "b", "c", "d", "e", "f"])
# Of built pictures, of added ones, and of none.
SOURCES = st.sampled_from([*(f"pictures/{i}" for i in range(12)), "a", "b", "", "nothing"])


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> State:
    root = tmp_path_factory.mktemp("state") / "bundle"
    build(root)
    return Memory.open(root).state


@st.composite
def additions(draw: st.DrawFn) -> dict[Modality, Entries]:
    parts: list[Modality] = draw(st.lists(st.sampled_from(["pictures", "texts"]), unique=True, max_size=2))
    entries: dict[Modality, Entries] = {}
    for name in parts:
        labels = draw(st.lists(LABELS, max_size=3))
        vectors = np.full((len(labels), WIDTH), draw(st.sampled_from([0.25, 0.5])), np.float16)
        entries[name] = Entries(vectors, tuple(labels), tuple(draw(LABELS | st.just("")) for _ in labels))
    return entries


CHANGES = (
    st.builds(Add, additions())
    | st.builds(Remove, LABELS)
    | st.builds(Drop, LABELS, st.lists(SOURCES, min_size=1, max_size=3).map(tuple))
    | st.builds(Relabel, LABELS, LABELS, additions(), st.booleans())
)


def content(state: State) -> list[Any]:
    parts = []
    for name, part in sorted(state.parts.items()):
        labels = [array.tolist() for array in (part.counts, part.labels, part.added.labels)]
        parts.append((name, part.classes, labels, part.added.vectors.tolist(), list(part.added.sources)))
    return [state.names, state.tags, parts]


@settings(max_examples=300)
@given(st.lists(CHANGES, max_size=12))
def test_all_at_once_is_one_by_one(state: State, changes: list[Change]) -> None:
    possible, one_by_one = [], state
    for change in changes:
        if isinstance(change, Relabel) and change.old == change.new:  # which the log refuses
            continue
        try:
            one_by_one = one_by_one.apply(change)
        except ValueError:
            continue
        possible.append(change)
    expected = content(one_by_one)
    assert content(state.apply(*possible)) == expected


def test_ten_thousand_additions_make_each_part_once(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()
    real = Part.appended

    def counted(self: Part, *given: Any) -> Part:
        next(calls)
        return real(self, *given)

    vector = np.ones((1, WIDTH), np.float16)
    changes = [Add({"pictures": Entries(vector, (f"class {i}",), ("",))}) for i in range(10_000)]
    monkeypatch.setattr(Part, "appended", counted)
    assert len(state.apply(*changes).names) == 10_004
    assert next(calls) == 1


@pytest.mark.parametrize("kind", ["remove", "merge", "rename", "forget"])
def test_thousands_of_changes_renumber_the_classes_once(
    state: State, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    calls = itertools.count()
    real = Part.moved

    def counted(self: Part, *given: Any) -> Part:
        next(calls)
        return real(self, *given)

    names = tuple(f"class {i}" for i in range(3000))
    entries = Entries(np.ones((3000, WIDTH), np.float16), names, names)
    changes: list[Change] = [Add({"pictures": entries, "texts": entries})]
    for name in names:
        if kind == "remove":
            changes.append(Remove(name))
        else:
            new = "a" if kind == "merge" else f"new {name}"
            changes.append(Relabel(name, new, {}, kind == "forget"))
    monkeypatch.setattr(Part, "moved", counted)
    after = state.apply(*changes)
    assert next(calls) <= 2
    assert len(after.names) == (4 if kind in ("remove", "merge") else 3004)
    assert int(after.parts["texts"].counts.sum()) == 8 + (0 if kind in ("remove", "forget") else 3000)
    assert int(after.parts["pictures"].counts.sum()) == 12 + (0 if kind == "remove" else 3000)


def test_thousands_of_dropped_pictures_are_looked_up_once(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()
    real = Part.without

    def counted(self: Part, *given: Any) -> Part:
        next(calls)
        return real(self, *given)

    sources = tuple(f"shot {i}" for i in range(3000))
    entries = Entries(np.ones((3000, WIDTH), np.float16), ("a",) * 3000, sources)
    drops = [Drop("a", (source,)) for source in sources]
    monkeypatch.setattr(Part, "without", counted)
    after = state.apply(Add({"pictures": entries}), *drops, Drop("b", ("pictures/3",)))
    assert next(calls) == 1
    assert after.parts["pictures"].counts.tolist() == [3, 2, 3, 3]


def test_a_log_of_thousands_of_additions_is_read_as_it_was_written(tmp_path: Path) -> None:
    model = build(tmp_path / "bundle")
    memory = Memory.open(tmp_path / "bundle")
    vectors = np.eye(WIDTH, dtype=np.float32)
    for i in range(30):
        memory.add(vectors[i % WIDTH][None], [f"class {i % 7}"], sources=[str(i)])
        model.add([f"class {i % 7}"], vectors[i % WIDTH][None], [str(i)])
    memory.close()
    model.check_memory(Memory.open(tmp_path / "bundle"))
