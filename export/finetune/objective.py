"""The training objective: the runtime's own questions to the PyTorch model, and their losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from rar.runtime.rank.mllm.modes import Question, ask_answers, ask_choice, ask_likelihood
from rar.runtime.rank.mllm.prompt import Mode, Prompt, list_names
from rar.runtime.rank.mllm.tree import PICTURE, pack, stack

from ..mllm.model import Mllm
from .samples import Sample

# Label smoothing over the wrong candidates: the lists hold near twins, and pictures are few.
_SMOOTHING = 0.1


@dataclass(frozen=True)
class Exercise:
    """A question and its right answer.

    Attributes:
        question: The question as the ranker asks it.
        right: Index of the true class among the candidates, in the order shown.
        exemplars: Paths of the pictures that the prompt shows before the picture.
    """

    question: Question
    right: int
    exemplars: Sequence[str] = ()


def ask(prompt: Prompt, mode: Mode, sample: Sample, chance: np.random.Generator) -> Exercise:
    """Asks about a sample with its candidates in a random order.

    In `generate` the one answer is the paper's: the true class first, the others as retrieval ordered them. A prompt
    `of_several` shows exemplars.
    """
    order = chance.permutation(len(sample.candidates))
    shown = [sample.candidates[i] for i in order]
    right = shown.index(sample.label)
    ids, paths = None, ()
    if prompt.template is prompt.several:
        exemplars = sample.exemplars or [""] * len(order)
        named = [(sample.candidates[i], exemplars[i]) for i in order if exemplars[i]]
        ids, paths = prompt.opening(mode, [name for name, _ in named]), tuple(path for _, path in named)
    if mode == "choice":
        return Exercise(ask_choice(prompt, [shown], ids), right, paths)
    if mode == "likelihood":
        return Exercise(ask_likelihood(prompt, shown, ids), right, paths)
    answer = [sample.label, *(name for name in sample.candidates if name != sample.label)]
    return Exercise(ask_answers(prompt, mode, shown, [list_names(mode, answer)], ids), 0, paths)


def run(
    mllm: Mllm, prompt: Prompt, mode: Mode, questions: Sequence[Question], pictures: torch.Tensor
) -> list[torch.Tensor]:
    """One forward pass over a batch of questions, each in its own row after the head.

    Args:
        mllm: The model.
        prompt: Its prompt format.
        mode: The mode of the questions; its head precedes each, unless they show exemplars: those hold it.
        questions: One per picture.
        pictures: float [n, image_tokens, D], those of the first question's prompt, then of the next.

    Returns:
        For each question its logits: float32 [M, V] of the tree's places.

    Raises:
        InputError: A prompt is longer than the model's context.
    """
    device = pictures.device
    head = [] if prompt.template is prompt.several else prompt.head(mode)
    rows = stack([pack([question.tree], prefix=head, positions=prompt.positions) for question in questions])
    prompt.check(int(rows.positions.max()) + 1)
    ids, mask, positions, wanted = (
        torch.from_numpy(array).to(device) for array in (rows.ids, rows.mask, rows.positions, rows.places)
    )
    embeds = mllm.embed(ids.clamp(min=0))
    embeds = embeds.masked_scatter((ids == PICTURE).unsqueeze(-1), pictures.to(embeds.dtype))
    past = torch.zeros(
        len(questions), mllm.decoder.kv_heads, 0, mllm.decoder.head_dim, dtype=embeds.dtype, device=device
    )
    logits, *_ = mllm.decoder(
        embeds,
        mask.unsqueeze(1),
        positions if mllm.decoder.position_dims > 1 else positions[0],
        wanted,
        *[past] * (2 * mllm.decoder.layers),
    )
    return [row[: len(question.tree.places)].float() for row, question in zip(logits, questions, strict=True)]


def scores(mode: Mode, question: Question, logits: torch.Tensor) -> torch.Tensor:
    """The ranker's scores of a question's answers, float32 [answers]: letters' logits, or mean log-probabilities."""
    if mode == "choice":
        return logits[list(question.rows[0]), list(question.targets[0])]
    logs = logits.log_softmax(-1)
    return torch.stack([logs[list(r), list(t)].mean() for r, t in zip(question.rows, question.targets, strict=True)])


def loss(mode: Mode, exercise: Exercise, logits: torch.Tensor, contrast: bool = True) -> torch.Tensor:
    """The loss of one exercise.

    If candidates are scored, it is the cross-entropy between them. If names or lists are answers, the answer's negative
    log-probability is added, as in the training of a language model.
    """
    scored = scores(mode, exercise.question, logits)
    if mode == "generate" or (mode == "likelihood" and not contrast):
        return -scored[exercise.right]
    right = torch.tensor(exercise.right, device=scored.device)
    between = functional.cross_entropy(scored, right, label_smoothing=_SMOOTHING)
    return between if mode == "choice" else between - scored[exercise.right]
