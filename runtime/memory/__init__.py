"""Third: the memory of embedded pictures and texts, searched for the k most similar classes."""

from .collapse import Candidate, Entry
from .handle import Memory
from .part import MODALITIES, Modality
from .protocol import Retrieval

__all__ = ["MODALITIES", "Candidate", "Entry", "Memory", "Modality", "Retrieval"]
