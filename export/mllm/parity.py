"""How far exported graphs are from transformers: logits and greedy tokens, or agreement and divergence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from rar.runtime.errors import ExportError
from rar.runtime.mllm.prompt import Mode, Prompt
from rar.runtime.mllm.tree import PICTURE
from rar.runtime.session import OnnxSession

from .model import Mllm
from .prompt import LABELS

Floats = npt.NDArray[np.float32]

GREEDY = 16
# Largest difference of a logit at fp32: absolute, or as a share of the largest logit where those are large. Another
# order of summation makes 5e-4 of it in 30 layers whose logits reach 30.
LOGITS, LOGITS_SHARE = 1e-3, 1e-4
# Least top-1 agreement and largest mean divergence (nats) of the next token over the prompts' text. They catch a
# broken quantisation; what it costs in accuracy is for `rar-bench accuracy` to say.
LIMITS = {"fp16": (0.95, 0.02), "int8": (0.75, 0.15), "int4": (0.4, 1.0)}


@dataclass(frozen=True)
class Case:
    """One prompt with its picture and what transformers makes of it.

    Attributes:
        ids: int64 [L], `PICTURE` where a row of the picture goes.
        pixels: float32 [*vision_shape].
        logits: float32 [L, V].
        greedy: The answer's first tokens, up to the end token.
    """

    ids: npt.NDArray[np.int64]
    pixels: Floats
    logits: Floats
    greedy: Sequence[int]


class Graphs:
    """The three graphs in ONNX Runtime, one prompt at a time.

    Args:
        folder: Holds `vision.onnx`, `embed.onnx` and `decoder.onnx`.
        mllm: The model they were made from.
        fp16: Whether they hold fp16 casts.
    """

    def __init__(self, folder: Path, mllm: Mllm, fp16: bool = False) -> None:
        self.vision, self.embed, self.decoder = (
            OnnxSession(folder / f"{name}.onnx", "cpu", fp16=fp16) for name in ("vision", "embed", "decoder")
        )
        self.mllm = mllm

    def embeds(self, ids: npt.NDArray[np.int64], pixels: Floats) -> Floats:
        """Embeddings of a prompt and its pictures [n, *vision_shape]: float32 [L, D]."""
        rows = self.embed.run({"input_ids": np.where(ids == PICTURE, 0, ids)[None]})["inputs_embeds"][0].copy()
        if len(pixels):
            pictures = self.vision.run({self.mllm.vision_input: pixels})["image_embeds"]
            rows[ids == PICTURE] = pictures.reshape(-1, rows.shape[-1])
        return np.asarray(rows, np.float32)

    def run(
        self, embeds: Floats, positions: npt.NDArray[np.int64], past: Sequence[Floats] = ()
    ) -> tuple[Floats, list[Floats]]:
        """One causal pass: logits float32 [L, V], and the keys and values of all tokens so far.

        Args:
            embeds: float32 [L, D].
            positions: int64 [dims, L].
            past: What an earlier pass returned.
        """
        inputs = decoder_inputs(self.mllm, embeds, positions, past)
        outputs = self.decoder.run(inputs)
        names = self.mllm.decoder.names
        past = [inputs[name] for name in names("past_key_values")]
        new = [outputs[name] for name in names("present")]
        return cast(Floats, outputs["logits"][0]), [
            np.concatenate([old, fresh], 2) for old, fresh in zip(past, new, strict=True)
        ]


def make_cases(mllm: Mllm, prompt: Prompt, pictures: Floats, greedy: int = GREEDY) -> list[Case]:
    """Real prompts, one a picture, through transformers.

    Args:
        mllm: The model.
        prompt: Its prompt format.
        pictures: float32 [n, *vision_shape].
        greedy: How many tokens to generate; 0 for none.
    """
    cases = []
    for number, pixels in enumerate(pictures):
        mode = cast(Mode, list(prompt.modes)[number % len(prompt.modes)])
        names = [LABELS[(number + step) % len(LABELS)] for step in range(5)]
        ids = np.array([*prompt.head(mode), *prompt.picture(mode), *prompt.tail(mode, names)])
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
    """What a graph is given on the cases' prompts and pictures; nothing for `embed`."""
    for case in cases if name != "embed" else ():
        pixels = torch.from_numpy(case.pixels)[None]
        if name == "vision":
            yield {mllm.vision_input: pixels.numpy()}
            continue
        text = case.ids != PICTURE
        with torch.inference_mode():
            embeds = mllm.embed(torch.from_numpy(np.where(text, case.ids, 0))[None])[0].numpy().copy()
            embeds[~text] = mllm.vision(pixels)[0].numpy()
        yield decoder_inputs(mllm, embeds, prompt.positions.count(case.ids.tolist(), 0)[0])


