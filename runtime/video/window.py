"""Answers of the last frames taken together: one frame may be blurred, a second of them seldom is."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from ..detection.confidence import log_probabilities
from ..errors import InputError
from ..memory import Candidate


@dataclass(frozen=True)
class Average:
    """A class over the frames of a window.

    Attributes:
        label: The class.
        log_probability: The mean of its log-probabilities among each frame's candidates.
    """

    label: str
    log_probability: float


class Window:
    """Averages log-probabilities over the last frames.

    A class that is not among a frame's candidates has the log-probability of its last candidate there: it has no more.

    Args:
        size: How many frames.

    Raises:
        InputError: The size is below 1.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise InputError(f"window={size}; give 1 or more frames")
        self._frames: deque[dict[str, float]] = deque(maxlen=size)

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, candidates: Sequence[Candidate], sharpness: float | None = None) -> list[Average]:
        """Takes in a frame and forgets the oldest.

        Args:
            candidates: In their final order. A frame without any, which could not be answered, changes nothing.
            sharpness: See `log_probabilities`.

        Returns:
            The classes of the window, the likeliest first; of equal ones the one that came first.
        """
        if candidates:
            self._frames.append(log_probabilities(candidates, sharpness))
        labels = dict.fromkeys(label for frame in self._frames for label in frame)
        means = {
            label: sum(frame.get(label, min(frame.values())) for frame in self._frames) / len(self._frames)
            for label in labels
        }
        return [Average(label, mean) for label, mean in sorted(means.items(), key=lambda pair: -pair[1])]
