"""Fine-tuning: it learns, can be cut off anywhere, and leaves an adapter that the export takes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import cut_off, log_of
from safetensors.numpy import load_file

from rar.export import training
from rar.export.cli import main
from rar.export.finetune import train
from rar.export.finetune.options import FinetuneOptions
from rar.export.finetune.train import finetune
from rar.export.mllm.export import export_mllm
from rar.export.mllm.model import Mllm
from rar.export.mllm.source import load
from rar.export.pictures.labelled import LabelledImage
from rar.runtime import Bundle, ExportError, InputError
from rar.runtime.encoder.clip import Clip
from rar.runtime.rank.mllm.prompt import MODES, Mode

SHORT: Mapping[Mode, Mapping[str, str]] = {"likelihood": {"question": "What is it?"}}
# 24 lists, so 6 steps an epoch.
OPTIONS = FinetuneOptions(
    modes=SHORT, k=3, neighbours=4, epochs=3, batch=4, lr=1e-2, projector_lr=1e-2, rank=4, dropout=0.1, views=2,
    save_every=5,
)  # fmt: skip
LEFT = ["adapter_config.json", "adapter_model.safetensors", "log.jsonl", "prompt.json", "rar.json", "samples.jsonl"]

Run = Callable[..., Path]


def weights(folder: Path) -> dict[str, Any]:
    return {
        f"{file.name}/{name}": value
        for file in sorted(folder.glob("*.safetensors"))
        for name, value in load_file(file).items()
    }


@pytest.fixture(scope="module", autouse=True)
def _a_thread() -> Any:
    """Sums in one order: runs are compared bit by bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def seeing_clip(features_bundle: Path) -> Clip:
    return Clip(Bundle.open(features_bundle), "cpu", 1)


@pytest.fixture(scope="module")
def seeing(make_seeing: Callable[[], Mllm], seeing_clip: Clip, pictures: list[LabelledImage]) -> Run:
    """Fine-tunes the model that sees by features; the projector's alignment, always 800 steps, is cut short."""

    def run(out: Path, options: FinetuneOptions = OPTIONS, **change: Any) -> Path:
        settings: dict[str, Any] = {"sources": [pictures], "held_out": pictures[::2]} | change
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rar.export.finetune.align.STEPS", 30)
            return finetune(make_seeing(), seeing_clip, settings["sources"], out, options, settings["held_out"])

    return run


