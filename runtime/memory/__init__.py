"""The memory: embedded pictures and texts, searched for the k most similar classes."""

from .memory import Candidate, Memory
from .part import MODALITIES, Modality

__all__ = ["MODALITIES", "Candidate", "Memory", "Modality"]
