"""Annotating: what the MLLM writes, where the detector finds it, and a run that is cut off."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rar.export.cli import main
from rar.export.grain import describe
from rar.export.grain.annotate import annotate
from rar.export.grain.annotations import DescribedBox, read_annotations
from rar.export.grain.describe import MAX_DESCRIPTIONS, Described, Describer, phrases
from rar.export.grain.detect import Detector
from rar.export.mllm.model import Mllm
from rar.export.mllm.source import load
from rar.runtime import ExportError, InputError
from rar.runtime.picture.load import Pixels, load_image

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny_owlv2(hugging_face_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random OWLv2 in the Hugging Face layout."""
    import transformers

    folder = tmp_path_factory.mktemp("owlv2")
    tokenizer = transformers.CLIPTokenizerFast.from_pretrained(hugging_face_clip, model_max_length=16)
    images = transformers.Owlv2ImageProcessor(size={"height": 48, "width": 48})
    transformers.Owlv2Processor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = transformers.Owlv2Config(
        text_config={**shape, "vocab_size": len(tokenizer), "max_position_embeddings": 16},
        vision_config={**shape, "image_size": 48, "patch_size": 8},
        projection_dim=32,
    )
    model = transformers.Owlv2ForObjectDetection(config)
    for weight in model.box_head.parameters():  # or all boxes are alike
        torch.nn.init.normal_(weight, std=0.3)
    for weight in model.class_head.parameters():  # or all scores are 1 where transformers 5 starts the weights
        torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def detector(tiny_owlv2: Path) -> Detector:
    return Detector(str(tiny_owlv2), CPU)


@pytest.fixture(scope="module")
def mllm(tiny_smolvlm: Path) -> Mllm:
    return load(str(tiny_smolvlm))


def wide(photos: list[Path]) -> Pixels:
    return np.ascontiguousarray(load_image(photos[0])[:120, :200])


class TestDetector:
    def test_finds_what_transformers_finds(self, detector: Detector, tiny_owlv2: Path, photos: list[Path]) -> None:
        import transformers

        pixels, texts = wide(photos), ["a cat", "an eye of a cat", "grass"]
        found = detector(pixels, texts, 0.0, 1000)
        processor = transformers.Owlv2Processor.from_pretrained(tiny_owlv2)
        model = transformers.Owlv2ForObjectDetection.from_pretrained(tiny_owlv2).eval()
        inputs = processor(text=[texts], images=Image.fromarray(pixels), return_tensors="pt")
        with torch.no_grad():
            (own,) = processor.post_process_grounded_object_detection(
                model(**inputs), threshold=0.0, target_sizes=[(120, 200)], text_labels=[texts]
            )
        boxes = own["boxes"].numpy().clip(0, (200, 120, 200, 120))
        inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
        assert 10 < len(found) == inside.sum()
        order = np.argsort(-own["scores"].numpy()[inside], kind="stable")
        np.testing.assert_allclose([region.box for region in found], boxes[inside][order], atol=0.02)
        assert [region.description for region in found] == [
            own["text_labels"][place] for place in np.flatnonzero(inside)[order]
        ]

    def test_keeps_the_surest_above_the_threshold(self, detector: Detector, photos: list[Path]) -> None:
        everything = detector(wide(photos), ["a cat", "grass"], 0.0, 1000)
        scores = [region.score for region in everything]
        assert scores == sorted(scores, reverse=True)
        middle = (scores[4] + scores[5]) / 2
        assert scores[4] > scores[5]
        assert detector(wide(photos), ["a cat", "grass"], middle, 3) == everything[:3]
        assert detector(wide(photos), ["a cat", "grass"], middle, 1000) == everything[:5]
        assert detector(wide(photos), ["a cat", "grass"], 1.0, 5) == []
        assert detector(wide(photos), [], 0.0, 5) == []

    def test_long_descriptions_are_cut(self, detector: Detector, photos: list[Path]) -> None:
        assert detector(wide(photos), ["word " * 60], 0.0, 1)[0].description == "word " * 60

    def test_a_folder_without_a_model_or_with_half_of_it(self, tiny_owlv2: Path, tmp_path: Path) -> None:
        with pytest.raises(ExportError, match="cannot load the processor"):
            Detector(str(tmp_path), CPU)
        import shutil

        from safetensors.torch import load_file, save_file

        half = Path(shutil.copytree(tiny_owlv2, tmp_path / "half"))
        tensors = load_file(half / "model.safetensors")
        del tensors["box_head.dense0.weight"]
        save_file(tensors, half / "model.safetensors", {"format": "pt"})
        with pytest.raises(ExportError, match=r"1 weights are missing .* box_head.dense0.weight"):
            Detector(str(half), CPU)