@pytest.fixture(scope="module")
def whole(seeing: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was not cut off. Shared: change nothing."""
    return seeing(tmp_path_factory.mktemp("whole") / "adapter")


@pytest.fixture(scope="module")
def llava_adapter(
    tiny_llava: Path, clip: Clip, pictures: list[LabelledImage], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """All three objectives in turn, on pixels. Shared: change nothing."""
    options = replace(OPTIONS, objectives=("likelihood", "choice", "generate"), modes=None, epochs=4)
    return finetune(load(str(tiny_llava)), clip, [pictures], tmp_path_factory.mktemp("llava") / "adapter", options)


class TestLearning:
    def test_the_loss_falls(self, whole: Path, llava_adapter: Path) -> None:
        losses = [line["loss"] for line in log_of(whole)[1:]]
        assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
        losses = [line["loss"] for line in log_of(llava_adapter)]
        for objective in range(3):  # they take turns
            own = losses[objective::3]
            assert np.mean(own[-3:]) < np.mean(own[:3])

    def test_the_loss_falls_with_exemplars_too(self, seeing: Run, tmp_path: Path) -> None:
        losses = [line["loss"] for line in log_of(seeing(tmp_path / "adapter", replace(OPTIONS, exemplars=True)))[1:]]
        assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])

    def test_nothing_is_left_but_the_adapter_its_training_set_and_its_log(
        self, whole: Path, llava_adapter: Path
    ) -> None:
        assert sorted(os.listdir(llava_adapter)) == LEFT
        assert sorted(os.listdir(whole)) == sorted([*LEFT, "projector.safetensors"])
        assert len((whole / "samples.jsonl").read_text().splitlines()) == 24

    def test_the_log_has_a_line_a_step_and_accuracy_where_it_was_saved(self, whole: Path) -> None:
        first, *steps = log_of(whole)
        assert first["step"] == 0
        assert 0 <= first["aligned"] <= 1
        assert [line["step"] for line in steps] == list(range(1, 19))
        measured = [line["step"] for line in steps if "held_out" in line]
        assert measured == [5, 10, 15, 18]
        assert steps[4].keys() == {"step", "loss", "held_out", "retrieval", "pictures", "seconds"}
        assert all(0 <= line["held_out"] <= 1 for line in steps if "held_out" in line)

    def test_the_adapter_says_what_it_is_for_and_how_it_was_made(self, whole: Path) -> None:
        made = json.loads((whole / "rar.json").read_text())
        assert (made["architecture"], made["dim"], made["layers"]) == ("seeing", 64, 2)
        assert made["made"]["options"]["lr"] == 1e-2
        assert made["made"]["parameters"]["projector"] == 33 * 4 * 64
        modes = json.loads((whole / "prompt.json").read_text())["modes"]
        assert modes == dict(MODES) | dict(SHORT)

    def test_the_model_is_left_without_dropout(
        self, make_seeing: Callable[[], Mllm], seeing_clip: Clip, pictures: list[LabelledImage], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr("rar.export.finetune.align.STEPS", 2)
        mllm = make_seeing()
        finetune(mllm, seeing_clip, [pictures], tmp_path / "adapter", replace(OPTIONS, epochs=0.1))
        assert not any(module.training for part in (mllm.vision, mllm.decoder) for module in part.modules())


class TestAdapter:
    def test_the_export_takes_it_and_ranks_otherwise(
        self, tiny_llava: Path, llava_adapter: Path, tmp_path: Path
    ) -> None:
        plain, adapted = load(str(tiny_llava)), load(str(tiny_llava))
        info = export_mllm(adapted, tmp_path / "bundle", adapter=llava_adapter)
        assert info["adapter"]["lora"]
        embeds = torch.randn(1, 9, 64)
        with torch.inference_mode():
            before, after = (mllm.language(inputs_embeds=embeds).last_hidden_state for mllm in (plain, adapted))
        assert (before - after).abs().max() > 0.05

    def test_a_projector_is_exported_beside_its_encoder(
        self, make_seeing: Callable[[], Mllm], whole: Path, features_bundle: Path, tmp_path: Path
    ) -> None:
        out = Path(shutil.copytree(features_bundle, tmp_path / "bundle"))
        mllm = make_seeing()
        info = export_mllm(mllm, out, adapter=whole)
        assert (info["adapter"]["lora"], info["adapter"]["projector"]) == (True, True)
        assert info["vision_input"] == "image_features"
        own = load_file(whole / "projector.safetensors")["widen.weight"]
        np.testing.assert_array_equal(mllm.vision.state_dict()["widen.weight"].numpy(), own.astype(np.float32))

    def test_it_does_not_fit_another_model(self, make_seeing: Callable[[], Mllm], llava_adapter: Path) -> None:
        with pytest.raises(ExportError, match="another model"):
            export_mllm(make_seeing(), "nowhere", adapter=llava_adapter)


class TestCutOff:
    @pytest.mark.parametrize("at", [3, 12])
    def test_a_resumed_run_ends_as_one_that_was_not(self, seeing: Run, whole: Path, tmp_path: Path, at: int) -> None:
        with cut_off(train._Trainer, at):
            seeing(tmp_path / "adapter")
        assert not (tmp_path / "adapter" / "rar.json").exists()
        with (tmp_path / "adapter" / "log.jsonl").open("a") as file:
            file.write('{"step": 4, "lo')  # the line that was being written
        seeing(tmp_path / "adapter")
        found, expected = weights(tmp_path / "adapter"), weights(whole)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, name)
        for own, other in zip(log_of(tmp_path / "adapter"), log_of(whole), strict=True):
            assert {**own, "seconds": 0} == {**other, "seconds": 0}
        assert sorted(os.listdir(tmp_path / "adapter")) == sorted(os.listdir(whole))

    def test_what_the_run_was_begun_with_must_be_the_same(
        self, seeing: Run, pictures: list[LabelledImage], tmp_path: Path
    ) -> None:
        out = tmp_path / "adapter"
        with cut_off(train._Trainer, 7):
            seeing(out)
        before = {path: path.read_bytes() for path in out.iterdir()}
        with pytest.raises(ExportError, match="unfinished run with other settings"):
            seeing(out, replace(OPTIONS, lr=2e-2))
        for other in (replace(OPTIONS, k=2), replace(OPTIONS, neighbours=3), replace(OPTIONS, seed=1)):
            with pytest.raises(ExportError, match="unfinished run on other pictures, k, neighbours or seed"):
                seeing(out, other)
        for source in ({"sources": [pictures[:-1]]}, {"held_out": pictures[1::2]}):
            with pytest.raises(ExportError, match="unfinished run on other pictures"):
                seeing(out, **source)
        assert {path: path.read_bytes() for path in out.iterdir()} == before

    def test_before_the_first_checkpoint_too(self, seeing: Run, tmp_path: Path) -> None:
        with cut_off(train._Trainer, 0):
            seeing(tmp_path / "adapter")
        with pytest.raises(ExportError, match="unfinished run on other pictures"):
            seeing(tmp_path / "adapter", replace(OPTIONS, k=2))

    def test_a_finished_folder_is_refused(self, seeing: Run, whole: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
        with pytest.raises(ExportError, match="holds a finished adapter"):
            seeing(whole)
        assert {path: path.stat().st_mtime_ns for path in whole.iterdir()} == before


class TestRefusals:
    def test_an_unknown_held_out_class_before_anything_is_written(
        self, seeing: Run, pictures: list[LabelledImage], tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match="held-out class 'zebra'"):
            seeing(tmp_path / "adapter", held_out=[*pictures, LabelledImage(pictures[0].path, "zebra")])
        assert os.listdir(tmp_path) == []

    def test_too_few_classes_leave_nothing(self, seeing: Run, pictures: list[LabelledImage], tmp_path: Path) -> None:
        with pytest.raises(InputError, match="lists of 3"):
            seeing(tmp_path / "adapter", sources=[pictures[:6]], held_out=())
        assert os.listdir(tmp_path) == []

    def test_an_encoder_without_features(
        self, make_seeing: Callable[[], Mllm], clip: Clip, pictures: list[LabelledImage], tmp_path: Path
    ) -> None:
        with pytest.raises(ExportError, match="gives no image_features"):
            finetune(make_seeing(), clip, [pictures], tmp_path / "adapter", OPTIONS)
        assert os.listdir(tmp_path) == []

    def test_features_of_another_shape(
        self, make_seeing: Callable[[], Mllm], seeing_clip: Clip, pictures: list[LabelledImage], tmp_path: Path
    ) -> None:
        with pytest.raises(ExportError, match=r"features are \(1, 32\); a test's takes \(9, 1280\)"):
            finetune(replace(make_seeing(), vision_shape=(9, 1280)), seeing_clip, [pictures], tmp_path / "a", OPTIONS)

    def test_a_loss_that_is_no_number_ends_the_run_without_an_adapter(self, seeing: Run, tmp_path: Path) -> None:
        wild = replace(OPTIONS, lr=0.99, projector_lr=0.99, epochs=40)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "schedule", lambda step, steps: 1e30)
            with pytest.raises(ExportError, match=r"the loss became .* at step \d+; begin anew with lower learning"):
                seeing(tmp_path / "adapter", wild)
        assert not (tmp_path / "adapter" / "rar.json").exists()

    def test_a_folder_that_is_a_file(self, seeing: Run, tmp_path: Path) -> None:
        (tmp_path / "adapter").write_text("mine")
        with pytest.raises(ExportError, match="cannot be written"):
            seeing(tmp_path / "adapter")
        assert (tmp_path / "adapter").read_text() == "mine"

    @pytest.mark.parametrize(
        "change",
        [
            {"objectives": ()}, {"objectives": "likelihood"}, {"objectives": ("guess",)}, {"epochs": 0},
            {"epochs": float("nan")}, {"epochs": float("inf")}, {"batch": 0}, {"rank": -1}, {"save_every": 0},
            {"views": 0}, {"lr": 0}, {"lr": 1}, {"projector_lr": float("nan")}, {"dropout": 1}, {"seed": -1},
            {"modes": []}, {"modes": {"guess": {}}}, {"modes": {"choice": "What?"}},
            {"modes": {"choice": {"qestion": "What?"}}}, {"modes": {"choice": {"question": 3}}},
        ],
    )  # fmt: skip
    def test_settings_that_cannot_be(self, change: dict[str, Any]) -> None:
        with pytest.raises(InputError):
            replace(OPTIONS, **change)


class TestCommand:
    def test_from_folders_to_an_adapter(
        self, tiny_llava: Path, tiny_bundle: Path, labelled_folder: Path, tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        (tmp_path / "prompts.json").write_text(json.dumps(SHORT))
        out = tmp_path / "adapter"
        argv = ["finetune", str(out), "--bundle", str(tiny_bundle), "--images", str(labelled_folder)]
        argv += ["--model", str(tiny_llava), "--val", str(labelled_folder), "--prompts", str(tmp_path / "prompts.json")]
        argv += ["--k", "2", "--neighbours", "3", "--epochs", "0.2", "--batch", "2", "--objective", "choice"]
        assert main(argv) == 0
        assert f"--model {tiny_llava} --adapter {out}" in capsys.readouterr().out
        assert sorted(os.listdir(out)) == LEFT
        assert json.loads((out / "rar.json").read_text())["made"]["options"]["objectives"] == ["choice"]

    def test_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            main(["finetune", "--help"])
        assert end.value.code == 0
        assert "(default: 1e-05)" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("extra", "message"),
        [
            (["--images", "nowhere"], "nowhere: no such folder"),
            (["--prompts", "nowhere.json"], r"nowhere.json: cannot be read"),
            (["--seed", "-1"], "seed=-1"),
            (["--lr", "2"], "learning rates below 1"),
        ],
    )
    def test_bad_input_is_one_line(
        self, tiny_llava: Path, tiny_bundle: Path, labelled_folder: Path, tmp_path: Path,
        capsys: pytest.CaptureFixture[str], extra: list[str], message: str,
    ) -> None:  # fmt: skip
        argv = ["finetune", str(tmp_path / "out"), "--bundle", str(tiny_bundle), "--images", str(labelled_folder)]
        assert main([*argv, "--model", str(tiny_llava), *extra]) == 2
        out, err = capsys.readouterr()
        assert (out, len(err.splitlines())) == ("", 1)
        assert message in err
        assert os.listdir(tmp_path) == []
