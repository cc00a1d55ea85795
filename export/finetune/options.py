"""Settings of a fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rar.runtime.errors import InputError
from rar.runtime.rank.mllm.prompt import MODES, Mode


@dataclass(frozen=True)
class FinetuneOptions:
    """Settings of a run. The paper states k, neighbours, epochs and lr (RAR, section 4.1).

    Attributes:
        objectives: What is trained, in alternating batches: `likelihood` of the true name against the others, `choice`
            of its letter, or `generate`, the paper's sorted list.
        contrast: Whether `likelihood` also trains the true name against the other candidates (cross-entropy between
            them), or only its own log-probability.
        modes: Prompt texts that replace the runtime's defaults and are stored in the adapter.
        k: Candidates per sample.
        neighbours: Length of the ranking of distinct classes from which the lists are windows.
        epochs: Passes over the samples.
        batch: Samples per step.
        lr: Peak learning rate of the LoRA; it rises over the first tenth and falls as a cosine to 0.
        projector_lr: The same for the projector, if it is trained; applies after its alignment (`align`).
        rank: LoRA's r; its alpha is twice that.
        dropout: Dropout of the LoRA's input.
        exemplars: Whether the prompt shows the nearest picture of each candidate's class beside its name, for ranking
            with exemplars. The model must take several pictures.
        augment: Shows random views of a picture instead of the picture.
        views: Number of views per picture if the model sees by another encoder's features, which are computed
            beforehand; otherwise each step draws a new view.
        save_every: Steps between checkpoints, each with a line of held-out accuracy.
        seed: Seed of everything random.
    """

    objectives: tuple[Mode, ...] = ("likelihood",)
    contrast: bool = True
    modes: Mapping[Mode, Mapping[str, str]] | None = None
    k: int = 5
    neighbours: int = 20
    epochs: float = 1.0
    batch: int = 16
    lr: float = 1e-5
    projector_lr: float = 3e-4
    rank: int = 16
    dropout: float = 0.0
    exemplars: bool = False
    augment: bool = True
    views: int = 8
    save_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.objectives or not set(self.objectives) <= set(MODES):
            raise InputError(f"objectives {self.objectives!r}; give some of {', '.join(MODES)}")
        numbers = (self.epochs, self.batch, self.rank, self.save_every, self.views)
        rates = (self.lr, self.projector_lr)
        if not all(0 < number < math.inf for number in numbers) or not all(0 < rate < 1 for rate in rates):
            raise InputError(f"fine-tuning needs positive counts and learning rates below 1; not {self}")
        if not 0 <= self.dropout < 1 or not 0 <= self.seed < 2**32:
            raise InputError(f"dropout={self.dropout}, seed={self.seed}; give a dropout below 1 and a seed from 0")
        _check_modes(self.modes)


def _check_modes(modes: object) -> None:
    """Checks that a model can be exported with these texts: a misspelt part would only fail after the training."""
    parts = {"instruction", "question", "answer"}
    fits = modes is None or (
        isinstance(modes, Mapping)
        and set(modes) <= set(MODES)
        and all(
            isinstance(texts, Mapping) and set(texts) <= parts and all(isinstance(t, str) for t in texts.values())
            for texts in modes.values()
        )
    )
    if not fits:
        raise InputError(
            f"prompts must be {{mode: {{part: text}}}} with the modes {', '.join(MODES)} "
            f"and the parts {', '.join(sorted(parts))}"
        )
