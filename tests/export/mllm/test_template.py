"""The resolved chat templates: the runtime's ids are those of the models' own processors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_mllm
import tokenizers
import transformers
from PIL import Image

from rar.export.compat import image_processor
from rar.export.mllm.prompt import LABELS, compare_tokens, prompt_settings, read_prompt
from rar.export.mllm.source import load
from rar.export.mllm.template import plain_tokenizer, resolve
from rar.runtime import ExportError
from rar.runtime.rank.mllm.prompt import LETTERS, list_names
from rar.runtime.rank.mllm.tree import PICTURE


def processor(name: str, folder: Path) -> Any:
    """The model's own processor, for one tile of the fixed size."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    images = image_processor(str(folder))
    chat = tokenizer.chat_template
    if name == "llava":
        return transformers.AutoProcessor.from_pretrained(folder)
    if name == "fastvlm":
        return transformers.LlavaProcessor(
            images, tokenizer, patch_size=64, vision_feature_select_strategy="full", chat_template=chat
        )
    if name == "lfm2vl":
        if transformers.__version__.startswith("4."):  # 5 knows them
            tokenizer.image_start_token, tokenizer.image_end_token = "<|image_start|>", "<|image_end|>"
            tokenizer.image_thumbnail = "<|img_thumbnail|>"
        return transformers.Lfm2VlProcessor(images, tokenizer, chat_template=chat)
    if name == "gemma3":
        return transformers.Gemma3Processor(images, tokenizer, chat_template=chat, image_seq_length=4)
    if name == "qwen3vl":
        videos = transformers.Qwen3VLVideoProcessor()
        return transformers.Qwen3VLProcessor(images, tokenizer, videos, chat_template=chat)
    if name == "smolvlm":
        # SmolVLM's processor writes the same and wants a package for its videos.
        plain = transformers.Idefics3ImageProcessor(**{**images.to_dict(), "do_image_splitting": False})
        return transformers.Idefics3Processor(plain, tokenizer, image_seq_len=4, chat_template=chat)
    if name == "qwen25vl":
        videos = transformers.Qwen2VLVideoProcessor()
        return transformers.Qwen2_5_VLProcessor(images, tokenizer, videos, chat_template=chat)
    images.crop_to_patches = False
    videos = transformers.InternVLVideoProcessor()
    return transformers.InternVLProcessor(images, tokenizer, videos, image_seq_length=4, chat_template=chat)


@pytest.mark.parametrize("name", ["llava", "fastvlm", "smolvlm", "qwen25vl", "qwen3vl", "gemma3", "internvl", "lfm2vl"])
def test_ids_are_those_of_the_models_own_processor(name: str, tiny_mllm_folder: Callable[[str], Path]) -> None:
    folder = tiny_mllm_folder(name)
    mllm, own = load(str(folder)), processor(name, folder)
    prompt = read_prompt(prompt_settings(mllm), mllm.tokenizer)
    picture = Image.new("RGB", mllm.vision_shape[1:])
    for mode, texts in prompt.modes.items():
        for names in (LABELS[:3], LABELS[3:8], LABELS[8:]):
            question = texts["question"].replace("{k}", str(len(names)))
            question = question.replace("{candidates}", list_names(mode, names))  # type: ignore[arg-type]
            parts = [
                {"type": "text", "text": texts["instruction"]},
                {"type": "image"},
                {"type": "text", "text": question},
            ]
            chat = own.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
            more = {"images_kwargs": {"crop_to_patches": False}} if name == "internvl" else {}
            wanted = own(images=[picture], text=chat, add_special_tokens=name == "llava", **more)["input_ids"]
            found = [*prompt.head(mode), *prompt.picture(mode), *prompt.tail(mode, names)]  # type: ignore[arg-type]
            assert np.where(np.array(found) == PICTURE, mllm.image_token, found).tolist() == list(np.ravel(wanted))


@pytest.mark.parametrize("name", ["smolvlm", "qwen25vl", "qwen3vl", "gemma3", "internvl", "lfm2vl"])
def test_ids_with_exemplars_are_those_of_the_models_own_processor(
    name: str, tiny_mllm_folder: Callable[[str], Path]
) -> None:
    folder = tiny_mllm_folder(name)
    mllm, own = load(str(folder)), processor(name, folder)
    prompt = read_prompt(prompt_settings(mllm), mllm.tokenizer).of_several()
    texts, names = prompt.modes["likelihood"], LABELS[3:6]
    question = texts["question"].replace("{candidates}", list_names("likelihood", names))
    parts: list[dict[str, str]] = [{"type": "text", "text": texts["instruction"]}]
    for label in names:
        parts += [{"type": "text", "text": f"A photo of {label}: "}, {"type": "image"}, {"type": "text", "text": "\n"}]
    parts += [{"type": "image"}, {"type": "text", "text": question}]
    chat = own.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    more = {"images_kwargs": {"crop_to_patches": False}} if name == "internvl" else {}
    shown = [Image.new("RGB", mllm.vision_shape[1:])] * 4
    wanted = own(images=shown, text=chat, add_special_tokens=False, **more)["input_ids"]
    found = [*prompt.opening("likelihood", names), *prompt.tail("likelihood", names)]
    assert np.where(np.array(found) == PICTURE, mllm.image_token, found).tolist() == list(np.ravel(wanted))


@pytest.mark.parametrize(
    ("name", "several"), [("llava", False), ("fastvlm", False), ("llava_onevision", True), ("smolvlm2", True)]
)
def test_families_that_take_one_picture_have_no_form_for_exemplars(
    name: str, several: bool, tiny_mllm_folder: Callable[[str], Path]
) -> None:
    mllm = load(str(tiny_mllm_folder(name)))
    assert (mllm.exemplars is not None) == ("exemplars" in prompt_settings(mllm)) == several


