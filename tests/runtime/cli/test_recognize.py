"""`rar-recognize`: a table, JSON lines, and one line on stderr with exit code 2."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rar.runtime import Candidate, DescribedRegion, Recognizer, Result
from rar.runtime.cli.printable import printable
from rar.runtime.cli.recognize import main, to_json, to_table
from rar.runtime.memory import Entry

Capture = pytest.CaptureFixture[str]


def fails(capsys: Capture, *argv: object) -> str:
    """Runs the command, which must refuse with exactly one line and print nothing else."""
    assert main([str(arg) for arg in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1
    assert err.startswith("rar-recognize: ")
    return err


class TestAnswers:
    def test_a_table(self, pictures_bundle: Path, class_pictures: list[Path], capsys: Capture) -> None:
        assert main([str(pictures_bundle), str(class_pictures[0]), "--k", "3", "--crops", "3"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert str(class_pictures[0]) in out
        for word in ("cat", "retrieved", "ranked", "decode", "preprocess", "embed", "search", "rank"):
            assert word in out
        assert "\x1b" not in out

    def test_a_table_without_ranking(self, pictures_bundle: Path, class_pictures: list[Path], capsys: Capture) -> None:
        assert main([str(pictures_bundle), str(class_pictures[0]), "--k", "3", "--rank", "none"]) == 0
        out = capsys.readouterr().out
        assert "ranked" not in out
        assert "  cat  1.000" in out

    @pytest.mark.parametrize("rank", ["none", "wca"])
    def test_json_lines(self, pictures_bundle: Path, labelled_folder: Path, capsys: Capture, rank: str) -> None:
        argv = [str(pictures_bundle), str(labelled_folder), "--json", "--k", "4", "--rank", rank, "--crops", "2"]
        assert main(argv) == 0
        records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert len(records) == 12
        for record in records:
            assert Path(record["path"]).is_file()
            assert record["provider"] in ("cpu", "cuda", "tensorrt")
            assert len(record["candidates"]) == len(record["retrieved"]) == 4
            assert record["candidates"][0]["label"] == record["label"]
            assert record["retrieved"][0] == Path(record["path"]).parent.name
            assert set(record["milliseconds"]) == {"decode", "preprocess", "embed", "search"} | (
                {"rank"} if rank == "wca" else set()
            )
            assert (record["candidates"][0]["rank_score"] is None) == (rank == "none")

    def test_folders_and_files_together_in_order(
        self, pictures_bundle: Path, labelled_folder: Path, capsys: Capture
    ) -> None:
        names = [labelled_folder / "rocket", labelled_folder / "cat" / "0.jpg"]
        assert main([str(pictures_bundle), *map(str, names), "--json", "--k", "1", "--rank", "none"]) == 0
        labels = [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()]
        assert labels == ["rocket", "rocket", "rocket", "cat"]

    @pytest.mark.parametrize("form", [["--json"], []])
    def test_a_broken_picture_among_good_ones(
        self, pictures_bundle: Path, class_pictures: list[Path], tmp_path: Path, capsys: Capture, form: list[str]
    ) -> None:
        (tmp_path / "broken.jpg").write_bytes(b"no picture")
        names = [class_pictures[0], tmp_path / "broken.jpg", class_pictures[-1]]
        assert main([str(pictures_bundle), *map(str, names), "--k", "2", "--rank", "none", *form]) == 2
        out, err = capsys.readouterr()
        assert err == ""
        assert "broken.jpg: not a picture" in out
        if form:
            records = [json.loads(line) for line in out.splitlines()]
            assert [record.get("label") for record in records] == ["cat", None, "rocket"]
            assert set(records[1]) == {"path", "error"}


class TestRefusals:
    def test_a_missing_picture(self, pictures_bundle: Path, tmp_path: Path, capsys: Capture) -> None:
        assert "nowhere.jpg: no such file" in fails(capsys, pictures_bundle, tmp_path / "nowhere.jpg")

    def test_a_name_that_no_file_can_have(self, pictures_bundle: Path, capsys: Capture) -> None:
        assert "xxx" in fails(capsys, pictures_bundle, "x" * 300)

    def test_a_folder_without_pictures(self, pictures_bundle: Path, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "notes.txt").write_text("x")
        assert "holds no picture" in fails(capsys, pictures_bundle, tmp_path)

    @pytest.mark.parametrize("what", ["missing", "empty", "file"])
    def test_what_is_no_bundle(self, class_pictures: list[Path], tmp_path: Path, capsys: Capture, what: str) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "file").write_text("x")
        assert "no bundle there" in fails(capsys, tmp_path / what, class_pictures[0])

    def test_a_bundle_without_memory(self, tiny_bundle: Path, class_pictures: list[Path], capsys: Capture) -> None:
        assert "rar-export memory" in fails(capsys, tiny_bundle, class_pictures[0])

    def test_a_damaged_bundle(
        self, pictures_bundle: Path, class_pictures: list[Path], capsys: Capture, writable: Callable[[Path], Path]
    ) -> None:
        own = writable(pictures_bundle)
        (own / "clip" / "visual.onnx").write_bytes(b"")
        assert "visual.onnx: 0 bytes" in fails(capsys, own, class_pictures[0])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--k", "0"], "k=0"),
            (["--k", "99"], "k=99"),
            (["--crops", "0"], "crop"),
            (["--threads", "0"], "threads=0"),
        ],
    )
    def test_settings_out_of_range(
        self, pictures_bundle: Path, class_pictures: list[Path], capsys: Capture, options: list[str], message: str
    ) -> None:
        assert message in fails(capsys, pictures_bundle, class_pictures[0], *options)

    def test_a_device_that_is_not_there(
        self, pictures_bundle: Path, class_pictures: list[Path], capsys: Capture
    ) -> None:
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            pytest.skip("this onnxruntime offers CUDA")
        assert "has no CUDAExecutionProvider" in fails(capsys, pictures_bundle, class_pictures[0], "--provider", "cuda")

    @pytest.mark.parametrize("argv", [[], ["b", "i", "--k", "x"], ["b", "i", "--rank", "x"]])
    def test_usage(self, capsys: Capture, argv: list[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 2
        assert "usage: rar-recognize" in capsys.readouterr().err

    def test_neither_pictures_nor_boxes(self, capsys: Capture) -> None:
        assert main(["bundle"]) == 2
        assert "give pictures, or --boxes" in capsys.readouterr().err

    def test_help_says_enough(self, capsys: Capture) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["--help"])
        assert caught.value.code == 0
        out = capsys.readouterr().out
        for word in ("BUNDLE", "IMAGE", "--k", "--rank", "--json", "--provider", "wca"):
            assert word in out


ODD = 'a\x1b[31m"b"\n\r\x00\u202e烤鸭\x7f\x9b'


class TestStrangersText:
    """Labels and file names come from strangers and must not steer the terminal."""

    @staticmethod
    def clean(text: str) -> bool:
        return all(char.isprintable() or char == "\n" for char in text)

    def test_printable_escapes_control_characters_only(self) -> None:
        assert printable(ODD) == 'a\\x1b[31m"b"\\n\\r\\x00\\u202e烤鸭\\x7f\\x9b'
        assert printable("crème brûlée (hot), 100 %") == "crème brûlée (hot), 100 %"

    def test_labels_in_the_table(self) -> None:
        candidates = [Candidate(ODD, 0.5, 0.25), Candidate("b\tc", 0.25, 0.125)]
        text = to_table(Path("a.jpg"), Result(ODD, 0.25, candidates, candidates, {"decode": 1.0}))
        assert self.clean(text)
        assert len(text.splitlines()) == 6

    def test_file_names_in_the_table(self) -> None:
        candidates = [Candidate("a", 0.5)]
        path = Path("evil\x1b[2J\n.jpg")
        assert self.clean(to_table(path, Result("a", 0.5, candidates, candidates, {})))
        assert "\x1b" not in to_table(path, Result("a", 0.5, candidates, candidates, {}))

    def test_file_names_in_errors(self, pictures_bundle: Path, tmp_path: Path, capsys: Capture) -> None:
        evil = tmp_path / "evil\x1b[2J.jpg"
        assert "\x1b" not in fails(capsys, pictures_bundle, evil)
        evil.write_bytes(b"no picture")
        assert main([str(pictures_bundle), str(evil), "--k", "1"]) == 2
        assert "\x1b" not in capsys.readouterr().out

    def test_labels_in_json_survive_and_stay_on_one_line(self) -> None:
        candidates = [Candidate(ODD, 0.5)]
        line = to_json(Path("a.jpg"), Result(ODD, 0.5, candidates, candidates, {}), "cpu")
        assert len(line.splitlines()) == 1
        assert "\x1b" not in line
        assert json.loads(line)["label"] == ODD

    @given(st.text(st.characters(exclude_categories=[]), max_size=20), st.floats())
    def test_json_is_valid_printable_and_says_the_same(self, text: str, number: float) -> None:
        entry = Entry("texts", text)
        candidates = [Candidate(text, number, number, entry), Candidate("b", 0.5, -math.inf)]
        regions = [DescribedRegion(text, (number, 0.0, 1.0, 1.0), text, number)]
        line = to_json(
            Path("a.jpg"), Result(text, number, candidates, candidates, {"embed": 1.0}, regions=regions), "cpu"
        )
        assert line.isprintable()

        def refuse(constant: str) -> None:
            raise AssertionError(constant)

        record = json.loads(line, parse_constant=refuse)
        finite = number if math.isfinite(number) else None
        assert (record["label"], record["score"]) == (text, finite)
        assert record["candidates"][0]["entry"]["source"] == text
        assert record["candidates"][1]["rank_score"] is None
        assert record["regions"][0]["box"] == [finite, 0.0, 1.0, 1.0]

    @pytest.mark.parametrize("form", [["--json"], []])
    def test_a_file_name_that_is_not_utf8(
        self, pictures_bundle: Path, class_pictures: list[Path], tmp_path: Path, form: list[str]
    ) -> None:
        name = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
        Path(os.fsdecode(name)).write_bytes(class_pictures[0].read_bytes())
        command = [
            sys.executable,
            "-m",
            "rar.runtime.cli.recognize",
            str(pictures_bundle),
            os.fsdecode(name),
            "--k",
            "1",
        ]
        env = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}  # as on any desktop
        run = subprocess.run([*command, *form], capture_output=True, check=False, env=env)
        assert run.stderr == b""
        assert run.returncode == 0
        assert b"cat" in run.stdout


def test_a_reader_that_goes_away_is_no_crash(pictures_bundle: Path, labelled_folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "rar.runtime.cli.recognize",
        str(pictures_bundle),
        str(labelled_folder),
        "--json",
        "--k=1",
    ]
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert b"Traceback" not in run.stderr


def test_the_table_shows_what_the_api_gives(pictures_bundle: Path, class_pictures: list[Path]) -> None:
    (result,) = Recognizer.open(pictures_bundle, "cpu").recognize(class_pictures[0], k=2, rank="none")
    lines = to_table(class_pictures[0], result).splitlines()
    assert lines[0] == str(class_pictures[0])
    assert lines[1].split() == [result.label, f"{result.score:.3f}"]
    assert [line.split()[1] for line in lines[4:6]] == [c.label for c in result.candidates]


class TestPictures:
    def test_what_is_passed_over_in_a_folder_is_told(
        self, pictures_bundle: Path, class_pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "@eaDir").mkdir()
        for name in ("a.jpg", "@eaDir/b.jpg", "c.jpe"):
            shutil.copy(class_pictures[0], tmp_path / name)
        (tmp_path / "notes.txt").write_text("x")
        assert main([str(pictures_bundle), str(tmp_path), "--provider", "cpu", "--rank", "none", "--json"]) == 0
        told = capsys.readouterr()
        assert [Path(json.loads(line)["path"]).name for line in told.out.splitlines()] == ["a.jpg", "c.jpe"]
        assert f"{tmp_path}: passed over: 1 .txt, 1 hidden" in told.err

    def test_cut_pictures_and_large_ones_where_they_are_asked_for(
        self, pictures_bundle: Path, class_pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        whole = class_pictures[0].read_bytes()
        (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) * 3 // 4])
        command = [str(pictures_bundle), str(tmp_path / "cut.jpg"), "--provider", "cpu", "--rank", "none"]
        assert main(command) == 2
        assert "damaged" in capsys.readouterr().out
        assert main([*command, "--tolerant"]) == 0
        assert "cut off: only a part was seen" in capsys.readouterr().out
        assert main([*command, "--tolerant", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["truncated"] is True
        assert main([*command, "--tolerant", "--max-pixels", "100"]) == 2
        assert "over the limit of 100 pixels" in capsys.readouterr().out
        assert main([*command, "--max-pixels", "0"]) == 2
        assert "max_pixels must be an integer above zero" in capsys.readouterr().err
