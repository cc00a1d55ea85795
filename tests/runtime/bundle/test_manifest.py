"""The bundle: every file is what was exported, and no path leads out of it."""

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bundles import set_path, write
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, TensorProto

from rar.runtime import Bundle, BundleError
from rar.runtime.bundle.change import stage


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
        held = TensorProto(name="w", data_location=TensorProto.EXTERNAL)
        held.external_data.add(key="location", value="v.onnx.data")
        content = ModelProto(graph=GraphProto(initializer=[held])).SerializeToString()
        with stage(root, "clip") as staging:
            (staging.folder / "v.onnx").write_bytes(content)
            (staging.folder / "v.onnx.data").write_bytes(b"weights")
        assert Bundle.open(root).graph("clip", "v.onnx").read_bytes() == content
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

    @pytest.mark.parametrize("content", ['{"b": 2}', "another size"])
    @pytest.mark.parametrize("check", [True, False])
    def test_a_link_to_another_file_outside(self, root: Path, content: str, check: bool) -> None:
        (root.parent / "outside").write_text(content)
        link = root / "memory" / "b.json"
        link.unlink()
        link.symlink_to(root.parent / "outside")
        with pytest.raises(BundleError, match=r"b\.json: leads out"):
            Bundle.open(root).file("memory", "b.json", check=check)

    @pytest.mark.parametrize("target", ["/dev/zero", "pipe", "folder", "nowhere"])
    def test_a_link_to_no_file(self, root: Path, target: str) -> None:
        os.mkfifo(root.parent / "pipe")
        (root.parent / "folder").mkdir()
        link = root / "memory" / "b.json"
        link.unlink()
        link.symlink_to(root.parent / target)
        with pytest.raises(BundleError, match=r"b\.json: (is not a file|missing)"):
            Bundle.open(root)

    def test_a_folder_link_to_another_folder(self, root: Path) -> None:
        (root / "memory").rename(root.parent / "elsewhere")
        (root / "memory").symlink_to(root.parent / "elsewhere")
        assert Bundle.open(root).verify() == 2
        (root.parent / "elsewhere" / "b.json").write_text('{"b": 2}')
        with pytest.raises(BundleError, match="leads out"):
            Bundle.open(root).file("memory", "b.json", check=False)

    @pytest.mark.parametrize("made_by", ["hub cache", "Nix", "Bazel"])
    def test_a_folder_of_links_to_the_exported_files(self, root: Path, tmp_path: Path, made_by: str) -> None:
        links = tmp_path / "links"
        if made_by == "Nix":  # whole folders are links
            links.mkdir()
            for path in root.iterdir():
                (links / path.name).symlink_to(path)
        for path in root.rglob("*") if made_by != "Nix" else ():
            target = links / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file() and made_by == "Bazel":
                target.symlink_to(path)
            elif path.is_file():  # files are named after their content
                blob = tmp_path / "blobs" / str(hash(path.read_bytes()))
                blob.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, blob)
                target.symlink_to(os.path.relpath(blob, target.parent))
        bundle = Bundle.open(links)
        assert bundle.verify() == 2
        assert bundle.file("memory", "inner/a.bin", check=False).read_bytes() == b"first"
        write(links, content=b"second")  # beside the links, whose ends stay as they are
        assert Bundle.open(links).file("memory", "inner/a.bin").read_bytes() == b"second"
        assert Bundle.open(root).verify() == 2

    @pytest.mark.parametrize("place", ["bundle.json", "memory/b.json"])
    def test_a_pipe_does_not_block(self, root: Path, place: str) -> None:
        (root / place).unlink()
        os.mkfifo(root / place)
        with pytest.raises(BundleError):
            Bundle.open(root)

    def test_an_endless_manifest(self, root: Path, manifest: Path) -> None:
        manifest.unlink()
        manifest.symlink_to("/dev/zero")
        with pytest.raises(BundleError, match="regular"):
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


def test_edit_manifest_helpers_agree(
    root: Path, replace_file: Callable[[Path, str, str, bytes], Path], edit_manifest: Callable[..., None]
) -> None:
    """The forger's tools of the other tests make bundles that pass the hash check."""
    replace_file(root, "memory", "b.json", b'{"b": 2}')
    assert Bundle.open(root).verify() == 2
    assert Bundle.open(root).read_json("memory", "b.json") == {"b": 2}
    edit_manifest(root, lambda content: content["components"]["memory"]["info"].update(made="forged"))
    assert Bundle.open(root).component("memory").info["made"] == "forged"


class TestReadersBesideWriters:
    def test_a_bundle_opens_while_its_components_are_replaced(self, root: Path) -> None:
        stop = threading.Event()

        def replace() -> None:
            while not stop.is_set():
                write(root, content=b"again")

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(replace)
            try:
                opened = [len(Bundle.open(root).components) for _ in range(300)]
            finally:
                stop.set()
            writing.result()
        assert opened == [1] * 300
