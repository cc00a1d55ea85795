"""The linear discriminant between a memory's classes, and how it follows the memory's changes.

A class's discriminant is a plane: x·w + b with w = P (m - centre), for m the mean of its pictures and P the precision
that all classes share (`gaussian`). It is fitted when the memory's files are written, by a build or by `compact`, and
lies beside the pictures' vectors:

    discriminant.npz             the centre, the scalars, the biases, and what pictures it belongs to
    discriminant-factor.npy      F of the precision, mapped
    discriminant-weights.npy     w of each class, mapped

Changes reach it through the memory's log, as they reach the search; no second log is kept. A class whose pictures have
changed since, by `add`, `remove`, `relabel` or a merge, has its mean taken anew from its present entries and costs one
product with P. P itself stays as it was fitted until `compact` fits it again, on all pictures; `Memory.save` compacts
when as many pictures were added as it was fitted on. A new class uses it too: that what varies within the known
classes varies within a new one is what makes the discriminant better than the nearest neighbour for it.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bundle.arrays import DAMAGED, load_npz
from ..bundle.manifest import Bundle
from ..errors import BundleError
from .files import NpyWriter, map_npy
from .gaussian import Doubles, Gaussian, Halfs, Labels, class_sums, learn
from .held_out import measure
from .part import Part
from .reduction import Floats
from .strangers import Strangers

Ids = npt.NDArray[np.int64]

FILE, FACTOR, WEIGHTS = "discriminant.npz", "discriminant-factor.npy", "discriminant-weights.npy"
# Vectors by which a fit knows its memory again.
_CHECKED = 16
_TINY = 1e-30
_AGAIN = "copy the bundle again, or build the memory again"


@dataclass(frozen=True, eq=False)
class Fit:
    """The discriminant of a memory's files.

    Attributes:
        gaussian: What the classes share.
        weights: float32 [classes, d] when the files were written; mapped. A class without pictures has zeros.
        bias: float32 [classes].
        counts: int64 [classes], pictures of each.
        scale: Logits times this are log-probabilities.
        cosines: Cosines times this are.
        lean: Cosines times this are added to the scaled logits; see `Measured`.
        gains: Whether it was measured to find more than the nearest neighbour does.
        strangers: How pictures of no class are told; None where the pictures do not show it, or an earlier release
            fitted it.
        changed: Planes of classes that were changed since, by their entries; of the latest state only.
    """

    gaussian: Gaussian
    weights: Floats
    bias: Floats
    counts: Ids
    scale: float = 1.0
    cosines: float = 1.0
    lean: float = 0.0
    gains: bool = False
    strangers: Strangers | None = None
    changed: dict[_Entries, tuple[Floats, np.float32]] = field(default_factory=dict)

    @classmethod
    def open(cls, bundle: Bundle, part: Part) -> Fit | None:
        """Maps the fit of a memory's pictures; None for a memory of an earlier release, which has none.

        Raises:
            BundleError: It is damaged, or belongs to other pictures or to another encoder.
        """
        component = bundle.component("memory")
        if f"pictures/{FILE}" not in component.files:
            return None
        path = bundle.file("memory", f"pictures/{FILE}")
        try:
            file = load_npz(path)
            centre, bias, belongs = file["centre"], file["bias"], int(file["belongs"])
            floor, effective = float(file["floor"]), float(file["effective"])
            scale, cosines, gains = float(file["scale"]), float(file["cosines"]), bool(file["gains"])
            lean = float(file["lean"])
            # Earlier releases wrote "strangers", of which a part was another.
            strangers = _strangers(file["unknown"]) if "unknown" in file and len(file["unknown"]) else None
            factor, weights = (
                map_npy(bundle.file("memory", f"pictures/{name}", check=False)) for name in (FACTOR, WEIGHTS)
            )
        except DAMAGED as error:
            raise BundleError(f"{path}: no discriminant of a memory ({error}); {_AGAIN}") from error
        if belongs != identity(part.vectors, part.built):
            raise BundleError(f"{path}: the discriminant of other pictures or of another encoder; {_AGAIN}")
        width = part.vectors.shape[1]
        if not (
            all(array.dtype == np.float32 for array in (centre, bias, factor, weights))
            and centre.shape == (width,)
            and bias.ndim == 1
            and weights.shape == (part.classes, width)
            and len(bias) == part.classes
            and factor.ndim == 2
            and factor.shape[1] == width
            and np.isfinite(centre).all()
            and np.isfinite(bias).all()
            and 0 < floor < np.inf
            and 0 <= effective < np.inf
            and 0 < scale < np.inf
            and 0 < cosines < np.inf
            and 0 <= lean < np.inf
        ):
            raise BundleError(f"{path}: {weights.shape} and {factor.shape} are no discriminant of {width}; {_AGAIN}")
        counts = np.bincount(part.built[part.built >= 0], minlength=len(bias)).astype(np.int64)
        gaussian = Gaussian(centre, factor, floor, effective)
        return cls(gaussian, weights, bias, counts, scale, cosines, lean, gains, strangers)


def write_fit(folder: Path, classes: int) -> dict[str, Any] | None:
    """Fits the discriminant of a part of pictures and writes it beside them.

    Args:
        folder: The part's, in a staged memory, with its `vectors.npy` and `entries.npy`.
        classes: How many the memory has.

    Returns:
        What the manifest says of it; None if there are no pictures, and then nothing is written.
    """
    labels = map_npy(folder / "entries.npy")
    vectors = map_npy(folder / "vectors.npy")
    learned = learn(vectors, labels, classes)
    if learned is None:
        return None
    measured = measure(vectors, labels, learned)
    strangers = measured.strangers
    gaussian, there = learned.gaussian, learned.counts > 0
    weights = np.zeros_like(learned.means)
    bias = np.zeros(classes, np.float32)
    weights[there], bias[there] = gaussian.planes(learned.means[there], learned.counts[there])
    for name, array in ((FACTOR, gaussian.factor), (WEIGHTS, weights)):
        with NpyWriter(folder / name, np.float32, array.shape[1:]) as writer:
            writer.append(array)
    np.savez(
        folder / FILE,
        centre=gaussian.centre,
        bias=bias,
        floor=np.float64(gaussian.floor),
        effective=np.float64(gaussian.effective),
        scale=np.float64(measured.scale),
        cosines=np.float64(measured.cosines),
        lean=np.float64(measured.lean),
        gains=np.bool_(measured.gains),
        unknown=np.array([] if strangers is None else _flat(strangers), np.float64),
        belongs=np.int64(identity(vectors, labels)),
    )
    return {
        "pictures": int(learned.counts.sum()),
        "classes": int(there.sum()),
        "covariance": learned.covariance,
        "directions": len(gaussian.factor),
        "measured": {**vars(measured), "strangers": strangers and strangers.stored()},
    }


def _flat(strangers: Strangers) -> list[float]:
    return [*strangers.weights, *strangers.similarity, *strangers.distance, strangers.limit]


def _strangers(flat: npt.NDArray[np.float64]) -> Strangers:
    *weights, similarity, spread, distance, deviation, limit = flat.tolist()
    return Strangers(tuple(weights), (similarity, spread), (distance, deviation), limit)


def settle_rank(info: dict[str, Any]) -> None:
    """Chooses the default ranker by what was measured of the discriminant, where nobody else has chosen it.

    Args:
        info: The memory's entry in the manifest; it has `rank_by` where the build was left the choice, and `tune` where
            held-out pictures have made it since.
    """
    if info.get("rank_by") == "discriminant" and "tune" not in info:
        fitted = info.get("discriminant")
        info["rank"] = "discriminant" if fitted and fitted["measured"]["gains"] else "none"


def identity(vectors: Halfs, labels: Labels) -> int:
    """A checksum of the classes of a part's entries and of some of their vectors, to know a fit's memory again."""
    some = vectors[np.linspace(0, len(vectors) - 1, min(len(vectors), _CHECKED)).astype(np.int64)]
    return zlib.crc32(np.ascontiguousarray(labels, "<i4").data, zlib.crc32(np.ascontiguousarray(some, "<f2").data))


# Which entries a changed class has: the numbers that it had when the files were written, those of its added entries,
# and those of its first ones that are gone.
_Entries = tuple[tuple[int, ...], bytes, tuple[int, ...]]


class Discriminant:
    """The discriminant of a memory's classes at one time.

    Attributes:
        fit: What it was made of.
        positions: The number of each class.
        known: bool [classes], which have pictures; only these have a plane.
    """

    def __init__(self, fit: Fit, part: Part, positions: Mapping[str, int]) -> None:
        self.positions = positions
        self._counts = part.counts
        self.known = part.counts > 0
        self.fit = fit
        # The row of each class: of the fit's weights, or behind them of the changed ones; -1 for none.
        self._rows, changed = _rows(fit, part)
        self._rows[list(changed)] = len(fit.weights) + np.arange(len(changed))
        planes = _changed_planes(fit, part, changed)
        self._weights = np.array([weights for weights, _ in planes], np.float32).reshape(-1, part.vectors.shape[1])
        self._bias = np.array([bias for _, bias in planes], np.float32)

    def knows(self, label: str | None) -> bool:
        """Whether it has a plane for a class."""
        position = None if label is None else self.positions.get(label)
        return position is not None and bool(self.known[position])

    def logits(self, queries: Floats, labels: Sequence[Sequence[str]]) -> Floats:
        """The log-density of each picture under each of its candidates, up to a term of the picture.

        Args:
            queries: float32 [N, d], L2-normalised.
            labels: k class names for each.

        Returns:
            float32 [N, k]; minus infinity for a class without pictures, which has no plane.
        """
        _, rows, weights, bias = self._planes(labels)
        logits = _dots(weights, queries) + bias
        logits[rows < 0] = -np.inf
        return np.asarray(logits, np.float32)

    def evidence(self, queries: Floats, labels: Sequence[Sequence[str]]) -> tuple[Floats, Floats, Doubles]:
        """What it knows of each picture and its candidates, as far as it tells strangers.

        Returns:
            As `logits`, and the cosines in its metric between picture and candidates, seen from the centre: both
            float32 [N, k], minus infinity and -1 for a class without pictures. Then each picture's distance from the
            centre, float64 [N].
        """
        classes, rows, weights, bias = self._planes(labels)
        gaussian = self.fit.gaussian
        dots = _dots(weights, queries - gaussian.centre)
        middle = bias + weights @ gaussian.centre  # -(m^T P m - effective / n) / 2
        squares = gaussian.effective / np.maximum(1, self._counts[classes]) - 2 * middle
        distances = gaussian.distances(queries)
        lengths = np.sqrt(np.maximum(gaussian.floor * distances[:, None] * squares, _TINY))
        logits = np.where(rows < 0, -np.inf, dots + middle)
        cosines = np.where(rows < 0, -1, np.clip(dots / lengths, -1, 1))  # a mean in the middle has none
        return logits.astype(np.float32), cosines.astype(np.float32), distances

    def _planes(self, labels: Sequence[Sequence[str]]) -> tuple[Ids, Ids, Floats, Floats]:
        """The classes' positions and rows, -1 for none, their weights [N, k, d] and biases [N, k]."""
        classes = np.array([[self.positions.get(label, -1) for label in row] for row in labels], np.int64)
        rows = np.where(classes < 0, -1, self._rows[classes])
        early = len(self.fit.weights)
        weights = self.fit.weights[np.clip(rows, 0, early - 1)]
        bias = self.fit.bias[np.clip(rows, 0, early - 1)]
        if len(self._bias):
            late = rows >= early
            weights[late], bias[late] = self._weights[rows[late] - early], self._bias[rows[late] - early]
        return classes, rows, weights, bias


