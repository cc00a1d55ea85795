"""What is learnt from one batch: the runtime's own questions, asked of the PyTorch model, and their losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from rar.runtime.mllm.modes import Question, ask_answers, ask_choice, ask_likelihood
from rar.runtime.mllm.prompt import Mode, Prompt, list_names
from rar.runtime.mllm.tree import PICTURE, pack

from ..mllm.model import Mllm
from .samples import Sample

# Spreads the candidates' wrong answers a little: the lists hold near twins, and pictures are few.
_SMOOTHING = 0.1


@dataclass(frozen=True)
class Exercise:
    """A question and which of its answers is right.

    Attributes:
        question: As the ranker would ask it.
        right: Index of the true class among the candidates in the order shown.
    """

    question: Question
    right: int


def ask(prompt: Prompt, mode: Mode, sample: Sample, chance: np.random.Generator) -> Exercise:
    """Asks about a sample with its candidates in a random order.

    In `generate` the one answer is the paper's: the true class first, the others as retrieval ordered them.
    """
    shown = [sample.candidates[i] for i in chance.permutation(len(sample.candidates))]
    right = shown.index(sample.label)
    if mode == "choice":
        return Exercise(ask_choice(prompt, [shown]), right)
    if mode == "likelihood":
        return Exercise(ask_likelihood(prompt, shown), right)
    answer = [sample.label, *(name for name in sample.candidates if name != sample.label)]
    return Exercise(ask_answers(prompt, mode, shown, [list_names(mode, answer)]), 0)


def run(
    mllm: Mllm, prompt: Prompt, mode: Mode, questions: Sequence[Question], pictures: torch.Tensor
) -> list[torch.Tensor]:
    """One forward pass over a batch of questions, each a row of its own behind the head.

    Args:
        mllm: The model.
        prompt: Its prompt format.
        mode: What the questions were asked in; its head goes before each.
        questions: One a picture.
        pictures: float [N, image_tokens, D].

    Returns:
        For each question its logits: float32 [M, V] of the tree's places.

    Raises:
        InputError: A prompt is longer than the model's context.
    """
    device = pictures.device
    rows = [pack([question.tree], prefix=prompt.head(mode), positions=prompt.positions) for question in questions]
    prompt.check(max(int(row.positions.max()) for row in rows) + 1)
    length, places = max(len(row.ids) for row in rows), max(len(row.places[0]) for row in rows)
    dims = mllm.decoder.position_dims
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    mask = torch.eye(length, dtype=torch.bool).repeat(len(rows), 1, 1)  # what is padding sees itself alone
    positions = torch.zeros(dims, len(rows), length, dtype=torch.int64)
    wanted = torch.zeros(len(rows), places, dtype=torch.int64)
    for number, row in enumerate(rows):
        own = len(row.ids)
        ids[number, :own] = torch.from_numpy(row.ids)
        mask[number, :own, :own] = torch.from_numpy(row.mask)
        positions[:, number, :own] = torch.from_numpy(np.ascontiguousarray(row.positions))
        wanted[number, : len(row.places[0])] = torch.from_numpy(row.places[0])
    ids = ids.to(device)
    embeds = mllm.embed(ids.clamp(min=0))
    embeds = embeds.masked_scatter((ids == PICTURE).unsqueeze(-1), pictures.to(embeds.dtype))
    past = torch.zeros(len(rows), mllm.decoder.kv_heads, 0, mllm.decoder.head_dim, dtype=embeds.dtype, device=device)
    logits, *_ = mllm.decoder(
        embeds,
        mask.unsqueeze(1).to(device),
        (positions if dims > 1 else positions[0]).to(device),
        wanted.to(device),
        *[past] * (2 * mllm.decoder.layers),
    )
    return [row[: len(question.tree.places)].float() for row, question in zip(logits, questions, strict=True)]


def scores(mode: Mode, question: Question, logits: torch.Tensor) -> torch.Tensor:
    """The ranker's scores of a question's answers, float32 [answers]: letters' logits, or mean log-probabilities."""
    if mode == "choice":
        return logits[list(question.rows[0]), list(question.targets[0])]
    found = logits.log_softmax(-1)
    return torch.stack([found[list(r), list(t)].mean() for r, t in zip(question.rows, question.targets, strict=True)])


def loss(mode: Mode, exercise: Exercise, logits: torch.Tensor, contrast: bool = True) -> torch.Tensor:
    """The loss of one exercise.

    Where candidates are scored, cross-entropy between them; where names or lists are answers, also the answer's
    own negative log-probability, as a language model is trained.
    """
    found = scores(mode, exercise.question, logits)
    if mode == "generate" or (mode == "likelihood" and not contrast):
        return -found[exercise.right]
    right = torch.tensor(exercise.right, device=found.device)
    between = functional.cross_entropy(found, right, label_smoothing=_SMOOTHING)
    return between if mode == "choice" else between - found[exercise.right]
