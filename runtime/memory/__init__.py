"""The memory: embedded pictures and texts, searched for the k most similar classes."""

from .collapse import Candidate, Entry
from .memory import Memory
from .part import MODALITIES, Modality

__all__ = ["MODALITIES", "Candidate", "Entry", "Memory", "Modality"]
