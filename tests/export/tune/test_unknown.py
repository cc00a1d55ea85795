"""What held-out pictures tell of strangers: each is one while its own class is left out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from memories import add_part, bursts

from rar.export.tune.unknown import area, fit_unknown
from rar.runtime import Memory
from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import write_json
from rar.runtime.memory.discriminant import write_fit
from rar.runtime.memory.strangers import POOL, traits_of_nearest

VECTORS, LABELS = bursts(40, 8, 0.5)
# Of each class one burst is held out, and ten classes are not in the memory at all.
HELD_OUT = np.arange(len(LABELS)) % 24 < 3
HERE = LABELS < 30


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Memory:
    root = tmp_path_factory.mktemp("unknown") / "b"
    kept = HERE & ~HELD_OUT
    with stage(root, "memory") as staging:
        staging.info.update(text_weight=0.0, pool=1, encoder="one")
        add_part(staging, "pictures", VECTORS[kept].astype(np.float32), LABELS[kept], 8)
        staging.info["discriminant"] = write_fit(staging.folder / "pictures", 30)
        write_json(staging.folder / "labels.json", [str(number) for number in range(30)])
    return Memory.open(root)


def given(some: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.float32], list[str]]:
    return VECTORS[some].astype(np.float32), [str(label) for label in LABELS[some]]


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.2])
def test_at_most_the_stated_share_is_refused_and_real_strangers_are(memory: Memory, rate: float) -> None:
    strangers, told = fit_unknown(memory, *given(HERE & HELD_OUT), rate)
    assert strangers is not None
    assert told is not None
    assert told["pictures"] == 90
    assert told["false_rejections"] <= 100 * rate
    assert told["auroc"] > 0.9
    assert memory.discriminant is not None
    vectors, _ = given(~HERE)
    chances = strangers.chances(traits_of_nearest(memory.discriminant, vectors, memory.search_pictures(vectors, POOL)))
    assert 100 * (chances >= strangers.limit).mean() == pytest.approx(told["refused"], abs=15)


def test_too_few_pictures_and_classes_that_are_not_there_tell_nothing(memory: Memory) -> None:
    vectors, labels = given(HERE & HELD_OUT)
    assert fit_unknown(memory, vectors[:19], labels[:19], 0.05) == (None, None)
    assert fit_unknown(memory, vectors, ["nobody"] * len(labels), 0.05) == (None, None)


def test_the_area_counts_the_pairs_in_order() -> None:
    chance = np.random.default_rng(0)
    known, strange = chance.integers(0, 9, 40).astype(float), chance.integers(3, 12, 25).astype(float)
    pairs = (strange[:, None] > known).mean() + 0.5 * (strange[:, None] == known).mean()
    assert area(known, strange) == pytest.approx(pairs)
    assert area(known, known) == pytest.approx(0.5)
