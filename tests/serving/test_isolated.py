"""A recognizer in a child: the same answers, and a picture that ends the child is reported and no other is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from deadly import make_deadly

from rar.runtime import BundleError, InputError, Recognizer
from rar.serving.isolated import Isolated
from rar.serving.row import Row, to_row


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(make_deadly(tmp_path / "path"))


@pytest.fixture
def isolated(pictures_bundle: Path) -> Iterator[Isolated]:
    one = Isolated(pictures_bundle, {"provider": "cpu", "threads": 1}, {"k": 3, "rank": "none"})
    yield one
    one.close()


def plain(rows: list[Row]) -> list[Row]:
    return [{**row, "milliseconds": {}} for row in rows]


def test_it_answers_as_a_recognizer_here(isolated: Isolated, pictures_bundle: Path, class_pictures: list[Path]) -> None:
    pictures = [*class_pictures, b"no picture", class_pictures[0].read_bytes()]
    with Recognizer.open(pictures_bundle, "cpu", threads=1) as here:
        expected = [to_row(one, "cpu") for one in here.recognize(pictures, k=3, rank="none")]
    assert plain(isolated.rows(pictures)) == plain(expected)
    assert isolated.machine.provider == "cpu"
    assert "rar:" in isolated.machine.instruction_sets


@pytest.mark.parametrize("places", [[0], [5], [11], [3, 4], [0, 11]])
def test_a_deadly_picture_is_reported_alone(
    deadly: None, pictures_bundle: Path, class_pictures: list[Path], tmp_path: Path, places: list[int]
) -> None:
    pictures = list(class_pictures)
    for place in places:
        pictures[place] = tmp_path / f"deadly-{place}.jpg"
        pictures[place].write_bytes(class_pictures[place].read_bytes())
    isolated = Isolated(pictures_bundle, {"provider": "cpu", "threads": 1}, {"k": 1, "rank": "none"})
    rows = isolated.rows(pictures)
    isolated.close()
    assert [place for place, row in enumerate(rows) if row["error"]] == places
    assert {row["label"] for row in rows if not row["error"]} <= {"cat", "coffee", "grass", "rocket"}
    assert len(rows) == 12
    assert all("SIGSEGV" in str(rows[place]["error"]) for place in places)
    assert isolated.deaths == 2 * len(places)


def test_a_child_that_was_killed_once_costs_nothing(isolated: Isolated, class_pictures: list[Path]) -> None:
    before = isolated.rows(class_pictures)
    os.kill(isolated._child.pid, signal.SIGKILL)
    # Asked one by one then: another batch size may end in another last bit.
    after = isolated.rows(class_pictures)
    assert [(row["label"], row["error"]) for row in after] == [(row["label"], row["error"]) for row in before]
    assert [row["score"] for row in after] == pytest.approx([row["score"] for row in before], abs=1e-5)
    assert isolated.deaths == 1


def test_errors_of_the_bundle_and_of_the_question_are_ours(pictures_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle there"):
        Isolated(tmp_path, {"provider": "cpu"}, {})
    with pytest.raises(InputError, match="k=99"):
        Isolated(pictures_bundle, {"provider": "cpu"}, {"k": 99}).rows([b"x"])


def test_the_child_ends_with_its_parent(pictures_bundle: Path) -> None:
    code = (
        "import sys, time; from rar.serving.isolated import Isolated; "
        "one = Isolated(sys.argv[1], {'provider': 'cpu'}, {}); print(one._child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(pictures_bundle)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "State:\tZ" in Path(f"/proc/{child}/status").read_text():
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} goes on")
