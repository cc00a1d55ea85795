"""The memory's entry in the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..bundle.manifest import Bundle
from ..errors import BundleError

_LARGEST_POOL = 1 << 31


@dataclass(frozen=True)
class Weighing:
    """How similarities are computed.

    Attributes:
        text_weight: Share w of the texts in a class's similarity, (1 - w) * pictures + w * texts.
        pool: How many of a class's best entries count in each modality; their mean is taken.
        centred: Whether the modalities' means are subtracted first.
    """

    text_weight: float
    pool: int = 1
    centred: bool = False


@dataclass(frozen=True)
class MemoryInfo:
    """What the manifest says of a memory as a whole; `PartSettings` has what it says of a part.

    Attributes:
        encoder: Fingerprint of the encoder that it was made with; None if the manifest names none.
        weighing: How similarities are computed, unless the caller says otherwise.
        rank: Name of the bundle's own ranker; this release may not know it.
        tune: What `Tuning.of` reads; None if the bundle was not tuned.
    """

    encoder: str | None
    weighing: Weighing
    rank: str
    tune: Any

    @classmethod
    def of(cls, bundle: Bundle) -> MemoryInfo:
        """Reads the entry of a bundle's memory.

        Raises:
            BundleError: The bundle has no memory, or a setting is missing, of another type or out of range.
        """
        info = bundle.component("memory").info
        weight, pool, centred = info.get("text_weight"), info.get("pool"), info.get("centred", False)
        if not (
            isinstance(weight, (int, float))
            and 0 <= weight <= 1
            and type(pool) is int
            and 1 <= pool < _LARGEST_POOL
            and isinstance(centred, bool)
        ):
            raise BundleError(
                f"{bundle.root}: the memory's text_weight is {weight!r:.40}, its pool {pool!r:.40}, centred "
                f"{centred!r:.40}; build it again"
            )
        encoder = info.get("encoder")
        weighing = Weighing(float(weight), pool, centred)
        rank = str(info.get("rank", "none"))
        return cls(encoder if isinstance(encoder, str) else None, weighing, rank, info.get("tune"))
