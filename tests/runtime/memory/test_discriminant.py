"""The discriminant of a memory follows what is added, removed and renamed, here and in other processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memories import add_part, unit

from rar.runtime import BundleError, InputError, Memory
from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import write_json
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.memory import discriminant as module
from rar.runtime.memory.discriminant import FACTOR, FILE, WEIGHTS, write_fit

Floats = npt.NDArray[np.float32]
WIDTH = 16
CENTRES = np.random.default_rng(5).normal(size=(12, WIDTH))


def pictures(classes: list[int], seed: int = 0) -> Floats:
    noise = np.random.default_rng(seed).normal(size=(len(classes), WIDTH)) * np.geomspace(1.5, 0.1, WIDTH)
    return unit(CENTRES[classes] + noise)


def build(root: Path, sizes: list[int], *, fitted: bool = True, seed: int = 0) -> Path:
    """Classes "0", "1", ... with so many pictures; the last one has a text only."""
    labels = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    with stage(root, "memory") as staging:
        staging.info.update(text_weight=0.0, pool=1, encoder="one")
        add_part(staging, "pictures", pictures(labels.tolist(), seed), labels, 4)
        add_part(staging, "texts", pictures([11]), np.array([len(sizes)], np.int32), 1)
        if fitted:
            staging.info["discriminant"] = write_fit(staging.folder / "pictures", len(sizes) + 1)
        write_json(staging.folder / "labels.json", [*map(str, range(len(sizes))), "told"])
    return root


def plainly(memory: Memory, queries: Floats) -> npt.NDArray[np.float64]:
    """The log-densities of all classes, from the present entries of each and the stored precision: [N, classes]."""
    state, part = memory.state, memory.parts["pictures"]
    assert state.fit is not None
    own = state.fit.gaussian
    precision = own.floor * np.eye(WIDTH) - own.factor.T.astype(np.float64) @ own.factor
    logits = np.full((len(queries), len(memory.labels)), -np.inf)
    for position in range(len(memory.labels)):
        if entries := part.entries(position):
            about = np.mean([part.vector(entry) for entry in entries], 0, np.float64) - own.centre
            bias = -0.5 * (about @ precision @ about - own.effective / len(entries))
            logits[:, position] = (queries - own.centre) @ precision @ about + bias
    return logits


def angles(memory: Memory, queries: Floats) -> npt.NDArray[np.float64]:
    """The cosines of all classes' means with the queries in the metric of the stored precision; -1 for none."""
    state, part = memory.state, memory.parts["pictures"]
    assert state.fit is not None
    own = state.fit.gaussian
    root = np.linalg.cholesky(own.floor * np.eye(WIDTH) - own.factor.T.astype(np.float64) @ own.factor)
    cosines = np.full((len(queries), len(memory.labels)), -1.0)
    ways = (queries - own.centre) @ root
    for position in range(len(memory.labels)):
        if entries := part.entries(position):
            mean = (np.mean([part.vector(entry) for entry in entries], 0, np.float64) - own.centre) @ root
            cosines[:, position] = ways @ mean / np.linalg.norm(ways, axis=1) / np.linalg.norm(mean)
    return cosines


def of_all(memory: Memory, queries: Floats) -> Floats:
    assert memory.discriminant is not None
    return memory.discriminant.logits(queries, [memory.labels] * len(queries))


QUERIES = pictures([0, 1, 2, 3, 7], seed=9)


def check(memory: Memory) -> None:
    found, expected = of_all(memory, QUERIES), plainly(memory, QUERIES)
    scale = max(1.0, float(np.abs(expected[np.isfinite(expected)]).max(initial=0)))
    np.testing.assert_allclose(found, expected, atol=1e-4 * scale)
    assert memory.discriminant is not None
    logits, cosines, distances = memory.discriminant.evidence(QUERIES, [memory.labels] * len(QUERIES))
    np.testing.assert_allclose(logits, expected, atol=1e-4 * scale)
    np.testing.assert_allclose(cosines, angles(memory, QUERIES), atol=1e-3)
    np.testing.assert_allclose(distances, memory.discriminant.fit.gaussian.distances(QUERIES))


