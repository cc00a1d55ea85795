"""All of a component or nothing, whoever else changes the bundle."""

import contextlib
import json
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import fail, set_path, tree, write
from hypothesis import given, settings
from hypothesis import strategies as st

from rar.runtime import Bundle, BundleError
from rar.runtime.bundle import change
from rar.runtime.bundle.change import annotate, stage
from rar.runtime.bundle.copy import copy
from rar.runtime.bundle.files import write_json
from rar.runtime.bundle.manifest import exists
from rar.runtime.bundle.unfinished import sweep


class TestStage:
    def test_a_first_export_killed_while_it_wrote_the_manifest_does_not_stop_the_next(self, tmp_path: Path) -> None:
        root = tmp_path / "bundle"
        root.mkdir()
        (root / ".bundle.json.1a2b").write_text("{")
        write(root)
        assert sorted(path.name for path in root.iterdir()) == ["bundle.json", "memory"]

    def test_round_trip(self, root: Path) -> None:
        bundle = Bundle.open(root)
        assert list(bundle.components) == ["memory"]
        assert bundle.component("memory").info == {"made": "by hand"}
        assert sorted(bundle.component("memory").files) == ["b.json", "inner/a.bin"]
        assert bundle.file("memory", "inner/a.bin").read_bytes() == b"first"
        assert bundle.read_json("memory", "b.json") == {"b": 1}
        assert bundle.verify() == 2
        assert exists(root)

    def test_a_str_path_and_missing_parents_do(self, tmp_path: Path) -> None:
        write(str(tmp_path / "a" / "b"))  # type: ignore[arg-type]
        assert Bundle.open(str(tmp_path / "a" / "b")).verify() == 2

    def test_folders_are_readable_by_others(self, root: Path) -> None:
        assert stat.S_IMODE((root / "memory").stat().st_mode) == 0o755

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_failure_leaves_no_new_folder(self, tmp_path: Path, error: type[BaseException]) -> None:
        with pytest.raises(error):
            fail(tmp_path / "new", error)
        assert os.listdir(tmp_path) == []

    def test_failure_leaves_the_old_bundle_untouched(self, root: Path) -> None:
        before = tree(root)
        with pytest.raises(RuntimeError):
            fail(root, RuntimeError)
        assert tree(root) == before
        assert sorted(os.listdir(root)) == ["bundle.json", "memory"]

    def test_info_that_is_no_json_fails_before_the_manifest_changes(self, root: Path) -> None:
        before = tree(root)
        staged = stage(root, "memory")
        staged.__enter__().info["nan"] = float("nan")
        with pytest.raises(ValueError, match="JSON"):
            staged.__exit__(None, None, None)
        assert tree(root) == before

    def test_failure_in_an_empty_folder_of_the_user_keeps_the_folder(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError):
            fail(tmp_path, RuntimeError)
        assert tmp_path.is_dir()
        assert os.listdir(tmp_path) == []

    def test_another_component_stands_beside(self, root: Path) -> None:
        write(root, "clip", b"second")
        bundle = Bundle.open(root)
        assert list(bundle.components) == ["memory", "clip"]
        assert bundle.verify() == 4

    def test_a_component_replaced_meanwhile_is_kept(self, root: Path) -> None:
        with stage(root, "clip") as staging:
            write(root, content=b"newer")
            (staging.folder / "c").write_bytes(b"c")
        bundle = Bundle.open(root)
        assert bundle.file("memory", "b.json").parent.joinpath("inner/a.bin").read_bytes() == b"newer"
        assert bundle.verify() == 3

    def test_components_of_one_parent_folder_do_not_touch_each_other(self, root: Path) -> None:
        for content in (b"first", b"second", b"third"):
            write(root, "engines/a", content)
            write(root, "engines/b", content)
        bundle = Bundle.open(root)
        assert bundle.file("engines/a", "inner/a.bin").read_bytes() == b"third"
        assert bundle.verify() == 6
        assert len(os.listdir(root / "engines")) == 2

    def test_failure_leaves_no_new_parent_folder(self, root: Path) -> None:
        before = sorted(os.listdir(root))
        staged = stage(root, "engines/a")
        staged.__enter__().info["nan"] = float("nan")
        with pytest.raises(ValueError, match="JSON"):
            staged.__exit__(None, None, None)
        assert sorted(os.listdir(root)) == before

    def test_a_forged_place_of_files_is_not_deleted_with_them(self, root: Path, manifest: Path) -> None:
        write(root, "clip", b"kept")
        set_path(manifest, "clip/b.json")
        write(root)
        assert Bundle.open(root).file("clip", "inner/a.bin").read_bytes() == b"kept"

    def test_replacing_removes_stale_files(self, root: Path) -> None:
        for content in (b"second", b"third", b"fourth"):
            write(root, content=content)
            assert Bundle.open(root).file("memory", "inner/a.bin").read_bytes() == content
            assert len(tree(root)) == 3

    def test_replacing_keeps_mapped_files_of_the_old_readable(self, tmp_path: Path) -> None:
        root = tmp_path / "bundle"
        for value in (1, 2):
            with stage(root, "memory") as staging:
                np.save(staging.folder / "v.npy", np.full(100_000, value, np.int32))
            if value == 1:
                old = np.load(Bundle.open(root).file("memory", "v.npy"), mmap_mode="r")
        assert (old == 1).all()
        assert (np.load(Bundle.open(root).file("memory", "v.npy")) == 2).all()

    def test_a_reader_never_sees_a_half_written_component(self, root: Path) -> None:
        with stage(root, "memory") as staging:
            (staging.folder / "half").write_bytes(b"x")
            assert Bundle.open(root).verify() == 2
        assert list(Bundle.open(root).component("memory").files) == ["half"]

    def test_a_folder_with_other_things_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("do not lose")
        with pytest.raises(BundleError, match="not empty"), stage(tmp_path, "memory"):
            pass
        assert os.listdir(tmp_path) == ["thesis.tex"]

    def test_a_file_in_the_place_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("do not lose")
        with pytest.raises(BundleError, match="is a file"), stage(tmp_path / "file", "memory"):
            pass
        assert (tmp_path / "file").read_text() == "do not lose"

    def test_a_place_under_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("do not lose")
        with pytest.raises(BundleError, match="file"), stage(tmp_path / "file" / "bundle", "memory"):
            pass

    def test_a_damaged_manifest_is_not_written_over(self, manifest: Path, root: Path) -> None:
        manifest.write_text("{")
        with pytest.raises(BundleError, match=r"bundle\.json"), stage(root, "clip"):
            pass
        assert manifest.read_text() == "{"

    def test_replacing_spares_a_folder_that_another_component_uses(self, root: Path, manifest: Path) -> None:
        write(root, "clip", b"second")
        content = json.loads(manifest.read_text())
        content["components"]["memory"] = content["components"]["clip"]
        manifest.write_text(json.dumps(content))
        write(root, content=b"third")
        assert Bundle.open(root).verify() == 4

    @settings(max_examples=25)
    @given(st.dictionaries(st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8})?", fullmatch=True), st.binary(), max_size=5))
    def test_any_files_round_trip(self, tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
        files = {name: content for name, content in files.items() if not any(n.startswith(name + "/") for n in files)}
        root = tmp_path_factory.mktemp("any") / "bundle"
        with stage(root, "memory") as staging:
            for name, content in files.items():
                (staging.folder / name).parent.mkdir(exist_ok=True)
                (staging.folder / name).write_bytes(content)
        bundle = Bundle.open(root)
        assert {name: bundle.file("memory", name).read_bytes() for name in bundle.component("memory").files} == files


class TestTogether:
    def test_of_many_who_write_at_once_none_is_lost(self, root: Path) -> None:
        def change(i: int) -> None:
            if i % 2:
                annotate(root, "memory", **{f"note {i}": i})
            else:
                write(root, f"other{i}", b"x")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(change, range(24)))
        bundle = Bundle.open(root)
        assert set(bundle.components) == {"memory", *(f"other{i}" for i in range(0, 24, 2))}
        notes = {f"note {i}": i for i in range(1, 24, 2)}
        assert bundle.component("memory").info == {"made": "by hand", **notes}
        assert bundle.verify() == 2 * 13