def _dots(weights: Floats, queries: Floats) -> Floats:
    """Each query's products with its own planes: float32 [N, k, d] and [N, d] -> [N, k].

    Not by `matmul`: the threads of NumPy's linear algebra wait busily afterwards, on the encoder's cores.
    """
    return np.asarray(np.einsum("nkd,nd->nk", weights, queries), np.float32)


def _rows(fit: Fit, part: Part) -> tuple[Ids, dict[int, _Entries]]:
    """The row of the fit for each class that has the pictures it was fitted on, and the entries of those changed."""
    early = len(fit.counts)
    now = np.arange(early) if part.moves is None else part.moves[:early].astype(np.int64)
    origins = np.flatnonzero((fit.counts > 0) & (now >= 0))
    rows = np.full(part.classes, -1, np.int64)
    rows[now[origins]] = origins
    several = np.bincount(now[origins], minlength=part.classes) > 1
    added: dict[int, list[int]] = {}
    for entry in np.flatnonzero(part.added.labels >= 0).tolist():
        added.setdefault(int(part.added.labels[entry]), []).append(entry)
    dropped: dict[int, list[int]] = {}
    for entry in part.dropped:
        dropped.setdefault(int(now[part.built[entry]]), []).append(entry)
    changed = {}
    for label in sorted({*np.flatnonzero(several).tolist(), *added, *dropped}):
        if label < 0:
            continue  # its class is gone
        rows[label] = -1
        if part.counts[label] > 0:
            joined = tuple(origins[now[origins] == label].tolist())
            entries = np.array(added.get(label, ()), np.int64).tobytes()
            changed[label] = (joined, entries, tuple(dropped.get(label, ())))
    return rows, changed


