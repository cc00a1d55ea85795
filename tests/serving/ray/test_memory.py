"""A memory in shards on several nodes answers as one memory with all entries; what it cannot answer so, it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from memories import add_part, unit

from rar.export.memory.build import MemorySource, build_memory
from rar.export.pictures.labelled import read_images
from rar.runtime import Bundle, BundleError, InputError, Memory, RarError, Recognizer
from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import write_json
from rar.runtime.memory import MODALITIES, Modality
from rar.serving.ray.memory import RayMemory, Shard

Floats = npt.NDArray[np.float32]

WIDTH, CLASSES = 24, 40
TAGS = {"even": [f"class {i}" for i in range(0, CLASSES, 2)], "few": ["class 1", "class 2", "class 3"]}


@dataclass(frozen=True)
class Entries:
    vectors: Floats
    labels: npt.NDArray[np.int32]
    sources: npt.NDArray[Any]

    def only(self, rows: npt.NDArray[Any]) -> Entries:
        return Entries(self.vectors[rows], self.labels[rows], self.sources[rows])


def entries(name: str, each: int, seed: int, spread: float) -> Entries:
    chance = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES, dtype=np.int32), each)
    centres = np.random.default_rng(7).normal(size=(CLASSES, WIDTH))
    vectors = unit(centres[labels] + spread * chance.normal(size=(len(labels), WIDTH)))
    order = chance.permutation(len(labels))
    return Entries(vectors, labels, np.array([f"{name} {i}" for i in range(len(labels))])).only(order)


PICTURES = entries("pictures", 30, 1, 0.9)
TEXTS = entries("texts", 3, 2, 1.2)
QUERIES = unit(np.random.default_rng(3).normal(size=(50, WIDTH)))


def write(root: Path, parts: dict[Modality, Entries], encoder: str = "e", **info: Any) -> str:
    with stage(root, "memory") as staging:
        staging.info.update({"text_weight": 0.0, "pool": 1, "encoder": encoder, **info})
        for name, some in parts.items():
            add_part(staging, name, some.vectors, some.labels, 8, sources=some.sources.tolist())
        write_json(staging.folder / "labels.json", [f"class {i}" for i in range(CLASSES)])
        write_json(staging.folder / "tags.json", TAGS)
    return str(root)


def by_entry(some: Entries, shards: int) -> list[Entries]:
    return [some.only(np.arange(shard, len(some.labels), shards)) for shard in range(shards)]


def by_class(some: Entries, shards: int) -> list[Entries]:
    return [some.only(some.labels % shards == shard) for shard in range(shards)]


@contextmanager
def opened(cluster: Any, roots: list[str], **settings: Any) -> Iterator[RayMemory]:
    """Shard after shard on node after node."""
    from rar.serving.ray.cluster import nodes

    there = [node["NodeID"] for node in nodes()]
    shards = [Shard(root, there[i % len(there)]) for i, root in enumerate(roots)]
    with closing(RayMemory.open(shards, **settings)) as memory:
        yield memory


def assert_same(found: list[Any], expected: list[Any]) -> None:
    for some, others in zip(found, expected, strict=True):
        assert [one.label for one in some] == [one.label for one in others]
        assert [one.entry for one in some] == [one.entry for one in others]
        assert [one.similarity for one in some] == pytest.approx([one.similarity for one in others], abs=1e-6)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """One memory, and three shards of its pictures, each class in all of them."""
    folder = tmp_path_factory.mktemp("shards")
    shards = by_entry(PICTURES, 3)
    return write(folder / "one", {"pictures": PICTURES}), [
        write(folder / f"shard{i}", {"pictures": some}) for i, some in enumerate(shards)
    ]


class TestSameAnswers:
    def test_of_all_classes(self, cluster: Any, roots: tuple[str, list[str]]) -> None:
        one = Memory.open(roots[0])
        with opened(cluster, roots[1]) as memory:
            for k in (1, 5, CLASSES, None):
                assert_same(memory.search(QUERIES, k, exact=True), one.search(QUERIES, k, exact=True))
            assert_same(memory.search(QUERIES, 5, rescore=len(PICTURES.labels)), one.search(QUERIES, 5, exact=True))
            nearest = memory.search_pictures(QUERIES, CLASSES, tags=["few"])
            assert_same(nearest, one.search_pictures(QUERIES, CLASSES, tags=["few"]))
            assert (memory.classes, sorted(memory.labels), memory.encoder) == (CLASSES, sorted(one.labels), "e")

    def test_walks_of_shards_find_no_less_than_a_walk_of_all(self, cluster: Any, roots: tuple[str, list[str]]) -> None:
        one = Memory.open(roots[0])
        exact = one.search(QUERIES, 5, exact=True)

        def missed(found: list[Any]) -> int:
            pairs = zip(found, exact, strict=True)
            return sum(len({one.label for one in best} - {one.label for one in some}) for some, best in pairs)

        with opened(cluster, roots[1]) as memory:
            assert 0 < missed(memory.search(QUERIES, 5)) <= missed(one.search(QUERIES, 5))

    @pytest.mark.parametrize(
        "scope", [{"labels": ["class 3", "class 8", "class 9"]}, {"tags": ["few"]}, {"tags": ["even", "few"]}]
    )
    def test_of_a_filter(self, cluster: Any, roots: tuple[str, list[str]], scope: dict[str, list[str]]) -> None:
        one = Memory.open(roots[0])
        with opened(cluster, roots[1]) as memory:
            assert memory.check_k(None, **scope) == one.check_k(None, **scope)
            assert_same(memory.search(QUERIES, 3, **scope), one.search(QUERIES, 3, exact=True, **scope))

    def test_errors_are_those_of_one_memory(self, cluster: Any, roots: tuple[str, list[str]]) -> None:
        with opened(cluster, roots[1]) as memory:
            for wrong in ({"k": 0}, {"k": 41}, {"labels": ["nobody"]}, {"tags": ["none"]}, {"labels": "class 1"}):
                with pytest.raises(InputError):
                    memory.search(QUERIES, **wrong)  # type: ignore[arg-type]
            with pytest.raises(InputError, match="shape"):
                memory.search(QUERIES[:, :4], 2)
            assert memory.search(QUERIES, 99, labels=["nobody"], fewer=True) == [[]] * len(QUERIES)

    def test_a_change_of_a_shard_is_followed(self, cluster: Any, tmp_path: Path) -> None:
        roots = [write(tmp_path / f"{i}", {"pictures": some}) for i, some in enumerate(by_class(PICTURES, 2))]
        with opened(cluster, roots) as memory, closing(Memory.open(roots[1])) as own:
            assert memory.search(QUERIES[:1], 1)[0][0].label != "new"
            own.add(QUERIES[:1], "new")
            assert memory.search(QUERIES[:1], 1)[0][0].label == "new"
            assert memory.classes == CLASSES + 1
            own.remove("new")
            assert memory.check_k(CLASSES) == CLASSES
            with pytest.raises(InputError, match="new"):
                memory.search(QUERIES, 1, labels=["new"])


class TestSeveralEntriesAClass:
    @pytest.mark.parametrize(("pool", "weight"), [(3, 0.0), (100, 0.0), (1, 0.4), (4, 0.4), (2, 1.0)])
    def test_whole_classes_answer_as_one_memory(self, cluster: Any, tmp_path: Path, pool: int, weight: float) -> None:
        info = {"pool": pool, "text_weight": weight}
        one = Memory.open(write(tmp_path / "one", {"pictures": PICTURES, "texts": TEXTS}, **info))
        shards = zip(by_class(PICTURES, 3), by_class(TEXTS, 3), strict=True)
        roots = [write(tmp_path / f"{i}", {"pictures": a, "texts": b}, **info) for i, (a, b) in enumerate(shards)]
        with opened(cluster, roots) as memory:
            expected = one.search(QUERIES, 5, exact=True)
            assert_same(memory.search(QUERIES, 5, exact=True), expected)
            assert_same(memory.search(QUERIES, 5, rescore=400), expected)
            assert [text for text, _ in memory.texts("class 7")] == [text for text, _ in one.texts("class 7")]
            assert set(memory.parts) == set(MODALITIES)

    def test_parted_classes_are_refused(self, cluster: Any, tmp_path: Path) -> None:
        roots = [write(tmp_path / f"{i}", {"pictures": some}, pool=2) for i, some in enumerate(by_entry(PICTURES, 2))]
        with pytest.raises(InputError, match=r"'class 0' lies in .*/0 and in .*/1"), opened(cluster, roots):
            pass

    def test_a_class_that_is_parted_later_is_refused_each_time(self, cluster: Any, tmp_path: Path) -> None:
        roots = [write(tmp_path / f"{i}", {"pictures": some}, pool=2) for i, some in enumerate(by_class(PICTURES, 2))]
        with opened(cluster, roots) as memory, closing(Memory.open(roots[0])) as own:
            memory.search(QUERIES, 2)
            own.add(QUERIES[:1], "class 1")
            for _ in range(2):
                with pytest.raises(InputError, match="put each class into one shard"):
                    memory.search(QUERIES, 2)

    def test_classes_without_texts_are_refused_where_texts_count(self, cluster: Any, tmp_path: Path) -> None:
        some = TEXTS.only(TEXTS.labels > 0)
        root = write(tmp_path / "0", {"pictures": PICTURES, "texts": some}, text_weight=0.5)
        with pytest.raises(InputError, match="'class 0' has no pictures or no texts"), opened(cluster, [root]):
            pass


class TestRefusals:
    def test_other_encoders_and_settings(self, cluster: Any, tmp_path: Path) -> None:
        first = write(tmp_path / "0", {"pictures": PICTURES})
        for i, other in enumerate(({"encoder": "f"}, {"pool": 2}), 1):
            second = write(tmp_path / f"{i}", {"pictures": PICTURES}, **other)
            with pytest.raises(BundleError, match="different encoders or settings"), opened(cluster, [first, second]):
                pass

    def test_centred_shards(self, cluster: Any, tmp_path: Path) -> None:
        root = write(tmp_path / "0", {"pictures": PICTURES}, centred=True)
        with pytest.raises(InputError, match="centred"), opened(cluster, [root]):
            pass

    def test_no_such_node_and_no_such_bundle(self, cluster: Any, tmp_path: Path) -> None:
        root = write(tmp_path / "0", {"pictures": PICTURES})
        with pytest.raises(InputError, match=r"no node '10\.9\.9\.9'"):
            RayMemory.open([Shard(root, "10.9.9.9")])
        with pytest.raises(RarError, match="no bundle there"):
            RayMemory.open([str(tmp_path / "none")])

    def test_a_lost_node_is_an_error_and_no_answer(self, cluster: Any, tmp_path: Path) -> None:
        roots = [write(tmp_path / f"{i}", {"pictures": some}) for i, some in enumerate(by_entry(PICTURES, 2))]
        node = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
        shards = [Shard(roots[0]), Shard(roots[1], node.node_id)]
        with closing(RayMemory.open(shards, seconds=20)) as memory:
            assert len(memory.search(QUERIES, 3)) == len(QUERIES)
            cluster.remove_node(node)
            with pytest.raises(RarError):
                memory.search(QUERIES, 3)


def test_a_recognizer_answers_from_shards(
    cluster: Any,
    tiny_bundle: Path,
    pictures_bundle: Path,
    labelled_folder: Path,
    class_pictures: list[Path],
    tmp_path: Path,
) -> None:
    images = read_images(labelled_folder)
    roots = []
    for shard in range(2):
        root = Path(shutil.copytree(tiny_bundle, tmp_path / f"{shard}"))
        source = MemorySource(images=images[shard::2])
        build_memory(Bundle.open(root), source, dim="8", text_weight=0.0, provider="cpu")
        roots.append(str(root))
    with opened(cluster, roots) as memory:
        with (
            Recognizer.open(tiny_bundle, "cpu", memory=memory) as shards,
            Recognizer.open(pictures_bundle, "cpu") as one,
        ):
            found = shards.recognize(class_pictures, k=4)
            expected = one.recognize(class_pictures, k=4, rank="none")
            assert [[c.label for c in r.candidates] for r in found] == [
                [c.label for c in r.candidates] for r in expected
            ]
            assert [r.score for r in found] == pytest.approx([r.score for r in expected], abs=1e-5)
            with pytest.raises(InputError, match="discriminant"):
                shards.recognize(class_pictures, rank="discriminant")
        assert memory.classes == 4, "a recognizer does not close a memory that it was given"
        with pytest.raises(InputError, match="text_weight"):
            Recognizer.open(tiny_bundle, "cpu", memory=memory, text_weight=0.5)
        memory._settings = replace(memory._settings, encoder="another")
        with pytest.raises(BundleError, match="another encoder"):
            Recognizer.open(tiny_bundle, "cpu", memory=memory)
