"""`rar-bench memory`: its truth, its curves, and a whole run on a few vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memories import unit

from rar.benchmarks.cli import main
from rar.benchmarks.memory import command, ours
from rar.benchmarks.memory.data import (
    Floats,
    Labels,
    Pictures,
    Queries,
    Synthetic,
    find_truth,
    read_queries,
    write_queries,
)
from rar.benchmarks.memory.ours import DEFAULT, Variant
from rar.benchmarks.memory.peers import peers
from rar.benchmarks.memory.sweep import Contender, Setting, frontier, speed_at
from rar.benchmarks.memory.targets import judge, ratios
from rar.runtime import Memory
from rar.runtime.errors import InputError


class TestTruth:
    def test_is_what_comparing_with_every_entry_gives(self) -> None:
        data = Synthetic(9000, queries=30)  # three blocks
        _, queries = data.draw()
        ids, classes = find_truth(data.blocks(), queries, len(data.classes))
        vectors, labels = (np.concatenate(parts) for parts in zip(*data.blocks(), strict=True))
        cosines = queries @ vectors.T
        np.testing.assert_array_equal(ids[:, :10], np.argsort(-cosines, axis=1)[:, :10])
        assert (ids[:, 10:] == -2).all()
        nearest = [[row[labels == label].max(initial=-1) for label in range(len(data.classes))] for row in cosines]
        np.testing.assert_array_equal(classes, np.argsort(-np.array(nearest), axis=1)[:, :5])

    def test_copies_of_the_tenth_stand_for_each_other(self) -> None:
        vectors = np.eye(16, dtype=np.float32)[[0] * 8 + [1] * 5 + [2] * 3]
        query = np.zeros((1, 16), np.float32)
        query[0, :3] = 3, 2, 1
        ids, _ = find_truth([(vectors, np.arange(16, dtype=np.int32) % 5)], query, 5)
        truth = Queries(query, query, ids, np.zeros((1, 5), np.int64))
        assert truth.recall(np.array([[*range(8), 11, 12]])) == 100
        assert truth.recall(np.array([[*range(8), 11, 13]])) == 90

    def test_fewer_found_than_asked_are_missed(self) -> None:
        truth = Queries(
            *[np.zeros((2, 3), np.float32)] * 2, np.tile(np.arange(10), (2, 1)), np.tile(np.arange(5), (2, 1))
        )
        assert truth.recall(np.array([[*range(10)], [0, 1, *[-1] * 8]])) == 60
        assert truth.classes_recall(np.array([[4, 3, 2, 1, 0], [9, 8, 7, 6, 0]])) == 60


class TestDataSets:
    def test_queries_to_warm_up_with_are_others_than_those_measured(self) -> None:
        warm, measured = Synthetic(1000, queries=50).draw()
        assert warm.shape == measured.shape == (50, 768)
        assert (warm @ measured.T).max() < 0.9999

    def test_pictures_are_a_bundles_entries_searched_by_others(
        self, pictures_bundle: Path, labelled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("rar.benchmarks.memory.data.CLASSES", 2)
        opened = Memory.open(pictures_bundle, 0.0)
        data = Pictures(pictures_bundle, labelled_folder)
        vectors, labels = (np.concatenate(parts) for parts in zip(*data.blocks(), strict=True))
        np.testing.assert_array_equal(vectors, opened.parts["pictures"].vectors.astype(np.float32))
        assert (data.count, data.dim) == vectors.shape
        assert data.settings() == Pictures(pictures_bundle, labelled_folder).settings()
        write_queries(data, tmp_path)
        queries = read_queries(tmp_path)
        assert (len(queries.warm), len(queries.measured)) == (3, 9)
        for query, classes in zip(queries.measured, queries.classes, strict=True):
            found = opened.search(query[None], 2, exact=True)[0]
            assert [data.classes[label] for label in classes] == [one.label for one in found]
        assert set(labels) <= set(range(len(data.classes)))

    def test_a_memory_of_too_few_classes_is_refused(self, pictures_bundle: Path, labelled_folder: Path) -> None:
        with pytest.raises(InputError, match="5 classes"):
            Pictures(pictures_bundle, labelled_folder).settings()


def _row(recall: float, speed: float) -> dict[str, Any]:
    return {"recall": recall, "queries_per_second_1": {"median": speed}, "queries_per_second_32": {"median": speed}}


class TestCurve:
    def test_a_setting_that_another_beats_in_both_is_left_out(self) -> None:
        rows = [_row(90, 1000), _row(95, 500), _row(94, 400), _row(99, 500), _row(99.9, 100)]
        assert frontier(rows, 1) == [(90, 1000), (99, 500), (99.9, 100)]

    def test_speed_lies_between_two_settings(self) -> None:
        rows = [_row(98, 100), _row(90, 10_000)]
        assert speed_at(rows, 94, 1) == pytest.approx(1000)
        assert speed_at(rows, 98, 32) == pytest.approx(100)

    def test_a_lower_recall_is_had_at_the_speed_of_the_narrowest_walk(self) -> None:
        assert speed_at([_row(98, 100), _row(90, 10_000)], 50, 1) == pytest.approx(10_000)

    def test_a_recall_that_is_not_reached_has_no_speed(self) -> None:
        assert speed_at([_row(98, 100)], 98.1, 1) is None

    def test_ratios_are_given_where_both_reach_the_recall(self) -> None:
        told = ratios({DEFAULT.name: {"sweep": [_row(99, 30)]}, "peer": {"sweep": [_row(96, 10)]}})
        assert {(row["peer"], row["recall"]) for row in told} == {("peer", 90), ("peer", 95)}
        assert [row["ratio"] for row in told] == pytest.approx([3] * 4)


class Scattered(Synthetic):
    """Vectors without any structure, which a narrow walk does not find."""

    def blocks(self) -> Iterator[tuple[Floats, Labels]]:
        yield unit(np.random.default_rng(0).normal(size=(self.count, self.dim))), np.zeros(self.count, np.int32)

    def draw(self) -> tuple[Floats, Floats]:
        drawn = unit(np.random.default_rng(1).normal(size=(2 * self.queries, self.dim)))
        return drawn[: self.queries], drawn[self.queries :]


def test_peers_find_what_exact_search_does_and_less_on_a_narrow_walk(tmp_path: Path) -> None:
    pytest.importorskip("hnswlib")
    data = Scattered(1500, queries=64)
    write_queries(data, tmp_path)
    queries = read_queries(tmp_path)
    for peer in peers():
        folder = tmp_path / peer.folder
        if not folder.exists():
            folder.mkdir()
            peer.build(data, folder)
        search = peer.open(folder, data.dim)
        found = search(queries.measured, peer.sweep[-1])
        assert (found.shape, found.dtype) == ((64, 10), np.int64)
        np.testing.assert_array_equal(search(queries.measured[:1], peer.sweep[-1]), found[:1])
        if peer.name == "faiss flat":
            assert queries.recall(found) == 100
        else:
            narrow = queries.recall(search(queries.measured, peer.sweep[0]))
            assert narrow + 5 < queries.recall(found) > 95, peer.name


def _some_peers() -> list[Contender]:
    return [peer for peer in peers() if peer.name in ("faiss flat", "faiss HNSW", "usearch")]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run in small: thousands for a million, and the settings that everything else needs."""
    pytest.importorskip("hnswlib")
    out = tmp_path_factory.mktemp("memory") / "result.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(command, "MILLION", 2000)
        patch.setattr(command, "GROWING_SECONDS", 1.5)
        patch.setattr(command, "Synthetic", partial(Synthetic, queries=100))
        patch.setattr(ours, "OPENINGS", 1)
        patch.setattr(ours, "SWEEP", (Setting(16, 10), Setting(64, 50)))
        patch.setattr(command, "peers", _some_peers)
        patch.setattr(ours, "OTHERS", (Variant(reducer="truncate"),))
        assert main(["memory", "--entries", "1000", "--full", "--blocks", "1", "--out", str(out)]) == 0
    told: dict[str, Any] = json.loads(out.read_text())
    return told


