"""Settings of a GRAIN training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from rar.runtime.errors import InputError

Autocast = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class TrainOptions:
    """Settings of a run; defaults are the released code's (README of shaunak27/grain-clip).

    Attributes:
        epochs: Passes over the pictures.
        batch: Pictures per step and process.
        lr: Peak learning rate; it rises over the first `warmup` of all steps and falls as a cosine to `last_lr`.
        last_lr: The final learning rate.
        warmup: The share of all steps in which it rises.
        weight_decay: Weight decay of matrices; vectors are not decayed.
        autocast: Precision of matrix products: `fp32`, `bf16` or `fp16` (with a scaled loss).
        box_weight: Weight of L_box; 1.5 equals the released code's weights. 0 leaves the boxes untrained.
        region_weight: Weight of L_rd. 0 leaves the region embeddings untrained.
        save_every: Steps between checkpoints, each with a line of held-out figures in the log.
        seed: Seed of everything random.
    """

    epochs: float = 35.0
    batch: int = 128
    lr: float = 1e-3
    last_lr: float = 1e-5
    warmup: float = 1 / 35
    weight_decay: float = 0.1
    autocast: Autocast = "fp32"
    box_weight: float = 1.5
    region_weight: float = 1.0
    save_every: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not all(0 < number < math.inf for number in (self.epochs, self.batch, self.save_every)):
            raise InputError(f"training needs positive epochs, batch and save_every; not {self}")
        if not 0 <= self.last_lr <= self.lr < 1 or not self.lr or not 0 <= self.warmup <= 1:
            raise InputError(f"training needs 0 <= last_lr <= lr < 1, lr above 0 and a warm-up of 0 to 1; not {self}")
        if not all(0 <= weight < math.inf for weight in (self.weight_decay, self.box_weight, self.region_weight)):
            raise InputError(f"weights cannot be negative; not {self}")
        if self.autocast not in get_args(Autocast) or not 0 <= self.seed < 2**32:
            raise InputError(f"autocast is one of {', '.join(get_args(Autocast))} and the seed from 0; not {self}")
