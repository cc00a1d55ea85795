"""Aligns the projector before the language model is trained: it learns to produce a class's name.

Its tokens are pulled towards the language model's embeddings of the name's first tokens, and away from those of all
other classes. So the model starts with pictures that it can read as words. This is LLaVA's feature alignment (arXiv
2304.08485, section 4.2) without a pass through the language model, which makes it a hundred times cheaper.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from tqdm import tqdm

from rar.runtime.rank.mllm.prompt import Prompt, clean

from ..mllm.model import Mllm

STEPS = 800
_BATCH = 64
_PEAK = 3e-3
_TEMPERATURE = 0.05
_SMOOTHING = 0.1


def align(mllm: Mllm, prompt: Prompt, features: npt.NDArray[np.float16], labels: Sequence[str], seed: int) -> float:
    """Trains the projector (`mllm.vision`) on all views of labelled pictures.

    Args:
        mllm: A model that sees by features.
        prompt: Its prompt format, for the tokenizer.
        features: float16 [pictures, views, t, C].
        labels: The pictures' classes.
        seed: Seed of batches and dropout.

    Returns:
        Share of the last hundred steps' views that were closest to their own class's name.
    """
    names = sorted(set(labels))
    truth = np.array([names.index(label) for label in labels])
    codes = _codes(mllm, prompt, names)
    torch.manual_seed(seed)
    chance = np.random.default_rng([seed, 3])
    optimizer = torch.optim.AdamW(mllm.vision.parameters(), _PEAK, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK, total_steps=STEPS)
    mllm.vision.train()
    right: list[float] = []
    for _ in tqdm(range(STEPS), desc="aligning", disable=None):
        pictures, views = chance.integers(len(truth), size=_BATCH), chance.integers(features.shape[1], size=_BATCH)
        seen = torch.from_numpy(features[pictures, views].astype(np.float32)).to(codes.device)
        target = torch.from_numpy(truth[pictures]).to(codes.device)
        logits = functional.normalize(mllm.vision(seen).flatten(1), dim=-1) @ codes.T / _TEMPERATURE
        optimizer.zero_grad()
        loss = functional.cross_entropy(logits, target, label_smoothing=_SMOOTHING)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        right.append(float((logits.argmax(1) == target).float().mean()))
    return float(np.mean(right[-100:]))


def _codes(mllm: Mllm, prompt: Prompt, names: Sequence[str]) -> torch.Tensor:
    """Embeddings of each name's first tokens, one per picture token, padded with end tokens: unit [names, T * D]."""
    end = prompt.stop_ids[0]
    ids = [[*row, *[end] * mllm.image_tokens][: mllm.image_tokens] for row in prompt.text([clean(n) for n in names])]
    with torch.no_grad():
        device = next(mllm.embed.parameters()).device
        return functional.normalize(mllm.embed(torch.tensor(ids, device=device)).float().flatten(1), dim=-1)
