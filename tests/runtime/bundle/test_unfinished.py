"""What killed processes left goes, and all else stays."""

import os
import signal
from pathlib import Path

import pytest
from bundles import write

from rar.runtime import Bundle
from rar.runtime.bundle.change import stage
from rar.runtime.bundle.unfinished import sweep


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


class TestKilledExports:
    @pytest.mark.parametrize("name", ["memory", "clip", "engines/a"])
    def test_the_next_export_of_any_component_sweeps_them(self, root: Path, name: str) -> None:
        if (child := os.fork()) == 0:
            with stage(root, "mllm") as staging:
                (staging.folder / "half").write_bytes(b"x")
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        (root / ".bundle.json.abcdefgh").write_bytes(b"x")
        assert len(list(root.glob(".mllm-*/half"))) == 1
        write(root, name)
        assert list(root.glob(".*")) == []

    def test_what_a_living_export_writes_is_not_swept(self, root: Path) -> None:
        with stage(root, "mllm") as staging:
            (staging.folder / "half").write_bytes(b"x")
            write(root, "mllm")
            write(root, "clip")
            sweep(root, "mllm")
            (staging.folder / "other").write_bytes(b"y")
        assert sorted(Bundle.open(root).component("mllm").files) == ["half", "other"]

    def test_a_folder_that_was_renamed_and_never_named_is_swept(self, root: Path) -> None:
        for place in ("clip", "clip-2", "engines/a", "engines/a-2"):
            (root / place).mkdir(parents=True)
            (root / place / "file").write_bytes(b"x")
        write(root, "clip")
        write(root, "engines/a")
        assert sorted(os.listdir(root)) == ["bundle.json", "clip", "engines", "memory"]
        assert os.listdir(root / "engines") == ["a"]

    def test_killed_before_there_is_a_manifest(self, tmp_path: Path) -> None:
        root = tmp_path / "new"
        if (child := os.fork()) == 0:
            with stage(root, "clip"):
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        assert len(os.listdir(root)) == 1
        write(root, "memory")
        assert sorted(os.listdir(root)) == ["bundle.json", "memory"]

    def test_killed_between_renaming_and_naming_the_first_component(self, tmp_path: Path) -> None:
        root = tmp_path / "new"
        if (child := os.fork()) == 0:
            real = os.replace

            def killed(source: str, target: str) -> None:
                real(source, target)
                if Path(target).name == "clip":
                    os.kill(os.getpid(), signal.SIGKILL)

            os.replace = killed  # type: ignore[assignment]
            write(root, "clip")
        os.waitpid(child, 0)
        assert Bundle.open(root).components == {}
        write(root, "clip")
        assert sorted(os.listdir(root)) == ["bundle.json", "clip"]
        assert Bundle.open(root).verify() == 2

    def test_files_of_the_user_are_not(self, root: Path) -> None:
        for name in (".git", ".Trash-abcdefgh", "notes", "clip-old"):
            (root / name).mkdir()
        write(root, "clip")
        assert sorted(os.listdir(root)) == [
            ".Trash-abcdefgh", ".git", "bundle.json", "clip", "clip-old", "memory", "notes",
        ]  # fmt: skip
