# ruff: noqa: S106  # tokens of a vocabulary are no passwords
"""Tiny random models in the layouts that people have on disk."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="session")
def hugging_face_clip(pytorch: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random transformers CLIP with OpenAI's own vocabulary, which open_clip ships."""
    import torch
    import transformers
    from open_clip.tokenizer import SimpleTokenizer, default_bpe

    vocabulary = {
        {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}.get(token, token): position
        for token, position in SimpleTokenizer().encoder.items()
    }
    folder = tmp_path_factory.mktemp("hf-clip")
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    with gzip.open(default_bpe()) as file:
        merges = file.read().decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    tokenizer = transformers.CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.save_pretrained(folder)
    end = len(vocabulary) - 1
    text = {**SHAPE, "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    # Towers of unequal width and depth, as TinyCLIP has them.
    vision = {**SHAPE, "hidden_size": 48, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    transformers.CLIPModel(config).save_pretrained(folder)
    return _write_clip_images(folder)


@pytest.fixture(scope="session")
def hugging_face_siglip(pytorch: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random transformers SigLIP with a small sentencepiece model trained on the spot."""
    import sentencepiece
    import transformers

    from rar.export.encoder.parity import sample_strings

    folder = tmp_path_factory.mktemp("hf-siglip")
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(text.lower().replace("\n", " ") for text in sample_strings(1000, seed=1)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "spiece"), vocab_size=200, model_type="unigram",
        pad_id=-1, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>", character_coverage=0.99,
        normalization_rule_name="nmt_nfkc", minloglevel=2, num_threads=1,
    )  # fmt: skip
    tokenizer = transformers.SiglipTokenizer(str(folder / "spiece.model"), model_max_length=64)
    tokenizer.save_pretrained(folder)
    return _write_siglip(folder, len(tokenizer), resample=3)


@pytest.fixture(scope="session")
def hugging_face_siglip2(pytorch: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random SigLIP 2: SigLIP with Gemma's tokens, which keep upper case."""
    import transformers
    from tiny_mllm import sentencepiece_like
    from tokenizers import processors

    folder = tmp_path_factory.mktemp("hf-siglip2")
    made = sentencepiece_like("none")
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="</s>", unk_token="<unk>", pad_token="<unk>", padding_side="right"
    )
    tokenizer.save_pretrained(folder)
    return _write_siglip(folder, len(tokenizer), resample=2)


@pytest.fixture(scope="session")
def hugging_face_metaclip2(pytorch: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random MetaCLIP 2: CLIP with the tokens of XLM-V, a sentencepiece model that ends a text by 2."""
    import torch
    import transformers
    from tiny_mllm import sentencepiece_like
    from tokenizers import processors

    folder = tmp_path_factory.mktemp("hf-metaclip2")
    made = sentencepiece_like("first")
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.MetaClip2Config(
        text_config={**SHAPE, "vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        vision_config={**SHAPE, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    transformers.MetaClip2Model(config).save_pretrained(folder)
    return _write_clip_images(folder)


@pytest.fixture(scope="session")
def hugging_face_dinov2(pytorch: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random DINOv2: a picture tower alone."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("hf-dinov2")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    transformers.Dinov2Model(config).save_pretrained(folder)
    transformers.BitImageProcessor(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, resample=3
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def hugging_face_dinov3(pytorch: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random DINOv3: rotary positions, four registers, pictures resized in floating point."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("hf-dinov3")
    torch.manual_seed(0)
    config = transformers.DINOv3ViTConfig(**SHAPE, image_size=32, patch_size=8, num_register_tokens=4)
    transformers.DINOv3ViTModel(config).save_pretrained(folder)
    # The second is transformers 4's name for the same.
    kind = getattr(transformers, "DINOv3ViTImageProcessor", None) or transformers.DINOv3ViTImageProcessorFast
    kind(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def _write_siglip(folder: Path, vocabulary: int, resample: int) -> Path:
    """A SigLIP of random weights, without its tokenizer."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.SiglipConfig(
        text_config={**SHAPE, "vocab_size": vocabulary, "max_position_embeddings": 64, "projection_size": 32},
        vision_config={**SHAPE, "image_size": 32, "patch_size": 8},
    )
    transformers.SiglipModel(config).save_pretrained(folder)
    transformers.SiglipImageProcessor(
        size={"height": 32, "width": 32}, resample=resample, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)
    return folder


def _write_clip_images(folder: Path) -> Path:
    """CLIP's image processor for squares of 32 pixels."""
    import transformers

    square = {"height": 32, "width": 32}
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=square).save_pretrained(folder)
    return folder