class TestRun:
    def test_every_contender_is_measured_and_exact_search_finds_all(self, result: dict[str, Any]) -> None:
        small, large = (result["results"][f"synthetic-{count}"]["contenders"] for count in (1000, 2000))
        assert set(small) - set(large) == {"rar truncate 1/9 f16", "rar pca 1/9 i8"}
        for contenders in (small, large):
            best = {name: max(row["recall"] for row in told["sweep"]) for name, told in contenders.items()}
            assert best.pop("faiss flat") == 100
            assert min(best.pop("rar truncate 1/9 f16", 100), 60) == 60
            assert min(best.values()) > 97, best
            assert contenders[DEFAULT.name]["searching"]["classes_recall"] > 97

    def test_bytes_are_those_of_what_is_stored(self, result: dict[str, Any]) -> None:
        told = result["results"]["synthetic-2000"]["contenders"]
        assert told["faiss flat"]["index_bytes"] == pytest.approx(2000 * 768 * 4, abs=100)
        assert 2000 * 85 * 2 < told[DEFAULT.name]["index_bytes"] < 2000 * (85 * 2 + 200)
        assert told[DEFAULT.name]["files_bytes"] > told[DEFAULT.name]["index_bytes"] + 2000 * 768 * 2

    def test_targets_that_do_not_depend_on_speed_are_reached(self, result: dict[str, Any]) -> None:
        reached = {target["target"]: target["reached"] for target in result["targets"]}
        assert len(reached) == 2 * 4 + 7 + 1
        for part in ("recall@10 within", "index bytes", "memory of the build", "no wrong and no lost"):
            assert all(reached[name] for name in reached if part in name), part

    def test_says_how_it_was_made(self, result: dict[str, Any]) -> None:
        assert result["command"].startswith("rar-bench")
        assert {"faiss-cpu", "hnswlib", "usearch"} <= set(result["environment"]["versions"])
        assert result["results"]["synthetic-1000"]["data"]["intrinsic"] == 100

    def test_a_missed_target_is_told(self, result: dict[str, Any]) -> None:
        slow = json.loads(json.dumps(result["results"]))
        slow["synthetic-2000"]["contenders"][DEFAULT.name]["searching"]["p99_us"]["median"] = 1001.0
        missed = [one for one in judge(slow, {**result["growing"], "lost": 1}) if not one["reached"]]
        assert any("p99" in one["target"] and "1001 µs" in one["measured"] for one in missed)
        assert any("no lost answer" in one["target"] for one in missed)


@pytest.mark.parametrize(
    "arguments",
    [("--bundle", "there"), ("--entries", "10"), ("--blocks", "0"), ("--prepare",)],
    ids=lambda given: given[0],
)
def test_arguments_that_measure_nothing_are_refused(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["memory", *arguments]) == 2
    assert arguments[0] in capsys.readouterr().err
