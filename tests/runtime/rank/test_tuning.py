"""What `tune` stores is what the runtime reads."""

import json
import math
from typing import Any

import pytest

from rar.runtime import BundleError, GrainOptions, MllmOptions, WcaOptions
from rar.runtime.memory.strangers import Strangers
from rar.runtime.rank.discriminant import DiscriminantOptions
from rar.runtime.rank.protocol import RankerOptions, Weights
from rar.runtime.rank.tuning import Fused, GateBy, Tuning


@pytest.mark.parametrize(
    ("rank", "options"),
    [
        ("discriminant", DiscriminantOptions()),
        ("wca", WcaOptions()),
        ("grain", GrainOptions(0.25)),
        ("mllm", MllmOptions("choice", "calibrate")),
    ],
)
@pytest.mark.parametrize("gate", [None, 0.125])
@pytest.mark.parametrize("gate_by", ["similarity", "fused"])
@pytest.mark.parametrize("fused", [None, Fused(), Fused(Weights(1.5, 0.25), 3.5)])
@pytest.mark.parametrize("first", [None, Fused(Weights(0.5), 1.25)])
@pytest.mark.parametrize("strangers", [None, Strangers((-3.5, 0.25, 1.0), (0.5, 0.1), (0.2, 0.1), 0.75)])
def test_what_is_stored_is_read(
    rank: str,
    options: RankerOptions,
    gate: float | None,
    gate_by: GateBy,
    fused: Fused | None,
    first: Fused | None,
    strangers: Strangers | None,
) -> None:
    unused = (rank, "grain") if fused is None and rank != "grain" else ("grain",)
    tuning = Tuning(rank, options, fused, first, first is None, unused, 31.5, gate, gate_by, strangers)
    stored = json.loads(json.dumps(tuning.stored()))
    assert Tuning.of(stored) == tuning
    assert stored["fusion"] is None if fused is None else stored["fusion"] == fused.weights.similarity


def test_what_earlier_releases_stored_is_read() -> None:
    old = {"rank": "wca", "fusion": 2.5, "gate": 0.05, "gate_by": "probe"}
    assert Tuning.of(old) == Tuning("wca", WcaOptions(), Fused(Weights(2.5)))


@pytest.mark.parametrize("fusion", [None, 1e12])
def test_a_ranker_that_gains_nothing_is_off_by_name_whatever_the_release(fusion: float | None) -> None:
    tuning = Tuning.of({"rank": "wca", "fusion": fusion})
    assert tuning is not None
    assert (tuning.fused, tuning.fusion, tuning.unused) == (None, None, ("wca",))


@pytest.mark.parametrize(
    "changes",
    [
        {"fusion": -1},
        {"fusion": math.inf},
        {"discriminant": -0.5},
        {"discriminant": "much"},
        {"sharpness": 0},
        {"first": 3},
        {"first": {"fusion": -1}},
        {"retrieval": -2},
        {"unused": 3},
        {"gate": math.nan},
        {"gate_by": "feeling"},
        {"unknown": 3},
        {"unknown": {"weights": [1, 2], "similarity": [0, 1], "distance": [0, 1], "limit": 0.5}},
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="tune is malformed"):
        Tuning.of({"rank": "wca", "fusion": 1.0} | changes)


def test_the_fit_of_a_ranker_that_is_unknown_here_is_read_and_never_used() -> None:
    tuning = Tuning.of({"rank": "oracle", "certainty": 1, "fusion": 2.0})
    assert tuning == Tuning("oracle", None, Fused(Weights(2.0)))
    assert not tuning.fits("oracle", None)


def test_what_makes_no_difference_to_a_ranker_does_not_spoil_the_fit() -> None:
    likelihood = Tuning("mllm", MllmOptions("likelihood", "rotate"))
    assert likelihood.fits("mllm", MllmOptions("likelihood", "none"))
    choice = Tuning("mllm", MllmOptions("choice", "rotate"))
    assert not choice.fits("mllm", MllmOptions("choice", "none"))
    assert not choice.fits("mllm", MllmOptions("likelihood", "rotate"))
    assert not choice.fits("wca", WcaOptions())
    assert Tuning("wca", WcaOptions()).fits("wca", WcaOptions(crops=3))


@pytest.mark.parametrize("value", [10**400, math.inf, math.nan, -1, 1e300, "x", [], {}])
def test_a_weight_that_cannot_be(value: Any) -> None:
    with pytest.raises(BundleError, match=r"tune is malformed .*run `rar-export tune` again"):
        Tuning.of({"rank": "wca", "fusion": value})


@pytest.mark.parametrize("setting", ["fusion", "gate", "alpha"])
def test_a_number_that_no_float_can_hold(setting: str) -> None:
    with pytest.raises(BundleError, match="tune is malformed"):
        Tuning.of({"rank": "grain", "alpha": 0.5, setting: 10**400})
