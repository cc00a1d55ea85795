"""The table of the rankers: all that can be asked for, that `rar-export tune` tries and that the commands offer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import discriminant, grain, wca
from .mllm import ranker as mllm
from .protocol import Rank, Spec

RANKERS: Mapping[Rank, Spec[Any]] = {
    "discriminant": discriminant.SPEC,
    "wca": wca.SPEC,
    "grain": grain.SPEC,
    "mllm": mllm.SPEC,
}
RANKS: tuple[Rank, ...] = ("none", *RANKERS)
