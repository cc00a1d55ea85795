"""Seeded clustered vectors of any number, for measuring memories at sizes that no data set here has.

The model, a mixture of Gaussians in a subspace of the embedding space:

    x = unit(B (c_k + s w) + e v)

    B    768 x 100, orthonormal columns: the subspace, so the intrinsic dimension is about 100
    c_k  one of `clusters` centres, N(0, I / 100) scaled coordinate by coordinate
    w    the entry's place in its cluster, drawn as the centres are; s is the cluster's radius
    v    N(0, I / 768): noise in all dimensions; e its length

Coordinate i of the subspace has a deviation proportional to (i + 10) ** -decay, so that the spectrum falls as real
embeddings' does and a reduction below 100 dimensions loses something. Clusters are equally likely. Queries come from
the same mixture and are none of the entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]

# Rows that one generator makes: any range of entries is the same however it is read.
_BLOCK = 4096


@dataclass(frozen=True)
class Mixture:
    """A seeded source of clustered unit vectors.

    Attributes:
        dim: d, of the vectors.
        intrinsic: Dimension of the subspace of the clusters.
        clusters: How many; a vector's cluster is its class.
        spread: s, the distance of entries to their centre in units of the centres' distance to the middle.
        noise: e, the length of the noise outside the subspace in the same unit.
        decay: Exponent by which the deviation falls along the subspace's coordinates.
        seed: Seed of everything random.
    """

    dim: int = 768
    intrinsic: int = 100
    clusters: int = 10_000
    spread: float = 0.7
    noise: float = 0.2
    decay: float = 0.5
    seed: int = 0

    def entries(self, count: int) -> Iterator[tuple[Floats, Labels]]:
        """The first `count` vectors in blocks: float32 [b, d] of unit length, and int32 [b], their clusters."""
        return self._draw(count, stream=1)

    def queries(self, count: int) -> Floats:
        """Vectors that are not entries: float32 [count, d] of unit length."""
        return np.concatenate([vectors for vectors, _ in self._draw(count, stream=2)])

    def _draw(self, count: int, stream: int) -> Iterator[tuple[Floats, Labels]]:
        for number, start in enumerate(range(0, count, _BLOCK)):
            chance = np.random.default_rng([self.seed, stream, number])
            labels = chance.integers(0, self.clusters, _BLOCK, dtype=np.int32)
            latent = self._centres[labels] + np.float32(self.spread) * self._latent(chance, _BLOCK)
            noise = chance.standard_normal((_BLOCK, self.dim), np.float32)
            vectors = latent @ self._subspace.T + np.float32(self.noise / np.sqrt(self.dim)) * noise
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            size = min(_BLOCK, count - start)
            yield vectors[:size], labels[:size]

    @cached_property
    def _subspace(self) -> Floats:
        gaussian = np.random.default_rng([self.seed, 0, 0]).normal(size=(self.dim, self.intrinsic))
        return np.ascontiguousarray(np.linalg.qr(gaussian)[0], np.float32)

    @cached_property
    def _centres(self) -> Floats:
        return self._latent(np.random.default_rng([self.seed, 0, 1]), self.clusters)

    @cached_property
    def _deviations(self) -> Floats:
        falling = (np.arange(self.intrinsic) + 10.0) ** -self.decay
        return np.asarray(falling / np.linalg.norm(falling), np.float32)

    def _latent(self, chance: np.random.Generator, count: int) -> Floats:
        return chance.standard_normal((count, self.intrinsic), np.float32) * self._deviations
