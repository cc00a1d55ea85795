"""Milliseconds a picture of ranking five names, beside transformers on the same GPU at fp16."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from rar.runtime.bundle.manifest import Bundle
from rar.runtime.picture.load import load_image
from rar.runtime.rank.mllm.ranker import MllmOptions
from rar.runtime.rank.mllm.tree import PICTURE

from ..rank.ways import Asked, Way, open_ours, prepare
from .models import LLAVA
from .parity import queries
from .step import Row, Setting, ratio, side_by_side

_BATCHES = (1, 8)
_WAYS = (
    MllmOptions("likelihood"),
    MllmOptions("choice", "calibrate"),
    MllmOptions("choice", "rotate"),
    MllmOptions("generate"),
)


def run(setting: Setting) -> Iterator[Row]:
    """Every way and batch against `generate`, and against one forward pass, which is the least that can be done."""
    for name in ("b32-fp16", "l14-fp16"):
        asked, lengths = _asked(setting, name)
        ours = open_ours(str(setting.models / name), setting.provider, None, asked)
        baselines = _baselines(setting, name, asked[0])
        yield from _rows(setting, name, ours, baselines, lengths)


def _rows(
    setting: Setting,
    name: str,
    ours: Callable[[tuple[Way, list[int]]], float],
    baselines: dict[str, Callable[[], Any]],
    lengths: dict[str, float],
) -> Iterator[Row]:
    for options in _WAYS:
        for batch in _BATCHES:
            way = Way(options, batch)
            places = list(range(batch))
            timed = side_by_side({"ours": partial(ours, (way, places)), **baselines}, setting.slice)
            # A baseline answers one picture a call.
            each = replace(timed["ours"], seconds=[seconds / batch for seconds in timed["ours"].seconds])
            yield {
                "model": name, "way": way.title, "batch": batch, "tokens": lengths,
                "timed": {who: one.row(batch if who == "ours" else 1) for who, one in timed.items()},
                "ratios": {who: ratio(each, timed[who]) for who in baselines},
            }  # fmt: skip


def _asked(setting: Setting, name: str) -> tuple[list[Asked], dict[str, float]]:
    paths = [setting.pictures[place % len(setting.pictures)] for place in range(max(_BATCHES))]
    candidates = queries(setting, 1)[0].candidates
    return prepare(Bundle.open(setting.models / name), [Asked(path, candidates) for path in paths])


def _baselines(setting: Setting, name: str, asked: Asked) -> dict[str, Callable[[], Any]]:
    """LLaVA in transformers, of the same shape with random weights, fp16, attention by PyTorch's fused kernels."""
    import torch
    import transformers

    bundle = Bundle.open(setting.models / name)
    settings = json.loads((setting.models / name / LLAVA).read_text(encoding="utf-8"))
    config: Any = transformers.LlavaConfig(**settings)
    torch.manual_seed(0)
    dtype = torch.float16 if setting.provider == "cuda" else torch.float32
    torch.set_default_dtype(dtype)
    try:
        with torch.device(setting.torch_device):
            model = transformers.LlavaForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    stop = bundle.read_json("mllm", "prompt.json")["stop_ids"][0]
    ids = np.array(asked.ids, np.int64)
    row = torch.from_numpy(np.where(ids == PICTURE, config.image_token_index, ids))[None].to(setting.torch_device)
    side = config.vision_config.image_size
    picture = torch.from_numpy(_pixels(asked, side)).to(setting.torch_device, dtype)
    inputs = {"input_ids": row, "attention_mask": torch.ones_like(row), "pixel_values": picture}

    def generate() -> Any:
        with torch.inference_mode():
            return model.generate(
                **inputs, min_new_tokens=asked.answer, max_new_tokens=asked.answer, do_sample=False, num_beams=1,
                use_cache=True, pad_token_id=stop,
            ).cpu()  # fmt: skip

    def forward() -> Any:
        with torch.inference_mode():
            return model(**inputs, logits_to_keep=1).logits.float().cpu()

    return {"transformers, generate": generate, "transformers, one forward pass": forward}


def _pixels(asked: Asked, side: int) -> Any:
    from PIL import Image

    picture = Image.fromarray(load_image(asked.path)).resize((side, side))
    return np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 255 - 0.5
