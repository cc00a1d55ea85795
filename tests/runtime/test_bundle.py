"""The bundle: all of a component or nothing, and no path that leads out of it."""

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rar.runtime import Bundle, BundleError
from rar.runtime.bundle import annotate, copy, exists, stage, sweep


def write(root: Path, component: str = "memory", content: bytes = b"first") -> None:
    with stage(root, component) as staging:
        (staging.folder / "inner").mkdir()
        (staging.folder / "inner" / "a.bin").write_bytes(content)
        (staging.folder / "b.json").write_text('{"b": 1}')
        staging.info["made"] = "by hand"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A bundle with one component of two files."""
    write(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def manifest(root: Path) -> Path:
    return root / "bundle.json"


def fail(root: Path, error: type[BaseException]) -> None:
    """Fails between the first file of a component and the last."""
    with stage(root, "memory") as staging:
        (staging.folder / "part").write_bytes(b"x")
        raise error


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def set_path(manifest: Path, path: Any) -> None:
    content = json.loads(manifest.read_text())
    content["components"]["memory"]["files"]["b.json"]["path"] = path
    manifest.write_text(json.dumps(content))


class TestStage:
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


class TestFingerprint:
    def test_is_the_same_for_the_same_files_and_changes_with_any(self, tmp_path: Path) -> None:
        for name, content in (("a", b"x"), ("b", b"x"), ("c", b"y")):
            write(tmp_path / name, "clip", content)
        a, b, c = (Bundle.open(tmp_path / name).component("clip").fingerprint for name in "abc")
        assert a == b != c


class TestDamage:
    @pytest.mark.parametrize("where", ["", "nowhere", "empty", "file", "file/under", "x" * 300])
    def test_no_bundle_there(self, tmp_path: Path, where: str) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "file").write_text("x")
        with pytest.raises(BundleError, match="no bundle there") as caught:
            Bundle.open(tmp_path / where)
        assert str(tmp_path / where) in str(caught.value)

    def test_missing_file(self, root: Path) -> None:
        (root / "memory" / "inner" / "a.bin").unlink()
        with pytest.raises(BundleError, match=r"inner/a\.bin: missing"):
            Bundle.open(root)

    @pytest.mark.parametrize("content", [b"", b"firs", b"first!"])
    def test_truncated_or_grown_file(self, root: Path, content: bytes) -> None:
        (root / "memory" / "inner" / "a.bin").write_bytes(content)
        with pytest.raises(BundleError, match=rf"inner/a\.bin: {len(content)} bytes where 5"):
            Bundle.open(root)

    def test_a_folder_in_a_file_s_place(self, root: Path, manifest: Path) -> None:
        file = root / "memory" / "b.json"
        file.unlink()
        file.mkdir()
        content = json.loads(manifest.read_text())
        content["components"]["memory"]["files"]["b.json"]["bytes"] = file.stat().st_size
        manifest.write_text(json.dumps(content))
        with pytest.raises(BundleError, match=r"b\.json"):
            Bundle.open(root).read_json("memory", "b.json")

    def test_altered_file_of_the_same_size(self, root: Path) -> None:
        (root / "memory" / "inner" / "a.bin").write_bytes(b"FIRST")
        bundle = Bundle.open(root)  # hashes are for loading
        with pytest.raises(BundleError, match=r"inner/a\.bin: altered"):
            bundle.file("memory", "inner/a.bin")
        with pytest.raises(BundleError, match=r"inner/a\.bin: altered"):
            bundle.verify()
        assert bundle.file("memory", "inner/a.bin", check=False).is_file()

    def test_a_file_that_goes_after_opening(self, root: Path) -> None:
        bundle = Bundle.open(root)
        (root / "memory" / "b.json").unlink()
        with pytest.raises(BundleError, match=r"b\.json: missing"):
            bundle.file("memory", "b.json")

    def test_what_is_not_in_the_manifest(self, root: Path) -> None:
        bundle = Bundle.open(root)
        with pytest.raises(BundleError, match=r"no 'mllm'.*holds: memory"):
            bundle.component("mllm")
        with pytest.raises(BundleError, match=r"memory has no c\.json"):
            bundle.file("memory", "c.json")

    def test_json_that_is_none(self, root: Path) -> None:
        with stage(root, "memory") as staging:
            (staging.folder / "b.json").write_text("{'b'")
            (staging.folder / "bytes.json").write_bytes(b"\xff\xfe")
        for name in ("b.json", "bytes.json"):
            with pytest.raises(BundleError, match="not valid JSON"):
                Bundle.open(root).read_json("memory", name)

    def test_graph_checks_the_weights_beside_it(self, root: Path) -> None:
        with stage(root, "clip") as staging:
            (staging.folder / "v.onnx").write_bytes(b"graph")
            (staging.folder / "v.onnx.data").write_bytes(b"weights")
        assert Bundle.open(root).graph("clip", "v.onnx").read_bytes() == b"graph"
        (root / "clip" / "v.onnx.data").write_bytes(b"WEIGHTS")
        with pytest.raises(BundleError, match=r"v\.onnx\.data: altered"):
            Bundle.open(root).graph("clip", "v.onnx")


class TestManifest:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "JSON"),
            ("{", "JSON"),
            ("\x00", "JSON"),
            ("null", "no format"),
            ("[]", "no format"),
            ("{}", "no format"),
            ('{"format": "1"}', "no format"),
            ('{"format": null}', "no format"),
            ('{"format": 2}', "format 2, but this release reads up to 1; upgrade"),
            ('{"format": 1}', "malformed"),
            ('{"format": 1, "components": []}', "malformed"),
            ('{"format": 1, "components": {"memory": null}}', "malformed"),
            ('{"format": 1, "components": {"memory": {}}}', "malformed"),
            ('{"format": 1, "components": {"memory": {"files": [], "info": {}}}}', "malformed"),
            ('{"format": 1, "components": {"memory": {"files": {"a": 1}, "info": {}}}}', "malformed"),
            ('{"format": 1, "components": {"memory": {"files": {"a": {"path": "a"}}, "info": {}}}}', "malformed"),
            (
                '{"format": 1, "components": {"m": {"files": {"a": {"path": 1, "bytes": 1, "sha256": ""}}, '
                '"info": {}}}}',
                "malformed",
            ),
            (
                '{"format": 1, "components": {"m": {"files": {"a": {"path": "a", "bytes": "x", "sha256": ""}}, '
                '"info": {}}}}',
                "malformed",
            ),
            (
                '{"format": 1, "components": {"m": {"files": {"a": {"path": "a", "bytes": Infinity, "sha256": ""}}, '
                '"info": {}}}}',
                "malformed",
            ),
            ('{"format": 1, "components": {"m": {"files": {}, "info": 3}}}', "malformed"),
            ("[" * 100_000, r"JSON|malformed"),
        ],
        ids=lambda value: value[:60].replace("\x00", "NUL") if isinstance(value, str) else None,
    )
    def test_malformed_or_newer(self, manifest: Path, root: Path, text: str, message: str) -> None:
        manifest.write_text(text)
        with pytest.raises(BundleError, match=message) as caught:
            Bundle.open(root)
        assert "bundle.json" in str(caught.value)

    def test_not_utf8(self, manifest: Path, root: Path) -> None:
        manifest.write_bytes(b'{"format": "\xff"}')
        with pytest.raises(BundleError, match=r"bundle\.json"):
            Bundle.open(root)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["format", "components", "files", "info", "path", "bytes", "sha256"]), inner
                )
            ),
            max_leaves=12,
        )
    )
    def test_any_json_opens_or_is_a_bundle_error(
        self, tmp_path_factory: pytest.TempPathFactory, content: object
    ) -> None:
        root = tmp_path_factory.getbasetemp() / "any-manifest"
        root.mkdir(exist_ok=True)
        for value in (content, {"format": 1, "components": content}, {"format": 1, "components": {"m": content}}):
            (root / "bundle.json").write_text(json.dumps(value))
            with contextlib.suppress(BundleError):
                Bundle.open(root)

    @pytest.mark.parametrize(
        "path",
        [
            "../outside",
            "..",
            "memory/../../outside",
            "memory/..",
            "/etc/passwd",
            "//etc/passwd",
            "..\\outside",
            "memory\\b.json",
            "C:\\Windows\\x",
            "",
        ],
    )
    def test_a_path_that_leads_out(self, root: Path, manifest: Path, path: str) -> None:
        (root.parent / "outside").write_text('{"b": 1}')
        set_path(manifest, path)
        with pytest.raises(BundleError, match="leads out"):
            Bundle.open(root)

    @pytest.mark.parametrize("path", ["memory/\x00", "x" * 5000, ".", "\ud800"])
    def test_a_path_that_cannot_be(self, root: Path, manifest: Path, path: str) -> None:
        set_path(manifest, path)
        with pytest.raises(BundleError):
            Bundle.open(root)

    @settings(max_examples=25)
    @given(st.text(st.sampled_from("./\\ab\x00:~")))
    def test_no_path_reads_what_lies_outside(self, tmp_path_factory: pytest.TempPathFactory, path: str) -> None:
        folder = tmp_path_factory.mktemp("paths")
        root = folder / "bundle"
        write(root)
        for name in ("a", "b", "ab"):
            (folder / name).write_text('{"b": 1}')
        set_path(root / "bundle.json", path)
        try:
            found = Bundle.open(root).file("memory", "b.json")
        except BundleError:
            return
        assert found.resolve().is_relative_to(root.resolve())

    @pytest.mark.parametrize("target", ["outside", "/etc/hostname"])
    def test_a_link_that_leads_out(self, root: Path, target: str) -> None:
        (root.parent / "outside").write_text('{"b": 1}')
        link = root / "memory" / "b.json"
        link.unlink()
        link.symlink_to(root.parent / target)
        with pytest.raises(BundleError, match=r"b\.json: leads out"):
            Bundle.open(root)

    def test_a_folder_link_that_leads_out(self, root: Path) -> None:
        (root / "memory").rename(root.parent / "elsewhere")
        (root / "memory").symlink_to(root.parent / "elsewhere")
        with pytest.raises(BundleError, match="leads out"):
            Bundle.open(root)

    def test_a_link_in_a_circle(self, root: Path) -> None:
        link = root / "memory" / "b.json"
        link.unlink()
        link.symlink_to(link)
        with pytest.raises(BundleError, match=r"b\.json"):
            Bundle.open(root)

    def test_the_bundle_itself_may_be_a_link(self, root: Path) -> None:
        (root.parent / "link").symlink_to(root)
        assert Bundle.open(root.parent / "link").verify() == 2


class TestCopy:
    def test_copies_all_but_one_component(self, root: Path, tmp_path: Path) -> None:
        write(root, "clip", b"second")
        copy(Bundle.open(root), tmp_path / "copy", without="memory")
        bundle = Bundle.open(tmp_path / "copy")
        assert list(bundle.components) == ["clip"]
        assert bundle.verify() == 2
        assert bundle.component("clip") == Bundle.open(root).component("clip")
        assert sorted(os.listdir(tmp_path / "copy")) == ["bundle.json", "clip"]

    def test_does_not_share_files_with_the_source(self, root: Path, tmp_path: Path) -> None:
        copy(Bundle.open(root), tmp_path / "copy", without="clip")
        (root / "memory" / "b.json").write_text('{"b": 2}')
        assert Bundle.open(tmp_path / "copy").verify() == 2

    @pytest.mark.parametrize("kind", ["file", "full", "under"])
    def test_refuses_a_place_that_is_taken(self, root: Path, tmp_path: Path, kind: str) -> None:
        (tmp_path / "file").write_text("x")
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "thesis.tex").write_text("x")
        target = tmp_path / "file" / "under" if kind == "under" else tmp_path / kind
        with pytest.raises(BundleError):
            copy(Bundle.open(root), target, without="clip")
        assert (tmp_path / "full" / "thesis.tex").exists()

    def test_an_empty_folder_does(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "copy").mkdir()
        copy(Bundle.open(root), tmp_path / "copy", without="clip")
        assert Bundle.open(tmp_path / "copy").verify() == 2

    def test_failure_leaves_nothing(self, root: Path, tmp_path: Path) -> None:
        bundle = Bundle.open(root)
        (root / "memory" / "inner" / "a.bin").unlink()
        with pytest.raises((BundleError, OSError)):
            copy(bundle, tmp_path / "copy", without="clip")
        assert not (tmp_path / "copy").exists()

    def test_replaced_memories_are_copied_from_where_they_are(self, root: Path, tmp_path: Path) -> None:
        write(root, content=b"second")
        copy(Bundle.open(root), tmp_path / "copy", without="clip")
        assert Bundle.open(tmp_path / "copy").file("memory", "inner/a.bin").read_bytes() == b"second"

    def test_the_log_goes_with_the_component_it_belongs_to(self, root: Path, tmp_path: Path) -> None:
        write(root, "clip", b"second")
        (root / "memory.log").write_bytes(b"changes")
        (root / "memory.lock").write_bytes(b"{}")
        copy(Bundle.open(root), tmp_path / "with", without="clip")
        assert sorted(os.listdir(tmp_path / "with")) == ["bundle.json", "memory", "memory.log"]
        assert (tmp_path / "with" / "memory.log").read_bytes() == b"changes"
        copy(Bundle.open(root), tmp_path / "without", without="memory")
        assert sorted(os.listdir(tmp_path / "without")) == ["bundle.json", "clip"]

    def test_a_source_that_is_replaced_meanwhile_is_an_error(
        self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(root, "clip", b"second")
        real = shutil.copyfile

        def replace_behind(source: Any, target: Any) -> None:
            real(source, target)
            if Path(source).parts[-2:] == ("memory", "b.json"):
                write(root, content=b"third")

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "copyfile", replace_behind)
            with pytest.raises(BundleError, match=r"changed while it was copied|cannot be copied"):
                copy(Bundle.open(root), tmp_path / "copy", without="other")
        assert not (tmp_path / "copy").exists()


class TestSweep:
    def test_what_no_manifest_names_goes_and_all_else_stays(self, root: Path) -> None:
        write(root, "clip", b"second")
        for name in (".memory-x", "memory-2", "memory-notes", "memory2", ".clip-x"):
            (root / name).mkdir()
            (root / name / "file").write_bytes(b"x")
        for name in (".memory.log.x", "memory.log", "memory.lock", ".bundle.json.x"):
            (root / name).write_bytes(b"x")
        sweep(root, "memory")
        assert sorted(os.listdir(root)) == [
            ".bundle.json.x", ".clip-x", "bundle.json", "clip", "memory", "memory-notes", "memory.lock", "memory.log",
            "memory2",
        ]  # fmt: skip
        assert Bundle.open(root).verify() == 4
        for name in (".bundle.json.x", ".clip-x/file"):  # not this component's
            (root / name).unlink()
        (root / ".clip-x").rmdir()

    def test_a_link_is_not_followed(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "precious").mkdir()
        (tmp_path / "precious" / "file").write_bytes(b"x")
        (root / "memory-2").symlink_to(tmp_path / "precious")
        sweep(root, "memory")
        assert not (root / "memory-2").is_symlink()
        assert (tmp_path / "precious" / "file").exists()


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


def test_edit_manifest_helpers_agree(
    root: Path, replace_file: Callable[[Path, str, str, bytes], Path], edit_manifest: Callable[..., None]
) -> None:
    """The forger's tools of the other tests make bundles that pass the hash check."""
    replace_file(root, "memory", "b.json", b'{"b": 2}')
    assert Bundle.open(root).verify() == 2
    assert Bundle.open(root).read_json("memory", "b.json") == {"b": 2}
    edit_manifest(root, lambda content: content["components"]["memory"]["info"].update(made="forged"))
    assert Bundle.open(root).component("memory").info["made"] == "forged"


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
