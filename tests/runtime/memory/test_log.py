"""The log: what a crash leaves is exactly the completed calls, and damage is told from a crash."""

import errno
import os
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_model import full_disk

from rar.runtime import BundleError, InputError
from rar.runtime.memory import log
from rar.runtime.memory.log import LogWriter, Position, Tail, read, read_on

MINE, OTHER = "a" * 64, "b" * 64


def write(path: Path, contents: list[bytes], fingerprint: str = MINE) -> list[int]:
    """A log of these records; where the head and each record end."""
    writer = LogWriter(path, fingerprint, None)
    ends = [writer.position.offset, *(writer.append(content).offset for content in contents)]
    writer.close()
    return ends


def read_well(path: Path, fingerprint: str = MINE) -> Tail:
    tail = read(path, fingerprint)
    assert tail is not None
    return tail


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.log"


class TestRead:
    @given(st.lists(st.binary(max_size=300), max_size=8))
    def test_round_trip(self, tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
        path = tmp_path_factory.mktemp("log") / "memory.log"
        write(path, contents)
        tail = read_well(path)
        assert tail.contents == contents
        assert tail.rest == 0
        assert tail.position == Position(path.stat().st_ino, path.stat().st_size, tail.position.crc)

    def test_there_is_none(self, path: Path) -> None:
        assert read(path, MINE) is None
        assert read_on(path, Position(1, 2, 3)) is None

    def test_one_of_another_memory_is_none(self, path: Path) -> None:
        write(path, [b"x"], OTHER)
        assert read(path, MINE) is None

    def test_written_on_by_another_writer(self, path: Path) -> None:
        write(path, [b"first"])
        writer = LogWriter(path, MINE, read_well(path).position)
        writer.append(b"second")
        assert read_well(path).contents == [b"first", b"second"]

    def test_read_on_from_where_a_reader_was(self, path: Path) -> None:
        writer = LogWriter(path, MINE, None)
        writer.append(b"first")
        seen = read_well(path).position
        assert read_on(path, seen) == Tail([], seen, 0)
        for content in (b"second", b"", b"third"):
            writer.append(content)
        tail = read_on(path, seen)
        assert tail is not None
        assert tail.contents == [b"second", b"", b"third"]
        assert tail.position == writer.position == read_well(path).position

    def test_a_log_that_was_replaced_or_cut_is_not_read_on(self, path: Path) -> None:
        write(path, [b"first", b"second"])
        seen = read_well(path).position
        ends = write(path, [b"first", b"other!"])  # another file in its place
        assert read_on(path, seen) is None
        seen = read_well(path).position
        os.truncate(path, ends[1])
        assert read_on(path, seen) is None
        writer = LogWriter(path, MINE, read_well(path).position)
        writer.append(b"another second")
        assert read_on(path, seen) is None


class TestCrash:
    def test_cut_off_at_any_byte_the_whole_records_before_are_left(self, path: Path) -> None:
        contents = [b"one", b"", b"three" * 20, log._MARK * 3]
        ends = write(path, contents)
        content = path.read_bytes()
        for size in range(len(content) + 1):
            path.write_bytes(content[:size])
            if size < ends[0]:  # the head is written whole or not at all: this is no crash
                with pytest.raises(BundleError, match="delete this file"):
                    read(path, MINE)
                continue
            whole = sum(end <= size for end in ends) - 1
            tail = read_well(path)
            assert tail.contents == contents[:whole]
            assert tail.rest == size - ends[whole]

    @pytest.mark.parametrize("junk", [b"\0" * 40, b"\xff" * 7, log._MARK, log._MARK + b"\0" * 12, bytes(range(256))])
    def test_what_a_lost_write_leaves_is_dropped_and_written_over(self, path: Path, junk: bytes) -> None:
        write(path, [b"first"])
        with path.open("ab") as file:
            file.write(junk)
        tail = read_well(path)
        assert tail.contents == [b"first"]
        assert tail.rest == len(junk)
        LogWriter(path, MINE, tail.position).append(b"second")
        assert read_well(path).contents == [b"first", b"second"]
        assert read_well(path).rest == 0

    def test_a_record_of_another_log_is_not_taken(self, tmp_path: Path) -> None:
        ends = write(tmp_path / "a", [b"first", b"second"])
        write(tmp_path / "b", [b"other", b"second"])
        stale = (tmp_path / "b").read_bytes()
        path = tmp_path / "memory.log"
        path.write_bytes((tmp_path / "a").read_bytes()[: ends[1]] + stale[ends[1] :])
        with pytest.raises(BundleError, match="altered"):  # it is whole, and no crash puts it there
            read(path, MINE)
        path.write_bytes((tmp_path / "a").read_bytes()[: ends[1]] + stale[ends[1] : -1])
        assert read_well(path).contents == [b"first"]


class TestDamage:
    def test_any_flipped_bit_is_an_error_or_in_the_last_record(self, path: Path) -> None:
        contents = [b"one", b"second" * 5, b"three"]
        ends = write(path, contents)
        content = path.read_bytes()
        for at in range(len(content)):
            altered = bytearray(content)
            altered[at] ^= 1 << at % 8
            path.write_bytes(altered)
            if at >= ends[-2]:
                assert read_well(path).contents == contents[:-1]
                continue
            with pytest.raises(BundleError, match=r"memory\.log: (not a memory's log, or altered|altered|of a newer)"):
                read(path, MINE)

    @settings(max_examples=100)
    @given(st.binary(max_size=200))
    def test_any_bytes_are_an_error(self, tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
        path = tmp_path_factory.getbasetemp() / "any.log"
        for bytes_ in (content, b"rar log 1\n" + content):
            path.write_bytes(bytes_)
            with pytest.raises(BundleError):
                read(path, MINE)

    @pytest.mark.parametrize("size", [50_000, 100_000])
    @pytest.mark.parametrize("made_of", ["marks", "long records", "nested records"])
    def test_no_bytes_cost_more_than_a_few_passes(
        self, path: Path, size: int, made_of: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The bytes after the last good record may be a stranger's."""
        write(path, [b"good"])
        mark = b"\xabREC"
        forged = {
            "marks": mark,
            "long records": mark + (size // 2).to_bytes(4, "little") + bytes(8),
            "nested records": mark + (64).to_bytes(4, "little") + bytes(8),
        }[made_of]
        with path.open("ab") as file:
            file.write(forged * (size // len(forged)))
        hashed = 0
        real = zlib.crc32

        def counted(content: bytes, before: int = 0) -> int:
            nonlocal hashed
            hashed += len(content)
            return real(content, before)

        with monkeypatch.context() as patch:
            patch.setattr(zlib, "crc32", counted)
            with suppress(BundleError):  # it may say that the log was altered, or read the good record
                assert read_well(path).contents == [b"good"]
        assert hashed < 10 * size

    def test_a_log_beyond_the_limit_is_refused_unread(self, path: Path) -> None:
        write(path, [b"good"])
        os.truncate(path, log.MAX_LOG + 1)  # a hole, which takes no room on the disk
        with pytest.raises(BundleError, match="more than"):
            read(path, MINE)

    def test_a_full_log_is_said(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        writer = LogWriter(path, MINE, None)
        writer.append(b"first")
        monkeypatch.setattr(log, "MAX_LOG", 120)
        with pytest.raises(BundleError, match=r"is full; .*rar-export compact"):
            writer.append(b"second" * 20)
        assert read_well(path).contents == [b"first"]

    def test_a_newer_format(self, path: Path) -> None:
        write(path, [b"x"])
        path.write_bytes(path.read_bytes().replace(b"rar log 1\n", b"rar log 2\n"))
        with pytest.raises(BundleError, match="newer format; upgrade"):
            read(path, MINE)

    def test_a_forged_length_reads_nothing_beyond_the_file(self, path: Path) -> None:
        ends = write(path, [b"x"])
        content = bytearray(path.read_bytes())
        content[ends[0] + 4 : ends[0] + 8] = b"\xff\xff\xff\xff"
        head = content[ends[0] : ends[0] + 12]
        content[ends[0] + 12 : ends[0] + 16] = zlib.crc32(b"x", zlib.crc32(head)).to_bytes(4, "little")
        path.write_bytes(content)
        assert read_well(path).contents == []

    def test_a_folder_in_its_place(self, path: Path) -> None:
        path.mkdir()
        with pytest.raises(BundleError, match="cannot be read"):
            read(path, MINE)


class TestWrite:
    @pytest.mark.parametrize("room", [0, 1, 15, 16, 20])
    def test_a_full_disk_leaves_the_log_as_it_was(self, path: Path, room: int) -> None:
        writer = LogWriter(path, MINE, None)
        writer.append(b"first")
        before = path.read_bytes()
        with full_disk(len(before) + room), pytest.raises(BundleError, match=r"cannot be written \(File too large\)"):
            writer.append(b"second" * 10)
        assert path.read_bytes() == before
        writer.append(b"third")
        assert read_well(path).contents == [b"first", b"third"]

    def test_a_full_disk_when_the_log_is_made(self, path: Path) -> None:
        with full_disk(10), pytest.raises(BundleError, match="cannot be written"):
            LogWriter(path, MINE, None)
        assert list(path.parent.iterdir()) == []

    @pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
    def test_what_could_not_be_flushed_is_cut_off(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
    ) -> None:
        def fail(_: int) -> None:
            raise error

        writer = LogWriter(path, MINE, None)
        writer.append(b"first")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            with pytest.raises(BundleError if isinstance(error, OSError) else KeyboardInterrupt):
                writer.append(b"second")
        assert read_well(path).contents == [b"first"]
        assert read_well(path).rest == 0
        writer.append(b"third")
        assert read_well(path).contents == [b"first", b"third"]

    def test_each_record_is_flushed_before_the_call_returns(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        flushed: list[int] = []
        real = os.fdatasync

        def watch(file: int) -> None:
            real(file)
            flushed.append(os.fstat(file).st_size)

        writer = LogWriter(path, MINE, None)
        monkeypatch.setattr(os, "fdatasync", watch)
        for content in (b"first", b"second"):
            end = writer.append(content).offset
            assert flushed[-1] == end == path.stat().st_size

    def test_more_than_fits_one_record(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(log, "MAX_CONTENT", 100)
        writer = LogWriter(path, MINE, None)
        with pytest.raises(InputError, match="in parts of up to 100"):
            writer.append(bytes(101))
        writer.append(bytes(100))
        assert read_well(path).contents == [bytes(100)]
