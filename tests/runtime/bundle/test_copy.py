"""Copies of a bundle are whole."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from bundles import write

from rar.runtime import Bundle, BundleError
from rar.runtime.bundle.copy import copy


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

    def test_an_altered_file_is_not_copied(self, root: Path, tmp_path: Path) -> None:
        (root / "memory" / "b.json").write_text('{"b": 2}')  # of the same size
        with pytest.raises(BundleError, match="altered since it was exported"):
            copy(Bundle.open(root), tmp_path / "copy", without="clip")
        assert not (tmp_path / "copy").exists()

    def test_the_name_of_a_component_brings_in_no_file_from_elsewhere(
        self, root: Path, tmp_path: Path, edit_manifest: Any
    ) -> None:
        (tmp_path / "private.log").write_text("mine")
        name = os.path.relpath(tmp_path / "private", root)
        edit_manifest(root, lambda manifest: manifest["components"].update({name: {"files": {}, "info": {}}}))
        copy(Bundle.open(root), tmp_path / "copy", without="clip")
        assert not (tmp_path / "copy" / "private.log").exists()

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
