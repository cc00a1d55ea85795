"""The training set: for each picture, lists of candidates that retrieval could have found.

As in the paper, candidates come from disjoint halves (no picture retrieves itself), and the lists of a picture are
windows of a longer ranking. The paper's code differs (Liuziyu77/RAR, finetune/build_finetuning_data.ipynb). Here names
in a list are distinct, and their order is drawn again at each step. The window slides over the other classes while the
true class stays: with windows of the ranking itself, a correctly retrieved picture would give one list instead of 16.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rar.runtime.bundle.files import atomic_file
from rar.runtime.encoder.clip import Clip
from rar.runtime.errors import InputError

from ..pictures.embed import embed_images
from ..pictures.labelled import LabelledImage, check_labels

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """One ranking exercise.

    Attributes:
        path: The picture.
        label: Its class.
        candidates: k distinct classes, `label` among them, by falling similarity.
        exemplars: The path of each candidate's nearest picture that may be shown, empty if it has none; or none at all.
    """

    path: str
    label: str
    candidates: tuple[str, ...]
    exemplars: tuple[str, ...] = ()


def build_samples(
    clip: Clip, sources: Sequence[Sequence[LabelledImage]], k: int, neighbours: int, seed: int
) -> list[Sample]:
    """Ranking exercises from labelled pictures.

    A source's pictures are searched in the other half of the same source. If no class has a second picture, they are
    searched among the embedded names of its classes. A picture that a source lists twice counts once; otherwise it
    would retrieve itself.

    Args:
        clip: The encoder that will retrieve.
        sources: Labelled pictures; each source has its own set of classes.
        k: Candidates per sample.
        neighbours: Length of the ranking of distinct classes that windows are taken from.
        seed: Seed of the halves.

    Returns:
        For each picture one sample per window; no sample if its class is not in the ranking.

    Raises:
        InputError: A source has fewer than k classes, a picture has two, or one cannot be read.
    """
    if not 2 <= k <= neighbours:
        raise InputError(f"k={k} and neighbours={neighbours} do not fit; give 2 <= k <= neighbours")
    chance = np.random.default_rng(seed)
    samples: list[Sample] = []
    for images in distinct(sources):
        names = check_labels(sorted({image.label for image in images}), "the training pictures")
        if len(names) < k:
            raise InputError(f"the training pictures show {len(names)} classes; lists of {k} need {k} or more")
        embeddings = embed_images(clip, images)
        labels = np.array([names.index(image.label) for image in images])
        if max(Counter(labels.tolist()).values()) > 1:
            similarity, nearest = _between_halves(embeddings, labels, len(names), chance)
        else:
            similarity = embeddings @ clip.embed_names(names).T
            nearest = np.full(similarity.shape, -1)
        paths = [os.path.realpath(image.path) for image in images]
        ranking = np.argsort(-similarity, axis=1, kind="stable")[:, : min(neighbours, len(names))]
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            candidates = [i for i in ranking[row].tolist() if similarity[row, i] > -np.inf]
            for window in windows(candidates, int(label), k):
                samples.append(
                    Sample(
                        paths[row],
                        image.label,
                        tuple(names[i] for i in window),
                        tuple(paths[nearest[row, i]] if nearest[row, i] >= 0 else "" for i in window),
                    )
                )
    if not samples:
        raise InputError("no picture's class is among its neighbours'; give more pictures a class")
    return samples


def distinct(sources: Sequence[Sequence[LabelledImage]]) -> list[list[LabelledImage]]:
    """The sources with each picture once.

    Raises:
        InputError: A picture has two classes, in one source or in two: the projector learns one name per picture, and
            held-out pictures are searched in all sources at once.
    """
    labels: dict[str, str] = {}
    samples = []
    for images in sources:
        once: dict[str, LabelledImage] = {}
        for image in images:
            path = os.path.realpath(image.path)
            if labels.setdefault(path, image.label) != image.label:
                raise InputError(
                    f"{image.path}: is both {labels[path]!r} and {image.label!r}; give a picture one class"
                )
            once.setdefault(path, image)
        samples.append(list(once.values()))
    return samples


def windows(ranking: Sequence[int], label: int, k: int) -> list[list[int]]:
    """The label with each window of k - 1 other classes of its ranking, in the ranking's order."""
    if label not in ranking:
        return []
    others = [other for other in ranking if other != label]
    starts = range(len(others) - (k - 1) + 1)
    return [sorted([label, *others[start : start + k - 1]], key=ranking.index) for start in starts]


def write_samples(samples: Sequence[Sample], file: Path) -> None:
    """Writes the training set, one JSON object per line."""
    with atomic_file(file) as out:
        for sample in samples:
            # File names need not be UTF-8; JSON escapes stand for such bytes.
            out.write(json.dumps(asdict(sample), ensure_ascii=False).encode(errors="backslashreplace") + b"\n")


def read_samples(file: Path) -> list[Sample]:
    """Reads what `write_samples` wrote.

    Raises:
        InputError: The file is missing or not of this form.
    """
    try:
        # Not splitlines: names may contain Unicode line ends.
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
        return [
            Sample(
                str(row["path"]), str(row["label"]), *(tuple(map(str, row[key])) for key in ("candidates", "exemplars"))
            )
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not a training set ({error}); delete it to have it made again") from error


def best_of_classes(
    similarity: Floats, labels: npt.NDArray[np.int64], classes: int
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Each class's nearest picture.

    Args:
        similarity: float32 [n, pictures].
        labels: int64 [pictures], their classes.
        classes: The number of classes.

    Returns:
        Its similarity, float32 [n, classes], -inf for a class without pictures; and which it is, int64 [n, classes],
        -1 for such a class.
    """
    best = np.full((len(similarity), classes), -np.inf, np.float32)
    nearest = np.full(best.shape, -1)
    for label in range(classes):
        columns = np.flatnonzero(labels == label)
        if len(columns):
            places = similarity[:, columns].argmax(1)
            nearest[:, label] = columns[places]
            best[:, label] = similarity[np.arange(len(places)), columns[places]]
    return best, nearest


def _between_halves(
    embeddings: Floats, labels: npt.NDArray[np.int64], classes: int, chance: np.random.Generator
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Each class's nearest picture in the other half, see `best_of_classes`."""
    half = np.empty(len(labels), bool)
    for label in range(classes):  # a class's pictures go to both halves
        rows = chance.permutation(np.flatnonzero(labels == label))
        half[rows] = np.arange(len(rows)) % 2 == int(chance.integers(2))
    best = np.empty((len(labels), classes), np.float32)
    nearest = np.empty(best.shape, np.int64)
    for side in (False, True):
        asking, answering = np.flatnonzero(half == side), np.flatnonzero(half != side)
        similarity = embeddings[asking] @ embeddings[answering].T
        best[asking], found = best_of_classes(similarity, labels[answering], classes)
        nearest[asking] = np.append(answering, -1)[found]
    return best, nearest