def test_it_is_that_of_the_classes_pictures_and_a_class_of_texts_has_none(tmp_path: Path) -> None:
    memory = Memory.open(build(tmp_path / "b", [4, 3, 9]))
    check(memory)
    assert memory.discriminant is not None
    assert memory.discriminant.known.tolist() == [True, True, True, False]
    assert np.isneginf(of_all(memory, QUERIES)[:, 3]).all()
    assert np.isneginf(memory.discriminant.logits(QUERIES[:1], [["0", "nobody"]])[0, 1])


Change = tuple[str, int, int]
CHANGES = st.tuples(st.sampled_from(["add", "add", "remove", "drop", "relabel"]), st.integers(0, 6), st.integers(0, 6))


@settings(max_examples=30)
@given(st.lists(CHANGES, max_size=8), st.booleans())
def test_whatever_is_added_removed_renamed_and_merged_it_is_that_of_the_present_pictures(
    tmp_path_factory: pytest.TempPathFactory, changes: list[Change], compact: bool
) -> None:
    root = build(tmp_path_factory.mktemp("changed") / "b", [4, 3, 2])
    memory, reader = Memory.open(root), Memory.open(root)
    for step, (kind, one, other) in enumerate(changes):
        try:
            if kind == "add":
                new = [str(one), str(one), str(other)]
                memory.add(pictures([one, one, other], step), new, sources=[f"pictures {other}", "", "new"])
            elif kind == "remove":
                memory.remove(str(one))
            elif kind == "drop":
                memory.remove(str(one), sources=[f"pictures {other}"])
            else:
                memory.relabel(str(one), str(other))
        except InputError:
            continue  # no such class, or the same name
        check(memory)
    if compact and memory.labels:
        memory.compact()
    check(reader)
    np.testing.assert_array_equal(of_all(reader, QUERIES), of_all(Memory.open(root), QUERIES))
    memory.close()


