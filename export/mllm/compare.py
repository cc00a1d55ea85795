"""Compares the three graphs at any precision with fp32: logits and greedy tokens, or agreement and divergence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from rar.runtime.errors import ExportError
from rar.runtime.rank.mllm.prompt import Mode, Prompt
from rar.runtime.rank.mllm.tree import PICTURE
from rar.runtime.session import OnnxSession, Session

from .model import GRAPHS, Form
from .prompt import LABELS

Floats = npt.NDArray[np.float32]

GREEDY = 16
# Largest difference of a logit at fp32: absolute, or as a share of the largest logit where those are large. Another
# order of summation makes 5e-4 of it in 30 layers whose logits reach 30.
LOGITS, LOGITS_SHARE = 1e-3, 1e-4
# Least top-1 agreement and largest mean divergence (nats) of the next token over the prompts' text. They catch a
# broken quantisation; `rar-bench accuracy` measures the cost in accuracy.
LIMITS = {"fp16": (0.95, 0.02), "int8": (0.75, 0.15), "int4": (0.4, 1.0)}


@dataclass(frozen=True)
class Case:
    """One prompt with its picture, and the outputs at fp32.

    Attributes:
        ids: int64 [L], with `PICTURE` for a row of the picture.
        pixels: float32 [*vision_shape].
        logits: float32 [L, V].
        greedy: The answer's first tokens, up to the end token; empty where they are not compared.
    """

    ids: npt.NDArray[np.int64]
    pixels: Floats
    logits: Floats
    greedy: Sequence[int]


@dataclass(frozen=True)
class Graphs:
    """The three graphs in ONNX Runtime, one prompt at a time.

    Attributes:
        vision: Pictures to embeddings.
        embed: Ids to embeddings.
        decoder: Embeddings to logits.
        form: The model's.
    """

    vision: Session
    embed: Session
    decoder: Session
    form: Form

    @classmethod
    def open(cls, folder: Path, form: Form, fp16: bool = False) -> Graphs:
        """Opens a folder's `vision.onnx`, `embed.onnx` and `decoder.onnx`.

        Args:
            folder: The folder.
            form: The model's.
            fp16: Whether they contain fp16 casts.
        """
        vision, embed, decoder = (OnnxSession(folder / f"{name}.onnx", "cpu", fp16=fp16) for name in GRAPHS)
        return cls(vision, embed, decoder, form)

    def embeds(self, ids: npt.NDArray[np.int64], pixels: Floats) -> Floats:
        """Embeddings of a prompt and its pictures [n, *vision_shape]: float32 [L, D]."""
        rows = self.embed.run({"input_ids": np.where(ids == PICTURE, 0, ids)[None]})["inputs_embeds"][0].copy()
        if len(pixels):
            pictures = self.vision.run({self.form.vision_input: pixels})["image_embeds"]
            rows[ids == PICTURE] = pictures.reshape(-1, rows.shape[-1])
        return np.asarray(rows, np.float32)

    def run(
        self,
        embeds: Floats,
        positions: npt.NDArray[np.int64],
        past: Sequence[Floats] = (),
        mask: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[Floats, list[Floats]]:
        """One pass: logits float32 [L, V], and the keys and values of all tokens so far.

        Args:
            embeds: float32 [L, D].
            positions: int64 [dims, L].
            past: The keys and values of an earlier pass.
            mask: See `decoder_inputs`.
        """
        inputs = decoder_inputs(self.form, embeds, positions, past, mask)
        outputs = self.decoder.run(inputs)
        names = self.form.names
        past = [inputs[name] for name in names("past_key_values")]
        new = [cast(Floats, outputs[name]) for name in names("present")]
        if self.form.attention != "tree":
            return cast(Floats, outputs["logits"][0]), new
        return cast(Floats, outputs["logits"][0]), [
            np.concatenate([old, fresh], 2) for old, fresh in zip(past, new, strict=True)
        ]


def ids(prompt: Prompt, number: int) -> npt.NDArray[np.int64]:
    """The ids of a real prompt: int64 [L]. Numbers take turns at the modes and at the names."""
    mode = cast(Mode, list(prompt.modes)[number % len(prompt.modes)])
    names = [LABELS[(number + step) % len(LABELS)] for step in range(5)]
    return np.array([*prompt.head(mode), *prompt.picture(mode), *prompt.tail(mode, names)])


def decoder_inputs(
    form: Form,
    embeds: Floats,
    positions: npt.NDArray[np.int64],
    past: Sequence[Floats] = (),
    mask: npt.NDArray[np.bool_] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """The decoder's inputs for one pass with all logits.

    Args:
        form: The model's.
        embeds: float32 [L, D].
        positions: int64 [dims, L].
        past: Keys and values of the tokens before, which all see.
        mask: bool [L, L], what the tokens see of each other; None for what precedes them. Only for `tree` attention.
    """
    length = len(embeds)
    mask = np.tri(length, dtype=bool) if mask is None else mask
    past = past or [np.zeros((1, form.kv_heads, 0, form.head_dim), np.float32)] * (2 * form.layers)
    before = past[0].shape[2]
    seen: npt.NDArray[Any] = np.ones((1, before + length), np.int64)
    if form.attention == "tree":
        seen = np.concatenate([np.ones((length, before), bool), mask], 1)[None, None]
    return {
        "inputs_embeds": embeds[None],
        "attention_mask": seen,
        "position_ids": positions[:, None] if form.position_dims > 1 else positions,
        "logit_positions": np.arange(length)[None],
        **dict(zip(form.names("past_key_values"), past, strict=True)),
    }


def compare(
    graphs: Graphs, prompt: Prompt, cases: Sequence[Case], precision: str, original: str = "transformers"
) -> dict[str, Any]:
    """Compares the graphs with fp32.

    Args:
        graphs: The graphs.
        prompt: The prompt format.
        cases: What fp32 gives.
        precision: The graphs'.
        original: What gave it, for messages.

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
        mask = prompt.positions.mask(case.ids)
        logits, past = graphs.run(graphs.embeds(case.ids, case.pixels[None]), positions, mask=mask)
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
                f"the fp32 graphs are too far from {original}: logits differ by {np.max(differences):.3g} (limit "
                f"{limit:.3g}), {greedy_equal} of {greedy_count} greedy tokens are equal; please report this model"
            )
        return result
    least, most = LIMITS[precision]
    if not (agreement >= least and kl <= most):
        raise ExportError(
            f"the {precision} graphs are too far from {original}: top-1 agreement {agreement:.3f} (limit {least}), "
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
    """As many greedy tokens as `wanted` holds, each after the model's own last one."""
    written = [int(logits.argmax())][: len(wanted)]
    while len(written) < len(wanted):
        embeds = graphs.embeds(np.array(written[-1:]), np.empty((0,), np.float32))
        positions = np.full((graphs.form.position_dims, 1), position)
        rows, past = graphs.run(embeds, positions, past)
        written.append(int(rows[-1].argmax()))
        position += 1
    return written


def info(form: Form) -> Mapping[str, int]:
    """The decoder's dimensions, for the manifest."""
    return {key: getattr(form, key) for key in ("layers", "kv_heads", "head_dim", "dim", "vocab")}