class TestDescriber:
    def test_asks_as_the_models_own_processor_would(self, mllm: Mllm, photos: list[Path]) -> None:
        pixels = np.ascontiguousarray(wide(photos)[:, :120])
        assert mllm.reference_tokens is not None
        assert mllm.reference_preprocess is not None
        own = mllm.reference_tokens(describe._INSTRUCTION, describe._SUBJECT, "")
        ids = [token for one in own for token in ([one] * (mllm.image_tokens if one == mllm.image_token else 1))]
        picture = torch.from_numpy(mllm.reference_preprocess(Image.fromarray(pixels)))[None]
        inputs = mllm.reference_inputs(torch.tensor([ids]), picture)
        reference = mllm.reference
        written = reference.generate(**inputs, max_new_tokens=describe._SUBJECT_TOKENS, do_sample=False)[0]  # type: ignore[operator]
        text = mllm.tokenizer.decode(written[len(ids) :].tolist())
        found = Describer(mllm, CPU)(pixels)
        assert found.caption == " ".join(text.split())[:200]
        assert Describer(mllm, CPU)(pixels) == found

    def test_an_mllm_that_does_not_see_pixels(self, mllm: Mllm) -> None:
        from dataclasses import replace

        with pytest.raises(ExportError, match="describe pictures with a whole MLLM"):
            Describer(replace(mllm, preprocess=None), CPU)

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("1. a red cap\n2) brown eyes.\n", ["a red cap", "brown eyes"]),
            ("- a red cap;\n* a red cap\n• A RED CAP\n", ["a red cap"]),
            ('Here they are:\n\n"a  red   cap"\n', ["a red cap"]),
            ("(3) 1.5 litre bottle\n1.5 litre bottle", ["1.5 litre bottle"]),
            ("", []),
            ("x" * 300, []),
        ],
    )
    def test_an_answer_s_lines_become_phrases(self, text: str, found: list[str]) -> None:
        assert phrases(text) == found

    @given(st.text())
    def test_any_answer_gives_few_distinct_clean_phrases(self, text: str) -> None:
        found = phrases(text)
        assert len(found) <= MAX_DESCRIPTIONS
        assert len({phrase.lower() for phrase in found}) == len(found)
        assert all(phrase and "\n" not in phrase and len(phrase) <= 200 for phrase in found)


class Asked:
    """A describer and a detector that count, for what goes on around them."""

    def __init__(self, stop: int = 99) -> None:
        self.count, self.stop = 0, stop

    def describe(self, pixels: Pixels) -> Described:
        if self.count == self.stop:
            raise KeyboardInterrupt
        self.count += 1
        return Described(f"a picture {pixels.shape[1]} wide", ["a thing", "another"])

    def detect(self, pixels: Pixels, descriptions: Sequence[str], threshold: float, top: int) -> list[DescribedBox]:
        return [DescribedBox((1.0, 2.0, 30.0, 40.0), text, 0.5) for text in descriptions][:top]


class TestRun:
    def test_lines_can_be_trained_with(self, class_pictures: list[Path], tmp_path: Path) -> None:
        asked = Asked()
        found = annotate(class_pictures, tmp_path / "new" / "a.jsonl", asked.describe, asked.detect, top=1)
        assert (found.lines, found.broken) == (12, [])
        lines = read_annotations(tmp_path / "new" / "a.jsonl").lines
        assert [line.path.resolve() for line in lines] == [path.resolve() for path in class_pictures]
        assert {line.caption for line in lines} == {"a picture 100 wide"}
        assert lines[0].regions == (DescribedBox((1.0, 2.0, 30.0, 40.0), "a thing", 0.5),)

    def test_goes_on_where_it_was_cut_off(self, class_pictures: list[Path], tmp_path: Path) -> None:
        out, first, second = tmp_path / "a.jsonl", Asked(stop=5), Asked()
        with pytest.raises(KeyboardInterrupt):
            annotate(class_pictures, out, first.describe, first.detect)
        out.write_bytes(out.read_bytes() + b'{"path": "half')
        annotate(class_pictures, out, second.describe, second.detect)
        assert second.count == 7
        paths = [json.loads(line)["path"] for line in out.read_text().splitlines()]
        assert paths == [os.path.relpath(path, tmp_path) for path in class_pictures]

    def test_broken_pictures_are_named_and_passed_over(self, class_pictures: list[Path], tmp_path: Path) -> None:
        (tmp_path / "broken.png").write_bytes(b"no")
        asked = Asked()
        pictures = [tmp_path / "broken.png", *class_pictures[:2]]
        found = annotate(pictures, tmp_path / "a.jsonl", asked.describe, asked.detect)
        assert (found.lines, found.broken) == (2, [tmp_path / "broken.png"])

    @pytest.mark.parametrize("content", ["[]\n", '{"a": 1}\n', "x\n", '{"path": [1]}\n'])
    def test_a_file_of_another_kind_is_left_alone(self, content: str, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text(content)
        asked = Asked()
        with pytest.raises(ExportError, match="no annotations"):
            annotate([], tmp_path / "a.jsonl", asked.describe, asked.detect)
        assert (tmp_path / "a.jsonl").read_text() == content

    @pytest.mark.parametrize(("threshold", "top"), [(-0.1, 5), (1.1, 5), (float("nan"), 5), (0.3, 0)])
    def test_settings_out_of_range(self, threshold: float, top: int, tmp_path: Path) -> None:
        asked = Asked()
        with pytest.raises(InputError, match="give a threshold of 0 to 1 and 1 box or more"):
            annotate([], tmp_path / "a.jsonl", asked.describe, asked.detect, threshold, top)
        assert not (tmp_path / "a.jsonl").exists()

    def test_the_command(
        self,
        tiny_smolvlm: Path,
        tiny_owlv2: Path,
        class_pictures: list[Path],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        writable: Callable[[Path], Path],
    ) -> None:
        folder = writable(class_pictures[0].parent)
        (folder / "z.jpg").write_bytes(b"broken")
        out = tmp_path / "a.jsonl"
        argv = ["grain", "annotate", str(out), "--images", str(folder), "--mllm", str(tiny_smolvlm)]
        assert main([*argv, "--detector", str(tiny_owlv2), "--threshold", "0.01", "--top", "2"]) == 0
        said = capsys.readouterr().out
        assert f"1 pictures cannot be read, as {folder / 'z.jpg'}" in said
        assert "3 pictures; train with" in said
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert len(rows) == 3
        for row in rows:
            assert (out.parent / row["path"]).is_file()
            assert len(row["boxes"]) <= 2
