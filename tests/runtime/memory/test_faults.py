"""Bad input, full disks, read-only folders, two writers, damage: an error that says so, and the memory as it was."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bundles import tree
from memory_model import WIDTH, Model, build, full_disk, vectors_of

from rar.runtime import Bundle, BundleError, InputError, Memory
from rar.runtime.bundle.change import annotate, stage
from rar.runtime.bundle.unfinished import sweep
from rar.runtime.memory import compact, handle, log, writer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    build(tmp_path / "bundle")
    return tmp_path / "bundle"


def without_lock(root: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree(root).items() if name != "memory.lock"}


GOOD = vectors_of(2, 0)


def changes(memory: Memory, name: str) -> list[Callable[[], None]]:
    """Every kind of change, with a new class of that name."""
    return [
        lambda: memory.add(GOOD, ["a", name]),
        lambda: memory.remove("a"),
        lambda: memory.relabel("a", name),
        memory.compact,
    ]


class TestInput:
    @pytest.mark.parametrize(
        ("vectors", "labels", "message"),
        [
            (np.full((2, WIDTH), np.nan, np.float32), ["a", "b"], "vector 0 is zero, NaN or infinite"),
            (np.array([GOOD[0], np.full(WIDTH, np.inf)], np.float32), ["a", "b"], "vector 1 is zero, NaN or infinite"),
            (np.zeros((2, WIDTH), np.float32), ["a", "b"], "vector 0 is zero, NaN or infinite"),
            (GOOD[:, 1:], ["a", "b"], r"float32 of shape \[N, 12\], not float32 of \[2, 11\]"),
            (GOOD[0], ["a"] * 12, r"shape \[N, 12\], not float32 of \[12\]"),
            (np.ones((2, WIDTH), np.int64), ["a", "b"], r"not int64"),
            (np.ones((2, WIDTH), complex), ["a", "b"], r"not complex128"),
            (np.ones((2, WIDTH), bool), ["a", "b"], r"not bool"),
            (np.array([["x"] * WIDTH]), ["a"], r"not <U1"),
            (GOOD, ["a"], "1 labels do not fit 2 pictures"),
            (GOOD, ["a", "b", "c"], "3 labels do not fit 2 pictures"),
            (GOOD, [], "0 labels do not fit 2 pictures"),
            (GOOD[:0], [], "nothing to add"),
            (GOOD, ["a", " "], "blank"),
            (GOOD, ["a", ""], "blank"),
            (GOOD, ["a", "x" * 4097], "has 4097 characters; 4096 are the most"),
            (GOOD, ["a", 3], "3 is no text"),
            (GOOD, ["a", None], "None is no text"),
            (GOOD, ["a", "\ud800"], "not Unicode text"),
        ],
        ids=lambda value: value if isinstance(value, str) else None,
    )
    def test_what_cannot_be_added(self, root: Path, vectors: npt.NDArray[Any], labels: list[Any], message: str) -> None:
        before, own = tree(root), Memory.open(root)
        with pytest.raises(InputError, match=message):
            own.add(vectors, labels)
        own.close()
        assert tree(root) == before
        assert own.labels == ["a", "b", "c", "d"]

    @pytest.mark.parametrize("sources", [["x"], ["x", "y", "z"], "xy", [1, 2], [b"x", b"y"]])
    def test_sources_that_do_not_fit(self, root: Path, sources: Any) -> None:
        with pytest.raises(InputError, match="sources must be 2 texts"):
            Memory.open(root).add(GOOD, ["a", "b"], sources=sources)

    @pytest.mark.parametrize("images", ["cat.jpg", [b"x"], [np.zeros((4, 4, 3), np.uint8)], np.zeros((4, 4, 3))])
    def test_pictures_without_an_encoder(self, root: Path, images: Any) -> None:
        with pytest.raises(InputError, match="where the memory knows the encoder"):
            Memory.open(root).add(images, ["a"])

    def test_vectors_of_any_length_and_one_label_for_all(self, root: Path) -> None:
        own = Memory.open(root)
        own.add(1e30 * GOOD.astype(np.float64), "new")
        own.add(GOOD.astype(np.float16), "new")
        found = own.search(GOOD, 1, labels=["new"])
        assert [row[0].similarity for row in found] == pytest.approx([1, 1], abs=1e-3)
        assert found[0][0].entry is not None
        assert found[0][0].entry.source == ""

    def test_copies_of_one_vector_are_as_many_entries(self, root: Path) -> None:
        own = Memory.open(root)
        own.add(np.repeat(GOOD[:1], 5, 0), ["a", "a", "b", "b", "new"])
        assert own.parts["pictures"].counts.tolist() == [5, 5, 3, 3, 1]
        assert {c.label for c in own.search(GOOD[:1], 3)[0]} == {"a", "b", "new"}

    @pytest.mark.parametrize("new", ["", " ", "x" * 5000, 3])
    def test_names_that_are_none(self, root: Path, new: Any) -> None:
        with pytest.raises(InputError):
            Memory.open(root).relabel("a", new)
        assert not (root / "memory.log").exists()

    def test_names_are_data(self, root: Path) -> None:
        names = ["\n", '"', "{}", "../..", "</s>", "烤鸭", "x" * 4096]
        own = Memory.open(root)
        own.add(vectors_of(6, 5), names[1:])
        own.compact()
        own.relabel("a", "\na")
        assert Memory.open(root).labels == ["\na", "b", "c", "d", *names[1:]]


class TestFullDisk:
    def test_while_adding(self, root: Path) -> None:
        own = Memory.open(root)
        own.add(GOOD, ["a", "new"])
        before, size = without_lock(root), (root / "memory.log").stat().st_size
        for room in (0, 17, 200):
            with (
                full_disk(size + room),
                pytest.raises(BundleError, match=r"cannot be written .*as it was"),
            ):
                own.add(vectors_of(20, 3), ["other"] * 20)
            assert without_lock(root) == before
            assert own.labels == ["a", "b", "c", "d", "new"]
        own.add(GOOD, ["a", "later"])
        assert Memory.open(root).labels == ["a", "b", "c", "d", "new", "later"]

    @pytest.mark.parametrize("size", [10, 100, 300, 500, 1000, 2000, 3000])
    def test_while_compacting(self, root: Path, size: int) -> None:
        own = Memory.open(root)
        own.add(vectors_of(40, 3), ["new"] * 40)
        before = without_lock(root)
        with full_disk(size), pytest.raises(BundleError, match="cannot be written"):
            own.compact()
        assert without_lock(root) == before
        assert sorted(os.listdir(root)) == ["bundle.json", "memory", "memory.lock", "memory.log"]
        own.compact()
        assert Memory.open(root).parts["pictures"].counts.tolist() == [3, 3, 3, 3, 40]


class TestReadOnly:
    def test_is_searched_and_not_changed(self) -> None:
        """In a child that is not root, for whom no folder is read-only."""
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            root = Path(folder) / "bundle"
            build(root)
            for path in (root, *root.rglob("*")):
                path.chmod(0o555 if path.is_dir() else 0o444)
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    if os.getuid() == 0:
                        os.setgid(65534)
                        os.setuid(65534)
                    code = self._refused(root)
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            for path in (root, *root.rglob("*")):
                path.chmod(0o755)

    def _refused(self, root: Path) -> int:
        own = Memory.open(root, threads=1)
        for call in changes(own, "new"):
            try:
                call()
            except BundleError as error:
                assert "cannot be changed (Permission denied" in str(error), error  # noqa: PT017
            else:
                return 2
        own.save()  # there is nothing to fold
        return 0 if own.search(GOOD, 4)[0] and own.labels == ["a", "b", "c", "d"] else 3


class TestWriters:
    def test_the_second_is_refused_and_told_of_the_first(self, root: Path) -> None:
        first, second = Memory.open(root), Memory.open(root)
        first.add(GOOD, ["a", "new"])
        before = tree(root)
        for call in changes(second, "other"):
            with pytest.raises(BundleError, match=f"being changed by process {os.getpid()} on "):
                call()
        assert tree(root) == before
        assert second.labels == first.labels == ["a", "b", "c", "d", "new"]
        first.close()
        second.add(GOOD, ["a", "other"])
        assert first.labels == ["a", "b", "c", "d", "new", "other"]
        with pytest.raises(BundleError, match="being changed"):
            first.remove("a")

    def test_refused_before_a_picture_is_embedded(self, root: Path) -> None:
        class Counting:
            asked = 0

            def preprocess(self, pictures: Any) -> Any:
                self.asked += 1
                return np.zeros((len(pictures), 1), np.float32)

            embed_pixels = embed_names = preprocess

        first, embed = Memory.open(root), Counting()
        first.add(GOOD, ["a", "b"])
        with pytest.raises(BundleError, match="being changed"):
            Memory.open(root, embed=embed).add([np.zeros((4, 4, 3), np.uint8)], ["a"])
        assert embed.asked == 0

    def test_threads_of_one_process_take_turns(self, root: Path) -> None:
        own = Memory.open(root)

        def change(i: int) -> None:
            own.add(vectors_of(1, 100 + i), [f"class {i}"], sources=[str(i)])
            if i % 4 == 0:
                own.remove(f"class {i}")
            if i % 10 == 0:
                own.compact()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(change, range(40)))
        expected = {f"class {i}" for i in range(40) if i % 4} | {"a", "b", "c", "d"}
        assert set(own.labels) == set(Memory.open(root).labels) == expected
        for i in (1, 2, 3, 39):
            assert own.search(vectors_of(1, 100 + i), 1)[0][0].label == f"class {i}"

    def test_a_class_that_is_removed_and_added_while_others_search_is_there_or_not(self, root: Path) -> None:
        own, vector = Memory.open(root), vectors_of(1, 77)
        own.add(np.repeat(vector, 3, 0), ["new"] * 3)
        done = False

        def search() -> int:
            count = 0
            while not done or count < 20:
                found = own.search(vector, 3)[0]
                assert len({c.label for c in found}) == 3
                best = {c.label: c.similarity for c in found}
                assert best.get("new", 1.0) == pytest.approx(1, abs=1e-3)
                assert ("new" in best) == (found[0].similarity > 0.99)
                count += 1
            return count

        with ThreadPoolExecutor(3) as pool:
            searches = [pool.submit(search) for _ in range(3)]
            for i in range(15):
                own.remove("new")
                own.add(np.repeat(vector, 3, 0), ["new"] * 3)
                if i % 5 == 0:
                    own.compact()
            done = True
            assert sum(search.result() for search in searches) >= 60

    def test_a_filter_by_a_class_that_goes_is_an_error_and_no_wrong_answer(self, root: Path) -> None:
        own = Memory.open(root)
        assert own.search(GOOD, 1, labels=["d"])[0][0].label == "d"
        own.remove("d")
        with pytest.raises(InputError, match="no class 'd'"):
            own.search(GOOD, 1, labels=["d"])
        with pytest.raises(InputError, match="k=4, but the memory holds 3 classes"):
            own.search(GOOD, 4)
        assert len(own.search(GOOD, 4, fewer=True)[0]) == 3


class TestCompact:
    def test_interrupted_the_memory_and_its_log_stay(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        own = Memory.open(root)
        own.add(GOOD, ["a", "new"])
        before = without_lock(root)

        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(compact, "write_json", interrupt)
            with pytest.raises(KeyboardInterrupt):
                own.compact()
        assert without_lock(root) == before
        assert own.labels == Memory.open(root).labels == ["a", "b", "c", "d", "new"]

    def test_stopped_before_the_old_log_is_deleted_nothing_is_done_twice(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own = Memory.open(root)
        own.add(GOOD, ["a", "new"])

        def stop(_: Path) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(writer.log, "remove", stop)
            with pytest.raises(KeyboardInterrupt):
                own.compact()
        assert (root / "memory.log").exists()
        for one in (own, Memory.open(root)):
            assert one.parts["pictures"].counts.tolist() == [4, 3, 3, 3, 1]
        own.add(GOOD, ["b", "new"])  # a log of its own replaces the stale one
        assert Memory.open(root).parts["pictures"].counts.tolist() == [4, 4, 3, 3, 2]

    def test_without_changes_nothing_is_written(self, root: Path) -> None:
        own = Memory.open(root)
        own.compact()  # fits the discriminant that the memory was written without
        own.close()
        before = tree(root)
        own.compact()
        own.save()
        own.close()
        assert tree(root) == before

    def test_what_the_manifest_says_stays_but_what_was_measured(self, root: Path) -> None:
        annotate(root, "memory", rank="wca", tune={"fusion": 1.5})
        own = Memory.open(root)
        own.add(GOOD, ["a", "new"])
        before = Bundle.open(root).component("memory").info
        own.compact()
        after = Bundle.open(root).component("memory").info
        new = {"pictures": None, "classes": None, "discriminant": None}
        assert {**after, **new} == {**before, **new}
        assert after["classes"] == 5
        changed = {key for key, value in after["pictures"].items() if value != before["pictures"][key]}
        assert changed <= {"entries", "search", "recall"}
        assert [after["pictures"][key] for key in ("entries", "search", "recall")] == [14, "exact", 1.0]

    def test_a_large_part_keeps_its_index_and_small_shards_are_taken_over(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(compact, "_SMALL", 10)
        monkeypatch.setattr(compact, "_GROWTH", 100)
        own = Memory.open(root)
        sizes = []
        for i in range(12):
            own.add(vectors_of(4, 50 + i), [f"class {i}"] * 4)
            if i == 3:
                own.remove("a")  # too few to be worth a new index
            own.compact()
            sizes.append([graph.size for graph in own.parts["pictures"].graphs])
        assert sizes[0] == [12, 4]
        assert sizes[1] == [12, 8]
        assert all(sum(shards) == 12 + 4 * (i + 1) for i, shards in enumerate(sizes))
        assert max(len(shards) for shards in sizes) <= 4
        assert own.parts["pictures"].gone == 3
        for i in range(12):
            found = own.search(vectors_of(4, 50 + i), 1, exact=False)
            assert {row[0].label for row in found} == {f"class {i}"}
        Bundle.open(root).verify()
        for i in range(12):
            own.remove(f"class {i}")
        own.compact()  # most are gone: written anew
        assert [graph.size for graph in own.parts["pictures"].graphs] == [9]
        assert own.parts["pictures"].gone == 0

    def test_a_memory_of_nothing_grows_again(self, root: Path) -> None:
        own = Memory.open(root)
        for label in "abcd":
            own.remove(label)
        own.compact()
        for one in (own, Memory.open(root)):
            assert (one.labels, one.classes) == ([], 0)
            with pytest.raises(InputError, match="holds 0 classes"):
                one.search(GOOD, 1)
        own.add(GOOD, ["x", "y"])
        assert [row[0].label for row in own.search(GOOD, 1)] == ["x", "y"]
        own.compact()
        assert [row[0].label for row in Memory.open(root).search(GOOD, 1)] == ["x", "y"]

    def test_save_folds_where_it_pays(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(handle, "_ADDED", 10)
        own = Memory.open(root)
        own.add(vectors_of(9, 1), ["a"] * 9)
        own.save()
        assert (root / "memory.log").exists()
        own.add(vectors_of(1, 2), ["a"])
        own.save()
        assert not (root / "memory.log").exists()
        own.remove("b")
        own.save()
        assert (root / "memory.log").exists()
        own.remove("a")
        own.save()
        assert not (root / "memory.log").exists()
        assert own.labels == ["c", "d"]

    def test_leftovers_of_killed_writers_are_cleared_away(self, root: Path) -> None:
        for name in (".memory-abc", "memory-2", "memory-17"):
            (root / name).mkdir()
            (root / name / "vectors.npy").write_bytes(b"x")
        (root / ".memory.log.abc").write_bytes(b"x")
        (root / "memory-notes.txt").write_bytes(b"the user's")
        own = Memory.open(root)
        assert (root / "memory-2").exists()  # a reader deletes nothing
        own.add(GOOD, ["a", "b"])
        own.close()
        assert sorted(os.listdir(root)) == ["bundle.json", "memory", "memory-notes.txt", "memory.log"]
        sweep(root, "memory")
        assert Memory.open(root).parts["pictures"].counts.tolist() == [4, 4, 3, 3]


class TestFollow:
    def test_a_reader_sees_each_change_and_each_generation(self, root: Path) -> None:
        reader, own = Memory.open(root), Memory.open(root)
        for i in range(6):
            vector = vectors_of(1, 60 + i)
            own.add(vector, [f"class {i}"], sources=[f"{i}.jpg"])
            best = reader.search(vector, 1)[0][0]
            assert (best.label, best.entry and best.entry.source) == (f"class {i}", f"{i}.jpg")
            if i % 2:
                own.compact()
            assert reader.search(vector, 1)[0][0].label == f"class {i}"

    def test_a_generation_behind_the_next_but_one_is_still_answered_from(self, root: Path) -> None:
        """What was mapped stays readable after its files were deleted."""
        reader, own = Memory.open(root), Memory.open(root)
        view = reader._view
        expected = [c.label for c in reader.search(GOOD, 4)[0]]
        for i in range(3):
            own.add(vectors_of(30, 80 + i), [f"class {i}"] * 30)
            own.compact()
        ids, _ = view.state.parts["pictures"].nearest(GOOD, 12)
        labels = view.state.parts["pictures"].labels_of(ids)[0].tolist()
        assert list(dict.fromkeys(view.state.names[label] for label in labels)) == expected

    def test_a_memory_of_another_encoder_in_its_place_is_refused(self, root: Path, tmp_path: Path) -> None:
        reader = Memory.open(root)
        annotate(root, "memory", encoder="other")
        with pytest.raises(BundleError, match="another encoder; open the bundle again"):
            reader.search(GOOD, 1)

    def test_a_memory_that_was_built_again_is_followed(self, root: Path) -> None:
        reader = Memory.open(root)
        build(root, each=5, seed=9)
        assert reader.parts["pictures"].counts.tolist() == [5] * 4

    def test_what_was_added_to_a_memory_before_it_was_built_again_is_not_in_it(self, root: Path) -> None:
        own = Memory.open(root)
        own.add(GOOD, ["a", "new"])
        own.close()
        build(root, each=5, seed=9)
        assert own.labels == Memory.open(root).labels == ["a", "b", "c", "d"]
        own.add(GOOD, ["b", "other"])
        assert Memory.open(root).labels == ["a", "b", "c", "d", "other"]

    @pytest.mark.parametrize("damage", ["memory goes", "bundle goes", "log is altered"])
    def test_a_memory_that_cannot_be_read_any_more_is_an_error(self, root: Path, damage: str) -> None:
        own = Memory.open(root)
        own.add(GOOD, ["a", "b"])
        own.add(GOOD, ["a", "b"])
        reader = Memory.open(root)
        if damage == "memory goes":
            manifest = json.loads((root / "bundle.json").read_text())
            del manifest["components"]["memory"]
            (root / "bundle.json").write_text(json.dumps(manifest))
        elif damage == "bundle goes":
            shutil.rmtree(root)
        else:
            content = bytearray((root / "memory.log").read_bytes())
            content[90] ^= 1
            (root / "memory.log").write_bytes(content + b"x")
        with pytest.raises(BundleError):
            reader.search(GOOD, 1)

    def test_settings_of_the_opening_stay(self, root: Path) -> None:
        reader = Memory.open(root, text_weight=0.5)
        annotate(root, "memory", text_weight=1.0, pool=3)
        assert reader.text_weight == 0.5
        assert Memory.open(root).text_weight == 1.0


class TestLog:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{}",
            b"null",
            b"[]",
            b'{"remove": 3}',
            b'{"remove": "nobody"}',
            b'{"drop": "a"}',
            b'{"drop": "nobody", "sources": ["x"]}',
            b'{"drop": "a", "sources": [3]}',
            b'{"relabel": "a"}',
            b'{"relabel": "nobody", "to": "x", "forget": false, "add": {}}',
            b'{"add": {"pictures": {"labels": ["a"], "sources": ["x"]}}}',
            b'{"add": {"pictures": {"labels": ["a"], "sources": []}}}\n' + bytes(2 * WIDTH),
            b'{"add": {"pictures": {"labels": [" "], "sources": ["x"]}}}\n' + bytes(2 * WIDTH),
            b'{"add": {"pictures": {"labels": ["a"], "sources": ["x"]}}}\n' + bytes(2 * WIDTH + 2),
            b'{"add": {"pictures": {"labels": ["a"], "sources": ["x"]}}}\n' + b"\xff\x7f" * WIDTH,
            b'{"add": {"pictures": {"labels": "a", "sources": ["x"]}}}\n' + bytes(2 * WIDTH - 1),
            b"[" * 100_000,
            b"\xff\xff",
        ],
        ids=lambda content: content[:60].decode(errors="replace"),
    )
    def test_a_record_that_is_no_change_of_this_memory(self, root: Path, content: bytes) -> None:
        """With checksums that are right: a stranger's bundle."""
        fingerprint = Bundle.open(root).component("memory").fingerprint
        log.LogWriter(root / "memory.log", fingerprint, None).append(content)
        with pytest.raises(BundleError, match=r"memory\.log: does not belong to this memory"):
            Memory.open(root)

    def test_cut_off_at_any_byte_the_memory_is_as_after_one_of_its_calls(self, root: Path, tmp_path: Path) -> None:
        own, models, ends = Memory.open(root), [], []
        model = build(tmp_path / "same")

        def note() -> None:
            path = root / "memory.log"
            ends.append(path.stat().st_size if path.exists() else 0)
            models.append((own.labels, own.parts["pictures"].counts.tolist()))

        note()
        own.add(GOOD, ["a", "new"])
        note()
        own.remove("b")
        note()
        own.relabel("c", "a")
        note()
        own.close()
        assert isinstance(model, Model)
        content = (root / "memory.log").read_bytes()
        for size in range(78, len(content) + 1, 3):
            (root / "memory.log").write_bytes(content[:size])
            again = Memory.open(root)
            whole = sum(end <= size for end in ends) - 1
            assert (again.labels, again.parts["pictures"].counts.tolist()) == models[whole]
        # Written on from there.
        (root / "memory.log").write_bytes(content[:-1])
        again = Memory.open(root)
        again.add(GOOD, ["late", "late"])
        assert Memory.open(root).labels == ["a", "c", "d", "new", "late"]


class TestStage:
    def test_stopped_behind_the_last_step_the_component_is_alive(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A Ctrl-C that comes when the manifest was replaced already must not delete what it names."""
        real, calls = os.replace, []

        def replace_and_stop(source: Any, target: Any) -> None:
            real(source, target)
            calls.append(target)
            if Path(target).name == "bundle.json":
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace_and_stop)
            with pytest.raises(KeyboardInterrupt), stage(root, "other") as staging:
                (staging.folder / "x").write_bytes(b"x")
        assert len(calls) == 2
        assert Bundle.open(root).file("other", "x").read_bytes() == b"x"
