"""Training: it learns, goes on where it was cut off, is the same in several processes, and says what it met."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import cut_off, log_of
from tiny_grain import MICRO, Squares

from rar.export.cli import main
from rar.export.grain import checkpoint, train
from rar.export.grain.data import Collator, Example
from rar.export.grain.metrics import measure
from rar.export.grain.options import TrainOptions
from rar.export.grain.tokens import tokenizer
from rar.runtime import ExportError, InputError

OPTIONS = TrainOptions(epochs=1, batch=8, lr=1e-3, save_every=2)
BY_HEART = TrainOptions(epochs=60, batch=20, lr=3e-3, warmup=0.1, weight_decay=0.0, save_every=200)
CALM = replace(MICRO, dropout=0.0)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoint.pth.tar").model.state_dict()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures, learnt by heart."""
    out = tmp_path_factory.mktemp("trained")
    train.train(Squares(), out, CALM, BY_HEART, Squares(), threads=1)
    return out


class TestLearning:
    def test_all_three_losses_fall(self, trained: Path) -> None:
        first, *_, last = log_of(trained)
        for part in ("contrast", "boxes", "regions"):
            assert last[part] < 0.6 * first[part]

    def test_held_out_figures_rise(self, trained: Path) -> None:
        (found,) = [line["held_out"] for line in log_of(trained) if "held_out" in line]
        assert (found["pictures"], found["regions"], found["descriptions"]) == (40, 64, 4)
        assert found["description"] > 0.8  # by chance 0.25
        assert found["iou"] > 0.4
        assert found["text_to_image"] > 0.7  # there are twelve captions

    def test_the_checkpoint_gives_the_figures_of_the_log(self, trained: Path) -> None:
        found = checkpoint.load(trained / "checkpoint.pth.tar")
        assert (found.iteration, found.rest["epoch"]) == (120, 60)
        again = measure(found.model, Collator(MICRO, tokenizer(MICRO), 1), Squares(), range(40)).to_dict()
        assert again == pytest.approx(log_of(trained)[-1]["held_out"], abs=1e-3)

    def test_a_finished_run_is_left_as_it_is(self, trained: Path) -> None:
        before = (trained / "log.jsonl").read_bytes()
        train.train(Squares(), trained, CALM, BY_HEART, Squares())
        assert (trained / "log.jsonl").read_bytes() == before


class TestWeights:
    def test_the_baseline_trains_the_caption_contrast_alone(self, tmp_path: Path) -> None:
        options = replace(OPTIONS, box_weight=0.0, region_weight=0.0, weight_decay=0.0)
        train.train(Squares(8), tmp_path, MICRO, options)
        trained = weights(tmp_path)
        torch.manual_seed(0)
        start = train.Grain(MICRO).state_dict()
        moved = {name for name, value in trained.items() if not torch.equal(value, start[name])}
        assert not moved & {"decoder.obj_proj", "decoder.bbox_embed.layers.2.weight"}
        assert {"decoder.img_proj", "decoder.query_embed.weight", "backbone.text_projection"} <= moved
        assert log_of(tmp_path)[-1].keys() == {"step", "contrast", "loss", "seconds"}

    def test_batches_without_any_box_are_trained_with(self, tmp_path: Path) -> None:
        class Bare(Squares):
            def example(self, place: int) -> Example:
                return replace(super().example(place), boxes=np.empty((0, 4), np.float32), descriptions=[])

        train.train(Bare(8), tmp_path, MICRO, OPTIONS)
        line = log_of(tmp_path)[-1]
        assert line["boxes"] == line["regions"] == 0
        assert line["loss"] == line["contrast"] > 0

    @pytest.mark.parametrize("autocast", ["bf16", "fp16"])
    def test_lower_precisions_train_alike(self, autocast: Any, tmp_path: Path) -> None:
        slow = replace(OPTIONS, lr=1e-6, last_lr=0.0)  # the scale of fp16 is found by leaving out steps
        for name, options in (("full", slow), ("half", replace(slow, autocast=autocast))):
            train.train(Squares(16), tmp_path / name, CALM, options)
        full, half = (log_of(tmp_path / name)[-1] for name in ("full", "half"))
        for part in ("contrast", "boxes", "regions"):
            assert half[part] == pytest.approx(full[part], rel=0.02)
        assert all(value.dtype == torch.float32 for value in weights(tmp_path / "half").values())


class TestCutOff:
    @pytest.mark.parametrize("at", [1, 3])
    def test_a_resumed_run_ends_as_one_that_was_not(self, at: int, tmp_path: Path) -> None:
        for name in ("whole", "cut"):
            if name == "cut":
                with cut_off(train._Trainer, at):
                    train.train(Squares(), tmp_path / name, MICRO, OPTIONS, Squares(10))
            train.train(Squares(), tmp_path / name, MICRO, OPTIONS, Squares(10))
        whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "cut")
        assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
        lines = [[{**line, "seconds": 0} for line in log_of(tmp_path / name)] for name in ("whole", "cut")]
        assert lines[0] == lines[1]

    def test_other_settings_are_refused_by_name(self, tmp_path: Path) -> None:
        with cut_off(train._Trainer, 3):
            train.train(Squares(), tmp_path, MICRO, OPTIONS)
        before = (tmp_path / "checkpoint.pth.tar").read_bytes()
        for options, config, count, told in (
            (replace(OPTIONS, lr=1e-4), MICRO, 40, "lr 0.001 and not 0.0001"),
            (OPTIONS, replace(MICRO, queries=4), 40, "queries 3 and not 4"),
            (OPTIONS, MICRO, 39, "pictures 40 and not 39"),
        ):
            with pytest.raises(ExportError, match=told):
                train.train(Squares(count), tmp_path, config, options)
        assert (tmp_path / "checkpoint.pth.tar").read_bytes() == before

    def test_a_released_checkpoint_is_no_run_of_ours(self, tmp_path: Path) -> None:
        checkpoint.save(tmp_path / "checkpoint.pth.tar", train.Grain(MICRO), epoch=1, iteration=5)
        with pytest.raises(ExportError, match="of a run with other settings"):
            train.train(Squares(), tmp_path, MICRO, OPTIONS)


