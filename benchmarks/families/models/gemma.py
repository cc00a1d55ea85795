# ruff: noqa: S106  # tokens of a vocabulary are no passwords
"""Gemma 3."""

from __future__ import annotations

from pathlib import Path

from .parts import LLAMA, Shape, library, save, sentencepiece_like

# That of google/gemma-3-4b-it, less what it says of system messages and of turns out of order.
GEMMA_CHAT = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}{{ '<start_of_image>' }}"
    "{% elif item['type'] == 'text' %}{{ item['text'] | trim }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


TINY = Shape(
    56,
    {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14,
    },
    {
        **LLAMA, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 448,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    {"mm_tokens_per_image": 4},
)  # fmt: skip


def write_gemma3(folder: Path, shape: Shape = TINY) -> Path:
    """Gemma 3: SigLIP, pooling, local and global layers; 4 tokens a picture in the tiny model."""
    import torch

    transformers = library("Gemma3Config")
    extra = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=sentencepiece_like("none"), bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token="<pad>", chat_template=GEMMA_CHAT, extra_special_tokens=extra,
    )  # fmt: skip
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>", *extra.values()]},
    )
    tokenizer.save_pretrained(folder)
    transformers.Gemma3ImageProcessor(
        size={"height": shape.picture, "width": shape.picture}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)
    begin, end, image = tokenizer.convert_tokens_to_ids(list(extra.values()))
    torch.manual_seed(0)
    config = transformers.Gemma3Config(
        vision_config=transformers.SiglipVisionConfig(**shape.vision, image_size=shape.picture, vision_use_head=False),
        text_config=transformers.Gemma3TextConfig(**{"vocab_size": len(tokenizer), **shape.text}),
        boi_token_index=begin,
        eoi_token_index=end,
        image_token_index=image,
        **shape.model,
    )
    model = transformers.Gemma3ForConditionalGeneration(config)
    with torch.no_grad():
        # It begins at zero, and pictures would not be seen.
        model.model.multi_modal_projector.mm_input_projection_weight.normal_(0, 0.5)
        # Else the scaled embeddings outweigh the layers, and each token is followed by itself.
        for layer in model.model.language_model.layers:
            layer.post_attention_layernorm.weight.fill_(8)
            layer.post_feedforward_layernorm.weight.fill_(8)
    stop = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    return save(model, stop, folder, shape)