def decoder_inputs(
    mllm: Mllm, embeds: Floats, positions: npt.NDArray[np.int64], past: Sequence[Floats] = ()
) -> dict[str, npt.NDArray[Any]]:
    """The decoder's inputs for one causal pass with all logits.

    Args:
        mllm: The model.
        embeds: float32 [L, D].
        positions: int64 [dims, L].
        past: Keys and values of the tokens before.
    """
    decoder, length = mllm.decoder, len(embeds)
    past = past or [np.zeros((1, decoder.kv_heads, 0, decoder.head_dim), np.float32)] * (2 * decoder.layers)
    before = past[0].shape[2]
    return {
        "inputs_embeds": embeds[None],
        "attention_mask": np.tri(length, before + length, before, dtype=bool)[None, None],
        "position_ids": positions[:, None] if decoder.position_dims > 1 else positions,
        "logit_positions": np.arange(length)[None],
        **dict(zip(decoder.names("past_key_values"), past, strict=True)),
    }


def compare(graphs: Graphs, prompt: Prompt, cases: Sequence[Case], precision: str) -> dict[str, Any]:
    """Compares the graphs with transformers.

    Returns:
        `max_logit_difference`, and `greedy_equal` of `greedy_count` tokens for fp32; `top1` agreement and mean `kl`
        for the others; the `count` of positions compared.

    Raises:
        ExportError: They are too far apart.
    """
    differences, agreements, divergences = [], [], []
    greedy_equal = greedy_count = 0
    for case in cases:
        positions, after = prompt.positions.count(case.ids.tolist(), 0)
        logits, past = graphs.run(graphs.embeds(case.ids, case.pixels[None]), positions)
        text = case.ids != PICTURE
        differences.append(float(np.abs(logits - case.logits).max()))
        agreements.append(logits[text].argmax(-1) == case.logits[text].argmax(-1))
        divergences.append(divergence(case.logits[text], logits[text]))
        if precision == "fp32":
            greedy = _greedy(graphs, logits[-1], past, after, case.greedy)
            greedy_equal += sum(ours == theirs for ours, theirs in zip(greedy, case.greedy, strict=True))
            greedy_count += len(case.greedy)
    agreement, kl = float(np.concatenate(agreements).mean()), float(np.concatenate(divergences).mean())
    result: dict[str, Any] = {"max_logit_difference": float(np.max(differences)), "count": sum(map(len, agreements))}
    if precision == "fp32":
        result.update(greedy_equal=greedy_equal, greedy_count=greedy_count)
        limit = max(LOGITS, LOGITS_SHARE * max(float(np.abs(case.logits).max()) for case in cases))
        if not (result["max_logit_difference"] <= limit and greedy_equal == greedy_count):  # NaN fails
            raise ExportError(
                f"the fp32 graphs are too far from transformers: logits differ by {np.max(differences):.3g} (limit "
                f"{limit:.3g}), {greedy_equal} of {greedy_count} greedy tokens are equal; please report this model"
            )
        return result
    least, most = LIMITS[precision]
    if not (agreement >= least and kl <= most):
        raise ExportError(
            f"the {precision} graphs are too far from transformers: top-1 agreement {agreement:.3f} (limit {least}), "
            f"mean divergence {kl:.3g} (limit {most}). Choose a higher precision"
        )
    return {**result, "top1": agreement, "kl": kl}


def divergence(reference: Floats, logits: Floats) -> npt.NDArray[np.float64]:
    """Kullback-Leibler divergence of each row from the reference's, in nats: float64 [N]."""
    p, q = (_log_softmax(values.astype(np.float64)) for values in (reference, logits))
    return np.asarray((np.exp(p) * (p - q)).sum(-1))


def _log_softmax(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = values - values.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def _greedy(graphs: Graphs, logits: Floats, past: list[Floats], position: int, wanted: Sequence[int]) -> list[int]:
    """As many greedy tokens as `wanted` holds, each from the model's own last one."""
    found = [int(logits.argmax())]
    while len(found) < len(wanted):
        embeds = graphs.embeds(np.array(found[-1:]), np.empty((0,), np.float32))
        positions = np.full((graphs.mllm.decoder.position_dims, 1), position)
        rows, past = graphs.run(embeds, positions, past)
        found.append(int(rows[-1].argmax()))
        position += 1
    return found


def info(mllm: Mllm) -> Mapping[str, int]:
    """The decoder's dimensions, for the manifest."""
    decoder = mllm.decoder
    return {key: getattr(decoder, key) for key in ("layers", "kv_heads", "head_dim", "dim", "vocab")}