class TestAnnotate:
    def test_entries_are_set_and_all_else_stays(self, root: Path) -> None:
        write(root, "clip", b"second")
        before, other = tree(root), Bundle.open(root).component("clip")
        annotate(root, "memory", rank="mllm", tune={"fusion": 1.5})
        annotate(root, "memory", rank="none")
        bundle = Bundle.open(root)
        assert bundle.component("memory").info == {"made": "by hand", "rank": "none", "tune": {"fusion": 1.5}}
        assert bundle.component("clip") == other
        assert bundle.verify() == 4
        after = tree(root)
        assert after.keys() == before.keys()
        assert {name for name in after if after[name] != before[name]} == {"bundle.json"}

    def test_an_opened_bundle_does_not_change_under_its_owner(self, root: Path) -> None:
        opened = Bundle.open(root)
        annotate(root, "memory", rank="mllm")
        assert opened.component("memory").info == {"made": "by hand"}

    def test_a_component_that_is_not_there(self, root: Path) -> None:
        before = tree(root)
        with pytest.raises(BundleError, match="holds no 'mllm'"):
            annotate(root, "mllm", rank="mllm")
        assert tree(root) == before

    @pytest.mark.parametrize("value", [float("nan"), object(), "\ud800"])
    def test_what_is_no_json_leaves_the_old_manifest(self, root: Path, value: object) -> None:
        before = tree(root)
        with pytest.raises((TypeError, ValueError)):
            annotate(root, "memory", tune=value)
        assert tree(root) == before

    def test_a_manifest_that_cannot_be_replaced(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        before = tree(root)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            with pytest.raises(BundleError, match=r"cannot be written \(No space left on device\); it is as it was"):
                annotate(root, "memory", rank="none")
        assert tree(root) == before

    def test_what_was_made_for_another_build_is_refused(self, root: Path) -> None:
        made_for = Bundle.open(root).component("memory")
        annotate(root, "memory", made_for=made_for, rank="wca")
        annotate(root, "memory", built="another")
        with pytest.raises(BundleError, match="built anew meanwhile"):
            annotate(root, "memory", made_for=made_for, rank="grain")
        assert Bundle.open(root).component("memory").info["rank"] == "wca"


class TestTwoOfOneComponent:
    """Two exports of one component that end at any moments of each other."""

    def test_the_one_that_fails_leaves_the_other_s_folder(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real, paused = write_json, threading.Event()
        proceed = threading.Event()

        def stopped(path: Path, value: Any) -> None:
            if threading.current_thread() is not threading.main_thread() and path.name == "bundle.json":
                paused.set()
                proceed.wait(20)
            real(path, value)

        monkeypatch.setattr(change, "write_json", stopped)
        with ThreadPoolExecutor(1) as pool:
            winner = pool.submit(write, root, "clip", b"winner")
            assert paused.wait(20)  # its folder is renamed, and not in the manifest yet
            with ThreadPoolExecutor(1) as other:
                loser = other.submit(fail, root, RuntimeError)
                proceed.set()
                with pytest.raises(RuntimeError):
                    loser.result()
            winner.result()
        bundle = Bundle.open(root)
        assert bundle.file("clip", "inner/a.bin").read_bytes() == b"winner"
        assert bundle.verify() == 4

    def test_the_last_one_wins_and_nothing_of_the_first_is_left(self, root: Path) -> None:
        with stage(root, "clip") as first:
            (first.folder / "a").write_bytes(b"first")
            with stage(root, "clip") as second:
                (second.folder / "a").write_bytes(b"second")
        bundle = Bundle.open(root)
        assert bundle.file("clip", "a").read_bytes() == b"first"
        assert bundle.verify() == 3
        assert len([path for path in root.iterdir() if path.is_dir()]) == 2

    def test_many_processes_at_once(self, root: Path) -> None:
        children = []
        for child in range(4):
            if (process := os.fork()) == 0:
                code = 1
                try:
                    for turn in range(6):
                        if turn % 3 == 2:
                            with contextlib.suppress(RuntimeError):
                                fail(root, RuntimeError)
                        else:
                            write(root, "clip", f"{child} {turn}".encode())
                            Bundle.open(root)
                    code = 0
                finally:
                    os._exit(code)
            children.append(process)
        assert [os.waitpid(process, 0)[1] for process in children] == [0] * 4
        assert Bundle.open(root).verify() == 4
        assert len(os.listdir(root)) == 3

    def test_two_of_a_new_bundle(self, tmp_path: Path) -> None:
        with stage(tmp_path / "new", "clip") as first:
            (first.folder / "a").write_bytes(b"a")
            write(tmp_path / "new", "memory")
        assert Bundle.open(tmp_path / "new").verify() == 3

    def test_one_that_fails_leaves_a_new_bundle_to_the_other(self, tmp_path: Path) -> None:
        def fail_behind_another() -> None:
            with stage(tmp_path / "new", "clip"):
                write(tmp_path / "new", "memory")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail_behind_another()
        assert Bundle.open(tmp_path / "new").verify() == 2


def unflushed(monkeypatch: pytest.MonkeyPatch, needed: Callable[[Path, Path], list[Path]]) -> list[Path]:
    """What is needed on the disk before a file is moved to its place, and is not flushed by then."""
    flushed: set[int] = set()
    missing: list[Path] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(file: int) -> None:
        flushed.add(os.fstat(file).st_ino)
        real_fsync(file)

    def replace(source: Any, target: Any) -> None:
        missing.extend(place for place in needed(Path(source), Path(target)) if place.stat().st_ino not in flushed)
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    return missing


class TestOnDisk:
    @pytest.mark.parametrize("name", ["memory", "engines/a"])
    def test_all_is_flushed_before_the_manifest_names_it(
        self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = tmp_path / "bundle"

        def needed(source: Path, target: Path) -> list[Path]:
            if target.name != "bundle.json" or not (root / name).exists():
                return []
            # Folders too: a file's name lies in its folder.
            places = [root, *(root / name).parents[:-1], root / name, *(root / name).rglob("*"), source]
            return [place for place in places if place.is_relative_to(root)]

        missing = unflushed(monkeypatch, needed)
        write(root, name)
        assert missing == []
        monkeypatch.undo()
        assert Bundle.open(root).verify() == 2

    def test_a_copy_is_flushed_before_its_manifest_is_there(
        self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        missing = unflushed(monkeypatch, lambda *_: [tmp_path / "copy", *(tmp_path / "copy").rglob("*")])
        copy(Bundle.open(root), tmp_path / "copy", without="clip")
        assert missing == []


class TestLinks:
    def test_a_component_is_not_written_through_a_link(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "outside").mkdir()
        (root / "engines").symlink_to(tmp_path / "outside")
        with pytest.raises(BundleError, match="engines: is a link"):
            write(root, "engines/a")
        assert list((tmp_path / "outside").iterdir()) == []
        assert sorted(os.listdir(root)) == ["bundle.json", "engines", "memory"]

    @pytest.mark.parametrize("place", ["link/memory", "link/inner/memory", "memory"])
    def test_replacing_deletes_nothing_behind_a_link(self, root: Path, tmp_path: Path, place: str) -> None:
        outside = tmp_path / "outside"
        (outside / place).parent.mkdir(parents=True)
        (root / "memory").rename(outside / place)
        top = place.partition("/")[0]
        (root / top).symlink_to(outside / top)
        content = json.loads((root / "bundle.json").read_text())
        for name, record in content["components"]["memory"]["files"].items():
            record["path"] = f"{place}/{name}"
        (root / "bundle.json").write_text(json.dumps(content))
        before = tree(outside)
        assert len(before) == 2
        write(root, content=b"second")
        sweep(root, "memory")
        write(root, content=b"third")
        assert Bundle.open(root).verify() == 2
        assert tree(outside) == before

    @pytest.mark.parametrize("target", ["outside", "nowhere"])
    def test_a_link_in_a_component_s_place_is_left_and_not_followed(
        self, root: Path, tmp_path: Path, target: str
    ) -> None:
        (tmp_path / "outside").mkdir()
        (root / "clip").symlink_to(tmp_path / target)
        write(root, "clip")
        assert Bundle.open(root).verify() == 4
        assert list((tmp_path / "outside").iterdir()) == []
