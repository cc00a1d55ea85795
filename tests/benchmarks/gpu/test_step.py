"""Steps in processes of their own: what is written stays, however one ends."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rar.benchmarks import cli
from rar.benchmarks.gpu.step import Row, Setting, Timed, ratio, run_step, side_by_side


def finish(setting: Setting) -> Iterator[Row]:
    yield {"provider": setting.provider}
    yield {"place": 2}


def crash(setting: Setting) -> Iterator[Row]:
    yield {"place": 1}
    os.kill(os.getpid(), signal.SIGSEGV)


def fail(setting: Setting) -> Iterator[Row]:
    yield {"place": 1}
    raise RuntimeError("no such kernel")


def overrun(setting: Setting) -> Iterator[Row]:
    yield {"place": 1}
    signal.pause()


def run(step: object, out: Path, seconds: float = 60.0) -> tuple[Row, list[Row]]:
    name = getattr(step, "__name__", "")
    setting = Setting(out, [], "cpu", time.time() + seconds)
    ended = run_step(name, step, setting, out)  # type: ignore[arg-type]
    return ended, json.loads((out / f"{name}.json").read_text())["results"]


def test_a_step_that_finishes_leaves_all_its_rows(tmp_path: Path) -> None:
    ended, rows = run(finish, tmp_path)
    assert ended["outcome"] == "done"
    assert rows == [{"provider": "cpu"}, {"place": 2}]


@pytest.mark.parametrize(("step", "outcome"), [(crash, "signal SIGSEGV"), (fail, "an error; see fail.log")])
def test_a_step_that_ends_early_leaves_what_it_had_written(step: object, outcome: str, tmp_path: Path) -> None:
    ended, rows = run(step, tmp_path)
    assert outcome in ended["outcome"]
    assert rows == [{"place": 1}]


def test_what_a_step_printed_is_in_its_log(tmp_path: Path) -> None:
    run(fail, tmp_path)
    assert "no such kernel" in (tmp_path / "fail.log").read_text()


def test_a_step_that_overruns_is_ended_and_its_rows_stay(tmp_path: Path) -> None:
    ended, rows = run(overrun, tmp_path, seconds=20.0)
    assert ended["outcome"] == "stopped at the end of its time"
    assert rows == [{"place": 1}]


def test_contenders_take_turns_and_each_call_is_a_sample() -> None:
    calls: list[str] = []
    timed = side_by_side({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 0.01)
    assert {name: len(one.seconds) for name, one in timed.items()} == {
        name: calls.count(name) - 3 for name in ("a", "b")  # less those that warm up
    }  # fmt: skip
    turns = "".join(calls).lstrip("a").lstrip("b")
    assert turns.rstrip("b").rstrip("a").rstrip("b").rstrip("a").startswith("a")


def test_a_ratio_says_how_many_times_as_fast_and_how_far_it_spreads() -> None:
    found = ratio(Timed([1.0, 2.0, 3.0]), Timed([4.0, 6.0, 8.0]))
    assert found == {"median": 3.0, "least": 2.0, "most": 7.0 / 1.5}


def test_a_run_without_a_gpu_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU")
    assert cli.main(["gpu", "--out", str(tmp_path / "out")]) == 2
    assert "CUDAExecutionProvider" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_minutes_that_are_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gpu", "--minutes", "0", "--provider", "cpu", "--out", str(tmp_path / "out")]) == 2
    assert "--minutes" in capsys.readouterr().err
