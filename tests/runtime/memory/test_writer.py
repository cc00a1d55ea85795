"""Two writers are impossible, and no change that returned is lost, whatever becomes of the folder and its files."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from memory_model import Model, build, vectors_of

from rar.runtime import Bundle, BundleError, Memory
from rar.runtime.bundle import change
from rar.runtime.bundle.change import annotate
from rar.runtime.memory import log, writer

FIRST, SECOND, THIRD = (vectors_of(1, seed) for seed in (1, 2, 3))


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return build(tmp_path / "bundle")


@pytest.fixture
def root(model: Model, tmp_path: Path) -> Path:
    return tmp_path / "bundle"


def added(root: Path) -> set[str]:
    """The sources of the pictures that were added."""
    part = Memory.open(root).parts["pictures"]
    return {part.source(entry) for entry in range(len(part))} - {f"pictures/{i}" for i in range(12)}


def add(memory: Memory, name: str) -> None:
    memory.add(FIRST, [name], sources=[name])


@pytest.fixture
def memory(root: Path) -> Memory:
    """Open, with a picture that was added."""
    opened = Memory.open(root)
    add(opened, "first")
    return opened


class TestAnOpenWriter:
    def test_a_deleted_log_is_begun_anew(self, root: Path, memory: Memory) -> None:
        (root / "memory.log").unlink()
        add(memory, "second")
        assert added(root) == {"second"}

    def test_a_log_put_back_from_an_older_copy_is_continued(self, root: Path, memory: Memory, tmp_path: Path) -> None:
        shutil.copy(root / "memory.log", tmp_path / "older")
        add(memory, "second")
        os.replace(tmp_path / "older", root / "memory.log")
        add(memory, "third")
        assert added(root) == {"first", "third"}

    def test_a_log_deleted_during_the_write_is_an_error(
        self, root: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.fdatasync

        def deleted_behind(file: int) -> None:
            real(file)
            (root / "memory.log").unlink(missing_ok=True)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", deleted_behind)
            with pytest.raises(BundleError, match="cannot be written"):
                add(memory, "second")
        add(memory, "third")
        assert added(root) == {"third"}

    def test_after_the_bundle_was_moved_nothing_is_written_unseen(
        self, root: Path, memory: Memory, tmp_path: Path
    ) -> None:
        root.rename(tmp_path / "moved")
        with pytest.raises(BundleError):
            add(memory, "second")
        assert added(tmp_path / "moved") == {"first"}
        assert not root.exists()

    def test_another_bundle_in_its_place_gets_the_change(self, root: Path, memory: Memory, tmp_path: Path) -> None:
        shutil.copytree(root, tmp_path / "other", ignore=shutil.ignore_patterns("memory.lo*"))
        root.rename(tmp_path / "moved")
        (tmp_path / "other").rename(root)
        add(memory, "second")
        assert added(root) == {"second"}
        assert added(tmp_path / "moved") == {"first"}

    def test_closing_leaves_the_lock_of_another_writer(self, root: Path, memory: Memory, tmp_path: Path) -> None:
        shutil.copytree(root, tmp_path / "other")
        root.rename(tmp_path / "moved")
        (tmp_path / "other").rename(root)
        (root / "memory.lock").unlink()
        other = Memory.open(root)
        add(other, "second")
        memory.close()
        assert (root / "memory.lock").exists()
        assert not (tmp_path / "moved" / "memory.lock").exists()
        with pytest.raises(BundleError, match="being changed by process"):
            add(Memory.open(root), "third")
        assert added(root) == {"first", "second"}

    def test_whose_lock_was_deleted_does_not_write_beside_the_next(self, root: Path, memory: Memory) -> None:
        (root / "memory.lock").unlink()
        other = Memory.open(root)
        add(other, "second")
        for change_ in (lambda: add(memory, "third"), lambda: memory.remove("a"), memory.compact):
            with pytest.raises(BundleError, match="being changed by process"):
                change_()
        other.close()
        add(memory, "third")
        assert added(root) == {"first", "second", "third"}

    @pytest.mark.parametrize("step", ["stage", "write"])
    def test_whose_lock_was_deleted_during_a_change_does_not_finish_it(
        self, root: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        other = Memory.open(root)

        def overtaken(real: Callable[..., object]) -> Callable[..., object]:
            def run(*given: object) -> object:
                done = real(*given)
                monkeypatch.undo()
                (root / "memory.lock").unlink()
                add(other, "second")
                return done

            return run

        if step == "stage":
            monkeypatch.setattr(change, "flush", overtaken(change.flush))
        else:
            monkeypatch.setattr(writer, "encode", overtaken(writer.encode))
        with pytest.raises(BundleError, match="lock deleted"):
            memory.compact() if step == "stage" else add(memory, "third")
        assert added(root) == {"first", "second"}
        other.compact()
        assert added(root) == {"first", "second"}


class TestManyWriters:
    def test_whoever_deletes_the_lock_again_and_again_no_record_is_lost(self, root: Path) -> None:
        """Each child notes what returned; the parent deletes the lock all the while."""
        children = []
        for child in range(3):
            reading, writing = os.pipe()
            if (process := os.fork()) == 0:
                os.close(reading)
                code = 1
                try:
                    memory, done = Memory.open(root), 0
                    while done < 15:
                        try:
                            add(memory, f"{child}/{done}")
                        except BundleError:
                            continue
                        os.write(writing, f"{child}/{done}\n".encode())
                        done += 1
                        memory.close()
                    code = 0
                finally:
                    os._exit(code)
            os.close(writing)
            children.append((process, os.fdopen(reading)))
        stop = threading.Event()

        def delete() -> None:
            while not stop.wait(0.002):
                (root / "memory.lock").unlink(missing_ok=True)

        deleting = threading.Thread(target=delete)
        deleting.start()
        noted = {line.strip() for _, notes in children for line in notes}
        ends = [os.waitpid(process, 0)[1] for process, _ in children]
        stop.set()
        deleting.join()
        assert ends == [0] * 3
        assert len(noted) == 45
        assert added(root) == noted


class TestCompaction:
    def test_keeps_what_was_noted_meanwhile(self, root: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
        real = change.flush

        def noted_behind(folder: Path) -> object:
            records = real(folder)
            annotate(root, "memory", rank="wca", tune={"fusion": 1.5}, text_weight=0.25)
            return records

        with monkeypatch.context() as patch:
            patch.setattr(change, "flush", noted_behind)
            memory.compact()
        info = Bundle.open(root).component("memory").info
        assert (info["rank"], info["tune"], info["text_weight"]) == ("wca", {"fusion": 1.5}, 0.25)
        assert info["classes"] == 5
        assert info["pictures"]["entries"] == 13
        assert not (root / "memory.log").exists()

    def test_of_a_memory_that_was_built_anew_meanwhile_is_refused(
        self, root: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = change.flush

        def built_behind(folder: Path) -> object:
            records = real(folder)
            monkeypatch.setattr(change, "flush", real)
            build(root, each=5)
            return records

        monkeypatch.setattr(change, "flush", built_behind)
        with pytest.raises(BundleError, match="was replaced meanwhile"):
            memory.compact()
        assert len(Memory.open(root).parts["pictures"]) == 20

    def test_that_dies_before_the_log_goes_does_not_bring_changes_back(self, root: Path) -> None:
        """The changes cancel out, so the new files equal the old ones."""
        memory = Memory.open(root)
        memory.add(FIRST, ["e"], sources=["e"])
        memory.remove("e")
        script = (
            "import os, sys; from rar.runtime import Memory; from rar.runtime.memory import log;"
            "log.remove = lambda path: os.kill(os.getpid(), 9); Memory.open(sys.argv[1]).compact()"
        )
        memory.close()
        assert subprocess.run([sys.executable, "-c", script, str(root)], check=False).returncode == -signal.SIGKILL
        assert (root / "memory.log").exists()
        fingerprint = Bundle.open(root).component("memory").fingerprint
        assert log.read(root / "memory.log", fingerprint) is None


def test_an_identical_build_that_dies_before_the_log_goes_does_not_bring_changes_back(root: Path) -> None:
    memory = Memory.open(root)
    add(memory, "first")
    memory.close()
    build(root)  # as a killed build leaves it: with the log
    assert (root / "memory.log").exists()
    assert added(root) == set()
    Bundle.open(root).verify()


def test_a_rebuild_without_changes_is_the_same_to_the_byte(root: Path) -> None:
    before = Bundle.open(root).component("memory").fingerprint
    build(root)
    assert Bundle.open(root).component("memory").fingerprint == before


@pytest.mark.parametrize("kind", ["pipe", "link", "endless link", "second name"])
@pytest.mark.parametrize("name", ["memory.lock", "memory.log"])
def test_what_a_stranger_laid_in_the_place_of_our_files_is_refused(
    root: Path, tmp_path: Path, name: str, kind: str
) -> None:
    precious = tmp_path / "precious"
    if name == "memory.log":  # a log that would be written on
        memory = Memory.open(root)
        add(memory, "first")
        memory.close()
        os.replace(root / name, precious)
    else:
        precious.write_bytes(b"precious")
    before = precious.read_bytes()
    if kind == "pipe":
        os.mkfifo(root / name)
    elif kind == "second name":
        (root / name).hardlink_to(precious)
    else:
        (root / name).symlink_to(precious if kind == "link" else "/dev/zero")
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        add(Memory.open(root), "second")
    assert precious.read_bytes() == before


def test_a_file_shortened_in_place_is_an_error_when_a_change_is_followed(root: Path) -> None:
    reader, other = Memory.open(root), Memory.open(root)
    add(other, "first")
    os.truncate(root / "memory" / "pictures" / "vectors.npy", 130)
    add(other, "second")
    with pytest.raises(BundleError, match=r"vectors\.npy: 130 bytes where"):
        reader.search(FIRST, k=1)
