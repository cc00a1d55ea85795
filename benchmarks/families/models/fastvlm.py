# ruff: noqa: S106  # tokens of a vocabulary are no passwords
"""FastVLM."""

from __future__ import annotations

from pathlib import Path

from .parts import Shape, byte_level, library, save

# That of transformers' conversion of apple/FastVLM-0.5B.
FASTVLM_CHAT = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}"
    "{% endfor %}{{'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}"
)


# Five narrow stages; the last two attend by heads of 32, and a convolution doubles the width of the last.
TINY = Shape(128, {"hidden_size": 64, "layers": [1] * 5, "embed_dims": [16, 16, 32, 32, 32]})


def write_fastvlm(folder: Path, shape: Shape = TINY) -> Path:
    """FastVLM: FastViTHD, projector, Qwen2; a token for each 64 by 64 pixels, 4 in the tiny model.

    Raises:
        InputError: See `library`.
    """
    import torch

    transformers = library("FastVlmConfig")
    tokenizer = transformers.Qwen2TokenizerFast(
        tokenizer_object=byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"]),
        eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token="<|endoftext|>", chat_template=FASTVLM_CHAT,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    transformers.CLIPImageProcessor(
        size={"shortest_edge": shape.picture}, crop_size={"height": shape.picture, "width": shape.picture},
        image_mean=[0.0] * 3, image_std=[1.0] * 3,
    ).save_pretrained(folder)  # fmt: skip
    stages = {name: value for name, value in shape.vision.items() if name != "hidden_size"}
    torch.manual_seed(0)
    config = transformers.FastVlmConfig(
        vision_config={
            "model_type": "timm_wrapper", "architecture": "fastvit_mci3", "do_pooling": True, "global_pool": "avg",
            "hidden_size": shape.vision["hidden_size"], "model_args": {"inference_mode": True, **stages},
        },
        text_config=transformers.Qwen2Config(**{"vocab_size": len(tokenizer), **shape.text}),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(shape.picture // 64) ** 2,
        **shape.model,
    )  # fmt: skip
    model = transformers.FastVlmForConditionalGeneration(config)
    with torch.no_grad():
        # All begin near zero, and no picture would differ from another.
        for name, weight in model.model.vision_tower.named_parameters():
            if "layer_scale" in name:
                weight.fill_(1)
            elif weight.ndim > 1:
                weight.normal_(0, weight[0].numel() ** -0.5)
    return save(model, tokenizer.eos_token_id, folder, shape)