def test_sentencepieces_prefix_for_the_beginning_only_is_written_out(tmp_path: Path) -> None:
    mllm = load(str(tiny_mllm.write_llava(tmp_path, prepend="first")))
    assert mllm.template[1] == " USER: "
    assert compare_tokens(mllm, read_prompt(prompt_settings(mllm), mllm.tokenizer)) == {"equal": 60, "count": 60}


def test_qwens_default_system_prompt_is_part_of_the_template(tiny_qwen25vl: Path) -> None:
    mllm = load(str(tiny_qwen25vl))
    assert mllm.template[1] == "system\nYou are a helpful assistant."
    slots = [piece["slot"] for piece in mllm.template if isinstance(piece, dict) and "slot" in piece]
    assert slots == ["instruction", "image", "question"]


def test_an_answer_is_led_by_what_the_models_chat_has_there(
    tiny_llava: Path, tiny_smolvlm: Path, tiny_internvl: Path
) -> None:
    assert [load(str(folder)).lead for folder in (tiny_llava, tiny_smolvlm, tiny_internvl)] == [" ", " ", ""]


@pytest.mark.parametrize("name", ["fastvlm", "lfm2vl"])
def test_nothing_leads_an_answer_that_follows_its_line_at_once(
    name: str, tiny_mllm_folder: Callable[[str], Path]
) -> None:
    assert load(str(tiny_mllm_folder(name))).lead == ""


def test_every_letter_is_one_token_of_its_own(model: Any) -> None:
    letters = json.loads((model.bundle / "mllm" / "prompt.json").read_text())["letters"]
    assert list(letters) == list(LETTERS)
    assert len(set(letters.values())) == 26
    decoded = [model.mllm.tokenizer.decode([token]).strip() for token in letters.values()]
    assert decoded == list(LETTERS)


def test_the_exported_tokenizer_neither_pads_nor_truncates(model: Any) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(model.bundle / "mllm" / "tokenizer.json"))
    assert tokenizer.padding is None
    assert tokenizer.truncation is None


def test_a_model_without_a_chat_template_gets_a_plain_layout(tiny_internvl: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_internvl)
    tokenizer.chat_template = None
    template = resolve(tokenizer, "<IMG_CONTEXT>", ["<img>", "<IMG_CONTEXT>", "</img>"])
    (begin,), (end,) = (tokenizer.encode(text) for text in ("<img>", "</img>"))
    assert template.pieces == [
        {"slot": "instruction"}, "\n", {"ids": [begin]}, {"slot": "image"}, {"ids": [end]}, "\n",
        {"slot": "question"}, "\nAnswer:",
    ]  # fmt: skip
    assert template.lead == " "


def test_a_template_for_strings_only_gets_the_picture_between_the_texts(tiny_internvl: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_internvl)
    tokenizer.chat_template = "{% for m in messages %}{{ 'Q: ' + m['content'] + '\n' }}{% endfor %}A:"
    template = resolve(tokenizer, "<IMG_CONTEXT>", ["<IMG_CONTEXT>"])
    assert template.pieces[:3] == ["Q: ", {"slot": "instruction"}, "\n"]


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ExportError, match=r"no tokenizer\.json"):
        plain_tokenizer(Slow())


def test_tiles_stand_in_the_prompt_as_the_processor_writes_them(tiny_smolvlm: Path) -> None:
    mllm = load(str(tiny_smolvlm), 2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_smolvlm)
    images = transformers.Idefics3ImageProcessor(**image_processor(str(tiny_smolvlm)).to_dict())
    own = transformers.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=tokenizer.chat_template)
    parts = [{"type": "text", "text": "Look."}, {"type": "image"}, {"type": "text", "text": "What?"}]
    chat = own.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    wanted = own(images=[Image.new("RGB", (128, 128))], text=chat, add_special_tokens=False)["input_ids"][0]
    found: list[int] = []
    for token in mllm.reference_tokens("Look.", "What?", ""):  # type: ignore[misc]
        found += [token] * (4 if token == mllm.image_token else 1)
    assert found == wanted
    assert (mllm.image_tokens, mllm.preprocess.size) == (20, 128)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["smolvlm", "internvl"])
def test_tiles_are_what_transformers_makes_of_the_parts(name: str, request: pytest.FixtureRequest) -> None:
    import torch

    mllm = load(str(request.getfixturevalue(f"tiny_{name}")), 2)
    pixels = torch.randn(2, *mllm.vision_shape)
    side = pixels.shape[-1] // 2
    quarter = pixels[1, :, :side, side:]
    with torch.inference_mode():
        embeds = mllm.vision(pixels)
        alone = mllm.vision.vision(quarter[None])[0]  # type: ignore[operator]
    assert embeds.shape == (2, 20, 64)
    torch.testing.assert_close(embeds[1, 4:8], alone, atol=1e-4, rtol=1e-4)


def test_a_tower_without_a_class_token_has_one_token_a_patch(tiny_mllm_folder: Callable[[str], Path]) -> None:
    assert load(str(tiny_mllm_folder("llava_siglip"))).image_tokens == 16
    # The end of a line follows.
    assert load(str(tiny_mllm_folder("llava_onevision"))).image_tokens == 17


def test_gemmas_prompts_are_kept_within_the_window_of_its_local_layers(tiny_mllm_folder: Callable[[str], Path]) -> None:
    mllm = load(str(tiny_mllm_folder("gemma3")))
    assert (mllm.context, mllm.whole_picture) == (448, True)