def test_a_class_added_here_is_ranked_by_its_discriminant_in_another_process(tmp_path: Path) -> None:
    root = build(tmp_path / "b", [6, 6, 6])
    code = (
        "import sys, numpy as np\n"
        "from rar.runtime import Memory\n"
        f"memory, query = Memory.open({str(root)!r}), np.array({QUERIES[4:].tolist()}, np.float32)\n"
        "print(memory.labels, flush=True)\n"
        "sys.stdin.readline()\n"
        "print(memory.discriminant.logits(query, [['0', '1', '7']])[0].argmax(), flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert "7" not in other.stdout.readline()
        with_seven = Memory.open(root)
        with_seven.add(pictures([7, 7], 3), "7")
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline().strip() == "2"
        with_seven.close()


def test_a_change_costs_the_planes_of_the_classes_that_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory.open(build(tmp_path / "b", [4, 3, 9]))
    asked: list[int] = []
    real = module._sums
    monkeypatch.setattr(
        module, "_sums", lambda part, classes, built: asked.extend(classes) or real(part, classes, built)
    )
    memory.add(pictures([7]), "7")
    check(memory)
    memory.add(pictures([8]), "8")
    check(memory)
    memory.relabel("0", "zero")
    memory.remove("1")
    check(memory)
    assert asked == [4, 5]


def test_compacting_fits_it_again_on_all_pictures(tmp_path: Path) -> None:
    memory = Memory.open(build(tmp_path / "grown", [2, 2]))
    labels = [0, 0, 1, 1, *[2] * 7, *[0] * 5]
    own = pictures([0, 0, 1, 1]), pictures([2] * 7, 4), pictures([0] * 5, 5)
    memory.add(own[1], "2")
    memory.add(own[2], "0")
    before = of_all(memory, QUERIES)
    memory.compact()
    assert memory.state.fit is not None
    assert memory.state.fit.counts.tolist() == [7, 2, 0, 7]
    assert not np.allclose(of_all(memory, QUERIES), before)
    whole = build(tmp_path / "whole", [4, 3])
    with stage(whole, "memory") as staging:
        staging.info.update(text_weight=0.0, pool=1, encoder="one")
        add_part(staging, "pictures", np.concatenate(own), np.array(labels, np.int32), 4)
        write_fit(staging.folder / "pictures", 3)
        write_json(staging.folder / "labels.json", ["0", "1", "2"])
    other = Memory.open(whole).discriminant
    assert other is not None
    assert memory.discriminant is not None
    rows = [["0", "1", "2"]] * len(QUERIES)
    np.testing.assert_allclose(
        memory.discriminant.logits(QUERIES, rows), other.logits(QUERIES, rows), rtol=1e-3, atol=1e-2
    )
    memory.close()


def test_saving_compacts_a_memory_that_has_doubled(tmp_path: Path) -> None:
    memory = Memory.open(build(tmp_path / "b", [2, 2]))
    memory.add(pictures([0] * 3), "0")
    memory.save()
    assert memory.parts["pictures"].added.count == 3
    memory.add(pictures([1], 2), "1")
    memory.save()
    assert memory.parts["pictures"].added.count == 0
    assert memory.state.fit is not None
    assert memory.state.fit.counts.sum() == 8
    memory.close()


def test_a_memory_of_an_earlier_release_opens_and_compacting_fits_one(tmp_path: Path) -> None:
    root = build(tmp_path / "b", [4, 3, 9], fitted=False)
    memory = Memory.open(root)
    assert memory.discriminant is None
    memory.compact()
    check(memory)
    assert Bundle.open(root).component("memory").info["discriminant"]["pictures"] == 16
    memory.close()


def test_all_pictures_removed_leaves_a_memory_without_one(tmp_path: Path) -> None:
    memory = Memory.open(build(tmp_path / "b", [2, 1]), text_weight=1.0)
    memory.remove("0")
    memory.remove("1")
    assert np.isneginf(of_all(memory, QUERIES)).all()
    memory.compact()
    assert memory.discriminant is None
    memory.close()


@pytest.mark.parametrize("name", [FILE, FACTOR, WEIGHTS])
def test_one_of_another_generation_is_refused(
    tmp_path: Path, name: str, replace_file: Callable[[Path, str, str, bytes], Path]
) -> None:
    root, other = build(tmp_path / "b", [4, 3]), build(tmp_path / "other", [3, 4, 2])
    stranger = Bundle.open(other).file("memory", f"pictures/{name}").read_bytes()
    if name == FACTOR:
        stranger = b"no array"
    replace_file(root, "memory", f"pictures/{name}", stranger)
    with pytest.raises(BundleError, match=r"discriminant.*build the memory again"):
        Memory.open(root)


def test_one_of_another_encoder_is_refused_though_its_pictures_are_the_same(
    tmp_path: Path, replace_file: Callable[[Path, str, str, bytes], Path]
) -> None:
    root, other = build(tmp_path / "b", [4, 3]), build(tmp_path / "other", [4, 3], seed=1)
    for name in (FILE, FACTOR, WEIGHTS):
        stranger = Bundle.open(other).file("memory", f"pictures/{name}").read_bytes()
        replace_file(root, "memory", f"pictures/{name}", stranger)
    with pytest.raises(BundleError, match="another encoder"):
        Memory.open(root)


def test_an_altered_one_is_refused(tmp_path: Path) -> None:
    root = build(tmp_path / "b", [4, 3])
    path = root / "memory" / "pictures" / FILE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(BundleError, match="altered"):
        Memory.open(root)


def test_a_full_disk_while_it_is_fitted_leaves_the_memory_and_its_log_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = build(tmp_path / "b", [4, 3])
    memory = Memory.open(root)
    memory.add(pictures([7, 7]), "7")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rar.runtime.memory.compact.write_fit", full)
    with pytest.raises(BundleError, match="No space left"):
        memory.compact()
    check(memory)
    check(Memory.open(root))
    assert of_all(Memory.open(root), QUERIES[4:]).argmax() == memory.labels.index("7")
    memory.close()
