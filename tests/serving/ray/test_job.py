"""`rar-recognize --engine ray` on a real cluster: every picture once, whatever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rar.runtime import BundleError, InputError, Recognizer
from rar.runtime.cli.recognize import main
from rar.serving.ray.job import Job, run

Many = Callable[[int], list[Path]]


def rows(out: Path) -> list[dict[str, Any]]:
    return [row for part in sorted(out.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]


def job(bundle: Path, source: object, out: Path, **settings: Any) -> Job:
    given = {"asked": {"k": 3, "rank": "none"}, "opened": {"provider": "cpu"}, **settings}
    return Job(str(bundle), [str(source)], str(out), **given)


def assert_each_once(found: list[dict[str, Any]], pictures: list[Path]) -> None:
    assert sorted(row["path"] for row in found) == sorted(map(str, pictures))
    for row in found:
        assert row["label"] == Path(row["path"]).name.partition("-")[0] or row["error"], row


def test_two_unlike_nodes_answer_as_one_process(
    cluster: Any,
    pictures_bundle: Path,
    many: Many,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray.data

    pictures = many(400)
    context = ray.data.DataContext.get_current()
    monkeypatch.setattr(context, "wait_for_min_actors_s", 300)  # else the first actor may answer all
    assert run(job(pictures_bundle, pictures[0].parent, tmp_path / "out")) == 0
    found = rows(tmp_path / "out")
    assert_each_once(found, pictures)
    kernels = {row["instruction_sets"].rpartition("rar:")[2] for row in found}
    assert "scalar" in kernels
    assert len(kernels) == 2, "one node answered all"
    with Recognizer.open(pictures_bundle, "cpu", threads=1) as here:
        expected = dict(zip(map(str, pictures), here.recognize(pictures, k=3, rank="none"), strict=True))
    for row in found:
        assert row["retrieved"] == [one.label for one in expected[row["path"]].retrieved]
        assert row["score"] == pytest.approx(expected[row["path"]].score, abs=1e-4)
    assert "400 pictures, 0 without an answer" in capsys.readouterr().err


def test_bad_and_deadly_pictures_are_rows_with_an_error(
    cluster: Any, pictures_bundle: Path, many: Many, tmp_path: Path
) -> None:
    pictures = many(60)
    broken = pictures[0].with_name("broken-1.jpg")
    broken.write_bytes(b"no picture")
    deadly = pictures[0].with_name("deadly-1.jpg")
    deadly.write_bytes(pictures[0].read_bytes())
    assert run(job(pictures_bundle, pictures[0].parent, tmp_path / "out")) == 2
    found = rows(tmp_path / "out")
    assert_each_once(found, [*pictures, broken, deadly])
    errors = {Path(row["path"]).name: row["error"] for row in found if row["error"]}
    assert set(errors) == {"broken-1.jpg", "deadly-1.jpg"}
    assert "SIGSEGV" in errors["deadly-1.jpg"]


class TestResume:
    def test_a_killed_driver_goes_on_without_doubles(
        self, cluster: Any, pictures_bundle: Path, many: Many, tmp_path: Path
    ) -> None:
        pictures = many(3000)
        out = tmp_path / "out"
        command = [str(pictures_bundle), str(pictures[0].parent), "--engine", "ray", "--address", cluster.address]
        command += ["--out", str(out), "--rank", "none", "--provider", "cpu"]
        code = "import sys; from rar.runtime.cli.recognize import main; sys.exit(main(sys.argv[1:]))"
        before: set[str] = set()
        for _ in range(int(os.environ.get("RAR_KILLS", "1"))):
            again = ["--resume"] if before else []
            driver = subprocess.Popen([sys.executable, "-c", code, *command, *again], stderr=subprocess.PIPE)
            wait_for(lambda known=before: {part.name for part in out.glob("part-*")} - known, driver)
            driver.send_signal(signal.SIGKILL)
            driver.communicate()
            time.sleep(2)  # its actors end a little later, and may write until then
            before = {part.name for part in out.glob("part-*")}
        assert 0 < len(rows(out)) < 3000
        assert main([*command, "--resume"]) == 0
        assert_each_once(rows(out), pictures)
        assert before <= {part.name for part in out.glob("part-*")}
        assert {path.name[:5] for path in out.iterdir()} == {"part-", "job.j"}

    def test_what_is_complete_is_left_alone(
        self, cluster: Any, pictures_bundle: Path, many: Many, tmp_path: Path
    ) -> None:
        pictures = many(20)
        out = tmp_path / "out"
        run(job(pictures_bundle, pictures[0].parent, out))
        before = {part: part.stat().st_mtime_ns for part in out.iterdir()}
        assert run(job(pictures_bundle, pictures[0].parent, out, resume=True)) == 0
        assert {part: part.stat().st_mtime_ns for part in out.iterdir()} == before

    def test_other_answers_are_not_mixed_in(
        self, cluster: Any, pictures_bundle: Path, names_bundle: Path, many: Many, tmp_path: Path
    ) -> None:
        folder = many(3)[0].parent
        out = tmp_path / "out"
        run(job(pictures_bundle, folder, out))
        with pytest.raises(InputError, match="--resume"):
            run(job(pictures_bundle, folder, out))
        with pytest.raises(InputError, match="another bundle"):
            run(job(names_bundle, folder, out, resume=True))
        with pytest.raises(InputError, match="another asked"):
            run(job(pictures_bundle, folder, out, resume=True, asked={"k": 1, "rank": "none"}))
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("x")
        with pytest.raises(InputError, match=r"notes\.txt"):
            run(job(pictures_bundle, folder, tmp_path / "mine"))


class TestParquet:
    def test_bytes_with_an_id(self, cluster: Any, pictures_bundle: Path, many: Many, tmp_path: Path) -> None:
        pictures = many(150)
        (tmp_path / "tables").mkdir()
        for shard in range(2):
            half = pictures[shard::2]
            table = {"number": range(shard, 150, 2), "bytes": [path.read_bytes() for path in half], "more": ["x"] * 75}
            pq.write_table(pa.table({k: list(v) for k, v in table.items()}), tmp_path / "tables" / f"{shard}.parquet")
        out = tmp_path / "out"
        assert run(job(pictures_bundle, tmp_path / "tables", out, identity="number")) == 0
        first = rows(out)
        assert sorted(row["number"] for row in first) == list(range(150))
        assert all(row["label"] == pictures[row["number"]].name.partition("-")[0] for row in first)
        assert {"bytes", "more"}.isdisjoint(first[0])
        sorted(out.glob("part-*"))[0].unlink()
        assert run(job(pictures_bundle, tmp_path / "tables", out, identity="number", resume=True)) == 0
        assert sorted(row["number"] for row in rows(out)) == list(range(150))

    def test_paths_and_hugging_face_structs(
        self, cluster: Any, pictures_bundle: Path, many: Many, tmp_path: Path
    ) -> None:
        pictures = many(12)
        pq.write_table(pa.table({"path": list(map(str, pictures))}), tmp_path / "paths.parquet")
        assert run(job(pictures_bundle, tmp_path / "paths.parquet", tmp_path / "a")) == 0
        assert_each_once(rows(tmp_path / "a"), pictures)
        images = [{"bytes": path.read_bytes(), "path": path.name} for path in pictures[:11]]
        images.append({"bytes": None, "path": None})  # type: ignore[dict-item]
        pq.write_table(pa.table({"path": list(map(str, pictures)), "image": images}), tmp_path / "structs.parquet")
        assert run(job(pictures_bundle, tmp_path / "structs.parquet", tmp_path / "b")) == 2
        assert [row["path"] for row in rows(tmp_path / "b") if row["error"]] == [str(pictures[11])]

    def test_doubled_ids_are_found(self, cluster: Any, pictures_bundle: Path, many: Many, tmp_path: Path) -> None:
        (picture,) = many(1)
        pq.write_table(pa.table({"path": [str(picture)] * 2}), tmp_path / "twice.parquet")
        with pytest.raises(Exception, match="2 answers, 1 of them doubled"):
            run(job(pictures_bundle, tmp_path / "twice.parquet", tmp_path / "out"))


class TestRefusals:
    def test_a_question_that_does_not_fit_is_one_line(
        self, cluster: Any, pictures_bundle: Path, many: Many, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        folder = many(3)[0].parent
        words = [str(pictures_bundle), str(folder), "--engine", "ray", "--out", str(tmp_path / "out"), "--k", "99"]
        assert main(words) == 2
        assert "rar-recognize: k=99, but the memory holds 4 classes; choose 1 to 4" in capfd.readouterr().err

    def test_a_bundle_that_is_not_there(self, cluster: Any, many: Many, tmp_path: Path) -> None:
        with pytest.raises(Exception, match=r"node .*: .*no bundle there"):
            run(job(tmp_path / "none", many(1)[0].parent, tmp_path / "out"))
        assert not (tmp_path / "out").exists()

    def test_bundles_that_differ_between_nodes(
        self, cluster: Any, pictures_bundle: Path, names_bundle: Path, many: Many, tmp_path: Path
    ) -> None:
        folder = many(3)[0].parent
        head, second = (home / "bundle" for home in cluster.homes)
        head.symlink_to(pictures_bundle)
        again = job(Path("/proc/self/cwd/bundle"), folder, tmp_path / "out")
        with pytest.raises(BundleError, match=r"node .*: .*no bundle there.*copy the bundle"):
            run(again)
        second.symlink_to(names_bundle)
        with pytest.raises(BundleError, match="2 different bundles on the 2 nodes"):
            run(again)
        assert not (tmp_path / "out").exists()
        second.unlink()
        second.symlink_to(pictures_bundle)
        assert run(again) == 0

    def test_more_threads_than_a_node_has(
        self, cluster: Any, pictures_bundle: Path, many: Many, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match="no node has 2 CPUs"):
            run(job(pictures_bundle, many(1)[0].parent, tmp_path / "out", threads=2))


def test_a_lost_node_loses_no_picture(cluster: Any, pictures_bundle: Path, many: Many, tmp_path: Path) -> None:
    """The last: it takes a node away."""
    pictures = many(3000)
    out = tmp_path / "out"
    node = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    words = [str(pictures_bundle), str(pictures[0].parent), "--engine", "ray", "--address", cluster.address]
    words += ["--out", str(out), "--rank", "none", "--provider", "cpu"]
    code = "import sys; from rar.runtime.cli.recognize import main; sys.exit(main(sys.argv[1:]))"
    driver = subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: any(out.glob("part-*")), driver)
    cluster.remove_node(node)
    _, err = driver.communicate(timeout=300)
    assert driver.returncode == 0, err
    assert_each_once(rows(out), pictures)


def wait_for(there: Callable[[], object], process: subprocess.Popen[Any]) -> None:
    for _ in range(1200):
        if there():
            return
        if process.poll() is not None:
            pytest.fail(f"it ended: {process.communicate()[1]}")
        time.sleep(0.1)
    pytest.fail("nothing came in two minutes")