def _changed_planes(fit: Fit, part: Part, changed: Mapping[int, _Entries]) -> list[tuple[Floats, np.float32]]:
    """The planes of changed classes; those that have the same entries as before are not computed again."""
    before = dict(fit.changed)
    new = [label for label, entries in changed.items() if entries not in before]
    if new:
        sums, counts = _sums(part, new, any(changed[label][0] for label in new))
        weights, bias = fit.gaussian.planes((sums / counts[:, None]).astype(np.float32), counts)
        before |= {changed[label]: (weights[i], bias[i]) for i, label in enumerate(new)}
    planes = {entries: before[entries] for entries in changed.values()}
    for old in set(fit.changed) - set(planes):
        fit.changed.pop(old, None)  # another thread may have been here
    fit.changed.update(planes)
    return list(planes.values())


def _sums(part: Part, classes: Sequence[int], built: bool) -> tuple[Doubles, Ids]:
    """Sums and numbers of the present pictures of some classes; the built ones are looked through only if asked."""
    places = np.full(part.classes + 1, -1, np.int32)  # the last is that of the removed entries
    places[list(classes)] = np.arange(len(classes))
    sums, counts = np.zeros((len(classes), part.vectors.shape[1])), np.zeros(len(classes), np.int64)
    lists = [(part.vectors, part.labels)] if built else []
    for vectors, labels in [*lists, (part.added.vectors, part.added.labels)]:
        class_of = places[labels]
        some = class_sums(vectors, class_of, np.flatnonzero(class_of >= 0), len(classes))
        sums += some[0]
        counts += some[1]
    return sums, counts