class TestTrouble:
    def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(self, tmp_path: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train, "contrast", lambda *parts: torch.tensor(math.nan))
            with pytest.raises(ExportError, match="the loss became nan at step 1; lower the learning rate"):
                train.train(Squares(), tmp_path, MICRO, OPTIONS)
        assert not (tmp_path / "checkpoint.pth.tar").exists()

    def test_a_folder_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "run").write_text("mine")
        with pytest.raises(ExportError, match="cannot be written"):
            train.train(Squares(), tmp_path / "run", MICRO, OPTIONS)

    @pytest.mark.parametrize(
        "change",
        [
            {"epochs": 0},
            {"batch": 0},
            {"lr": 0.0},
            {"lr": math.nan},
            {"last_lr": 0.1},
            {"warmup": 1.1},
            {"box_weight": -1.0},
            {"region_weight": math.inf},
            {"autocast": "int8"},
            {"seed": -1},
        ],
        ids=str,
    )
    def test_options_out_of_range(self, change: dict[str, Any]) -> None:
        with pytest.raises(InputError):
            TrainOptions(**change)


class TestCommand:
    def test_trains_on_files_and_reports_their_flaws(
        self, annotated: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def spoil(place: int, row: dict[str, Any]) -> None:
            if place == 1:
                row["caption"] = ""
            if place == 2:
                row["boxes"][0]["box"] = [80, 80, 90, 90]

        file = annotated(9, spoil)
        (file.parent / "3.png").write_bytes(b"broken")
        out = tmp_path / "run"
        argv = ["grain", "train", str(out), "--annotations", str(file), "--val", str(file), "--size", "micro"]
        assert main([*argv, "--queries", "2", "--epochs", "1", "--batch", "4", "--threads", "1"]) == 0
        said = capsys.readouterr().out
        assert "8 pictures; 1 lines without a box, 1 lines without a caption" in said
        assert "1 boxes outside their picture" in said
        assert "1 pictures that cannot be read" in said
        found = checkpoint.load(out / "checkpoint.pth.tar", "micro", queries=2)
        assert found.iteration == 2
        assert log_of(out)[-1]["left_out"]["pictures that cannot be read"] == 1

    @pytest.mark.parametrize(
        ("argv", "told"),
        [
            (["--annotations", "/none.jsonl"], "cannot be read"),
            (["--annotations", "FILE", "--queries", "0"], "queries=0"),
            (["--annotations", "FILE", "--lr", "7"], "lr < 1"),
        ],
    )
    def test_bad_input_is_one_line(
        self,
        argv: list[str],
        told: str,
        annotated: Callable[..., Path],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        argv = [str(annotated(2)) if arg == "FILE" else arg for arg in argv]
        assert main(["grain", "train", str(tmp_path / "run"), *argv]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert told in error
        assert not (tmp_path / "run").exists()


# What torchrun starts as one of two processes: squares, without what is random.
SCRIPT = """
import sys
from test_train import CALM, OPTIONS, Squares, replace, train
train.train(Squares(24), sys.argv[1], CALM, replace(OPTIONS, batch=4, region_weight=0.0), Squares(10), threads=1)
"""


def test_two_processes_do_what_one_does_with_batches_twice_as_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = replace(OPTIONS, region_weight=0.0)
    train.train(Squares(24), tmp_path / "one", CALM, alone, Squares(10), threads=1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in (("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", str(port)), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    here = Path(__file__).parent
    paths = [str(here), str(here.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    other = {"RANK": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "two")], env={**os.environ, **other}, stderr=subprocess.PIPE
    ) as second:
        try:
            shared = replace(alone, batch=4)
            train.train(Squares(24), tmp_path / "two", CALM, shared, Squares(10), threads=1)
            _, error = second.communicate(timeout=60)
        finally:
            second.kill()
    assert second.returncode == 0, error.decode()[-2000:]
    pixels, ids = torch.randn(2, 3, 32, 32), torch.randint(1, 400, (3, 9))
    with torch.no_grad():
        models = [checkpoint.load(tmp_path / name / "checkpoint.pth.tar").model for name in ("one", "two")]
        one, two = ({**vars(model.see(pixels)), "texts": model.read(ids)} for model in models)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-3, rtol=1e-2, msg=name)
    mine, theirs = log_of(tmp_path / "one")[-1], log_of(tmp_path / "two")[-1]
    assert theirs["held_out"]["pictures"] == mine["held_out"]["pictures"] == 10
    assert theirs["contrast"] == pytest.approx(mine["contrast"], abs=1e-3)
