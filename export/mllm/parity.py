"""What transformers gives for real prompts: the fp32 outputs that the graphs are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rar.runtime.rank.mllm.prompt import Prompt
from rar.runtime.rank.mllm.tree import PICTURE
from rar.runtime.session.checks import Run, narrowed, sampled

from ..graphs.checks import arrays
from . import compare
from .compare import GREEDY, Case, Floats, decoder_inputs
from .model import Mllm

# Tokens of the prompt that a bundle's graphs are checked with, and how many of them are in the cache of the step.
_CHECKED_TOKENS, _CHECKED_PAST = 12, 2


def make_cases(mllm: Mllm, prompt: Prompt, pictures: Floats, greedy: int = GREEDY) -> list[Case]:
    """Runs real prompts, one per picture, through transformers.

    Args:
        mllm: The model.
        prompt: Its prompt format.
        pictures: float32 [n, *vision_shape].
        greedy: How many tokens to generate; 0 for none.
    """
    cases = []
    for number, pixels in enumerate(pictures):
        ids = compare.ids(prompt, number)
        rows = torch.from_numpy(np.where(ids == PICTURE, mllm.image_token, ids))[None]
        inputs = mllm.reference_inputs(rows, torch.from_numpy(pixels)[None])
        reference: Any = mllm.reference
        with torch.inference_mode():
            logits = reference(**inputs).logits[0].numpy()
            answer = []
            if greedy:
                tokens = reference.generate(
                    **inputs, max_new_tokens=greedy, do_sample=False, num_beams=1, pad_token_id=mllm.stop_ids[0]
                )[0].tolist()
                answer = tokens[len(ids) if "input_ids" in inputs else 0 :]
        cases.append(Case(ids, pixels, logits, answer))
    return cases


def samples(mllm: Mllm, name: str, prompt: Prompt, cases: Sequence[Case]) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """A graph's inputs for the cases' prompts and pictures; empty for `embed`."""
    for case in cases if name != "embed" else ():
        pixels = torch.from_numpy(case.pixels)[None]
        if name == "vision":
            yield {mllm.vision_input: pixels.numpy()}
            continue
        text = case.ids != PICTURE
        with torch.inference_mode():
            embeds = mllm.embed(torch.from_numpy(np.where(text, case.ids, 0))[None])[0].numpy().copy()
            embeds[~text] = mllm.vision(pixels)[0].numpy()
        positions = prompt.positions.count(case.ids.tolist(), 0)[0]
        yield decoder_inputs(mllm.form, embeds, positions, mask=prompt.positions.mask(case.ids))


def runs(mllm: Mllm, name: str, prompt: Prompt, case: Case) -> list[Run]:
    """The stored runs of one of the three graphs; for the decoder a prefill and a step with a cache.

    Only the first and the last layer's keys and values are compared.
    """
    ids = case.ids[case.ids != PICTURE][None, :_CHECKED_TOKENS]
    if name == "vision":
        inputs = narrowed({mllm.vision_input: case.pixels[None]})
        with torch.inference_mode():
            outputs = mllm.vision(torch.from_numpy(inputs[mllm.vision_input]))
        return [sampled(inputs, arrays(["image_embeds"], outputs))]
    with torch.inference_mode():
        embeds = mllm.embed(torch.from_numpy(ids)).numpy()
    if name == "embed":
        return [sampled({"input_ids": ids}, {"inputs_embeds": embeds})]
    positions = prompt.positions.count(ids[0].tolist(), 0)[0]
    names = mllm.form.names("present")
    kept = {"logits", *names[:2], *names[-2:]}

    def run(begin: int, end: int, past: Sequence[Floats]) -> tuple[Run, dict[str, Any]]:
        step = decoder_inputs(mllm.form, embeds[0, begin:end], positions[:, begin:end], past)
        inputs = narrowed({**step, "logit_positions": np.array([sorted({0, end - begin - 1})])})
        with torch.inference_mode():
            outputs = arrays(["logits", *names], mllm.decoder(*map(torch.tensor, inputs.values())))
        return sampled(inputs, {name: value for name, value in outputs.items() if name in kept}), outputs

    prefill, outputs = run(0, ids.shape[1], ())
    past = [outputs[name][:, :, :_CHECKED_PAST] for name in names]
    return [prefill, run(_CHECKED_PAST, _CHECKED_PAST + 1, past)[0]]
