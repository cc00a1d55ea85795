"""A second opinion on the retrieval's best class, by which the gate tells where ranking can be left out.

The margin between the two best similarities says little of where a ranker would do better: both lie among the same few
neighbours. A linear discriminant looks at all entries of all classes at once; where it agrees with the nearest
neighbour by far, a ranker has hardly anything to gain. It costs one product of a matrix [classes, d] a batch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from . import bundle as bundles
from .bundle import Bundle
from .errors import BundleError
from .files import DAMAGED, write_json
from .rank import Floats, Query

_COMPONENT = "probe"


def sureness(queries: Sequence[Query], probe: Probe | None) -> Floats:
    """The margins a gate goes by, float32 [N]: the probe's, or without one the similarities'."""
    if probe is not None and queries:
        return probe.margins(queries)
    return np.array([query.margin for query in queries], np.float32)


class Probe:
    """A linear classifier over embeddings.

    Attributes:
        labels: The classes it knows.
        weights: float32 [classes, d].
        bias: float32 [classes].
    """

    def __init__(self, labels: Sequence[str], weights: Floats, bias: Floats) -> None:
        self.labels = list(labels)
        self.weights = weights
        self.bias = bias
        self._positions = {label: position for position, label in enumerate(self.labels)}

    def margins(self, queries: Sequence[Query]) -> Floats:
        """By how much the classes that were retrieved first are likelier than the likeliest others.

        Returns:
            Differences of log-probabilities, float32 [N], below zero where the probe likes another class better; -inf
            for a class that it does not know, so that a gate is never sure of one that came later.
        """
        rows = np.arange(len(queries))
        columns = np.array([self._positions.get(query.candidates[0].label, -1) for query in queries])
        logits = np.stack([query.embedding for query in queries]) @ self.weights.T + self.bias
        own = np.where(columns < 0, -np.inf, logits[rows, columns])
        logits[rows, columns] = -np.inf
        return np.asarray(own - logits.max(1), np.float32)

    def save(self, root: str | os.PathLike[str], encoder: str) -> None:
        """Writes it into a bundle, for the encoder of that fingerprint.

        Raises:
            BundleError: The bundle cannot be written.
        """
        with bundles.stage(root, _COMPONENT) as staging:
            staging.info.update(encoder=encoder, classes=len(self.labels))
            write_json(staging.folder / "labels.json", self.labels)
            np.savez(staging.folder / "probe.npz", weights=self.weights, bias=self.bias)

    @classmethod
    def open(cls, bundle: Bundle) -> Probe:
        """Reads a bundle's probe.

        Raises:
            BundleError: There is none, it is damaged, or it was fitted with another encoder.
        """
        again = "run `rar-export tune` again"
        if _COMPONENT not in bundle.components:
            raise BundleError(f"{bundle.root}: the gate's probe is missing; {again}")
        if bundle.component(_COMPONENT).info.get("encoder") != bundle.component("clip").fingerprint:
            raise BundleError(f"{bundle.root}: the gate's probe was fitted with another encoder; {again}")
        labels = bundle.read_json(_COMPONENT, "labels.json")
        path = bundle.file(_COMPONENT, "probe.npz")
        try:
            with np.load(path, allow_pickle=False) as file:
                weights, bias = file["weights"], file["bias"]
        except DAMAGED as error:
            raise BundleError(f"{path}: not a probe ({error}); {again}") from error
        if not (
            isinstance(labels, list)
            and all(isinstance(label, str) for label in labels)
            and weights.dtype == bias.dtype == np.float32
            and weights.ndim == 2
            and bias.shape == (len(labels),) == weights.shape[:1]
            and len(labels) > 1
            and np.isfinite(weights).all()
            and np.isfinite(bias).all()
        ):
            raise BundleError(f"{path}: {weights.shape} and {bias.shape} are no probe; {again}")
        return cls(labels, weights, bias)
