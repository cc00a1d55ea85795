"""What the rest asks of a memory. A memory on other machines, or a vector database, stands in for `Memory` by it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from .collapse import Candidate
from .discriminant import Discriminant
from .part import Modality
from .reduction import Floats


class Retrieval(Protocol):
    """Finds the k most similar classes; `Memory` says what each of these does."""

    @property
    def encoder(self) -> str | None:
        """Fingerprint of the encoder that it was made with."""
        ...

    @property
    def parts(self) -> Collection[Modality]:
        """The modalities that it has."""
        ...

    @property
    def discriminant(self) -> Discriminant | None:
        """The discriminant of its classes; None where it has none."""
        ...

    @property
    def text_weight(self) -> float:
        """Share of the texts in a class's similarity."""
        ...

    @property
    def classes(self) -> int:
        """How many classes a search can find."""
        ...

    @property
    def labels(self) -> list[str]:
        """The classes' names."""
        ...

    def texts(self, label: str) -> list[tuple[str, Floats]]:
        """A class's texts, each with its vector; WCA and GRAIN rank by them."""
        ...

    def check_k(self, k: int | None, labels: Collection[str] | None = None, tags: Collection[str] | None = None) -> int:
        """The number of candidates that a search gives for k.

        Raises:
            InputError: k is out of range, or a label or tag is unknown.
        """
        ...

    def search(
        self,
        queries: Floats,
        k: int | None = None,
        *,
        labels: Collection[str] | None = None,
        tags: Collection[str] | None = None,
        fewer: bool = False,
    ) -> list[list[Candidate]]:
        """The k classes most similar to each query."""
        ...

    def search_pictures(
        self,
        queries: Floats,
        k: int,
        *,
        labels: Collection[str] | None = None,
        tags: Collection[str] | None = None,
    ) -> list[list[Candidate]]:
        """The classes of the pictures nearest to each query."""
        ...
