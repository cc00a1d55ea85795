"""Which profile runs a batch, and how one that none holds is split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rar.runtime import ProviderError
from rar.runtime.errors import InputError, OutOfMemoryError
from rar.runtime.session.batches import Piece, batch_axis, plan, run_or_halve, run_pieces
from rar.runtime.session.tensorrt.stored import Profile
from rar.runtime.session.tensors import of_array, to_array


def pictures(low: int, best: int, high: int) -> Profile:
    return Profile("batch", {"x": ((low, 3, 4, 4), (best, 3, 4, 4), (high, 3, 4, 4))})


def decoder(name: str, batch: int, length: int, past: int) -> Profile:
    return Profile(
        name,
        {
            "embeds": ((1, 1, 8), (1, 1, 8), (batch, length, 8)),
            "positions": ((3, 1, 1), (3, 1, 1), (3, batch, length)),
            "past": ((1, 2, 0, 4), (1, 2, 8, 4), (batch, 2, past, 4)),
        },
    )


AXES = {"embeds": 0, "positions": 1, "past": 0, "logits": 0}


def shapes(batch: int, length: int, past: int) -> dict[str, tuple[int, ...]]:
    return {"embeds": (batch, length, 8), "positions": (3, batch, length), "past": (batch, 2, past, 4)}


@pytest.mark.parametrize(
    ("shape", "axis"),
    [(["s1", 3, 32, 32], 0), ([3, "s1", "s2"], 1), ((-1, 77), 0), ([None, 4], 0), ((1, 3, 4), None), ((), None)],
)
def test_the_batch_is_the_first_dimension_that_is_not_fixed(shape: list[int | str | None], axis: int | None) -> None:
    assert batch_axis(shape) == axis


@given(st.integers(1, 200), st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_every_batch_is_run_in_as_few_parts_as_the_largest_profile_allows(count: int, sizes: list[int]) -> None:
    profiles = [pictures(1, size, size) for size in sizes]
    pieces = plan(profiles, {"x": (count, 3, 4, 4)}, {"x": 0})
    assert len(pieces) == -(-count // max(sizes))
    assert [row for piece in pieces for row in range(piece.rows.start, piece.rows.stop)] == list(range(count))
    for piece in pieces:
        part = piece.rows.stop - piece.rows.start
        assert profiles[piece.profile].holds({"x": (part, 3, 4, 4)})
        # The tightest: no other that holds the part ends earlier.
        assert sizes[piece.profile] == min(size for size in sizes if size >= part)


def test_a_step_of_the_decoder_runs_in_the_profile_made_for_it() -> None:
    profiles = [decoder("prefill", 4, 256, 64), decoder("decode", 4, 1, 512)]
    assert plan(profiles, shapes(2, 200, 30), AXES) == [Piece(0, slice(0, 2))]
    assert plan(profiles, shapes(2, 1, 300), AXES) == [Piece(1, slice(0, 2))]
    assert plan(profiles, shapes(6, 1, 300), AXES) == [Piece(1, slice(0, 3)), Piece(1, slice(3, 6))]


def test_a_rest_is_never_less_than_a_profile_takes() -> None:
    assert plan([pictures(3, 4, 4)], {"x": (9, 3, 4, 4)}, {"x": 0}) == [Piece(0, slice(i, i + 3)) for i in (0, 3, 6)]
    with pytest.raises(ProviderError, match="no profile of the engine holds"):
        plan([pictures(4, 4, 4)], {"x": (5, 3, 4, 4)}, {"x": 0})
    with pytest.raises(ProviderError, match=r"batch takes x from \[4, 3, 4, 4\] to \[4, 3, 4, 4\], not \[2, 3, 4, 4\]"):
        plan([pictures(4, 4, 4)], {"x": (2, 3, 4, 4)}, {"x": 0})


def test_what_no_part_makes_fit_is_said_with_the_range() -> None:
    profiles = [decoder("prefill", 4, 256, 64), decoder("decode", 4, 1, 512)]
    with pytest.raises(ProviderError, match=r"prefill takes embeds .* not \[2, 300, 8\]; decode takes embeds"):
        plan(profiles, shapes(2, 300, 0), AXES)
    with pytest.raises(ProviderError, match="decode takes past"):
        plan(profiles[1:], shapes(8, 1, 600), AXES)
    with pytest.raises(ProviderError, match="batch takes x, not y"):
        plan([pictures(1, 2, 4)], {"y": (1, 3, 4, 4)}, {"y": 0})


def test_batches_that_differ_are_refused() -> None:
    unlike = {**shapes(2, 1, 3), "past": (4, 2, 3, 4)}
    with pytest.raises(InputError, match="batches differ"):
        plan([decoder("decode", 4, 1, 512)], unlike, AXES)


def test_parts_are_cut_and_joined_along_each_ones_batch() -> None:
    rng = np.random.default_rng(0)
    inputs = {"embeds": rng.normal(size=(5, 2, 8)), "positions": rng.normal(size=(3, 5, 2)), "constant": np.arange(3)}
    past = rng.normal(size=(5, 2, 3, 4))
    kept = np.zeros((5, 2))

    def run(piece, values, into):  # type: ignore[no-untyped-def]
        assert values["constant"].tolist() == [0, 1, 2]
        to_array(into["sums"])[:] = values["positions"].sum(0) + to_array(values["past"]).sum((1, 2, 3))[:, None]
        return {"logits": values["embeds"] * 2, "turned": values["positions"]}

    found = run_pieces(
        run,
        [Piece(0, slice(0, 2)), Piece(0, slice(2, 5))],
        {**inputs, "past": of_array(past)},
        {"sums": of_array(kept)},
        {**AXES, "turned": 1, "sums": 0},
    )
    assert np.array_equal(found["logits"], inputs["embeds"] * 2)
    assert np.array_equal(found["turned"], inputs["positions"])
    np.testing.assert_allclose(kept, inputs["positions"].sum(0) + past.sum((1, 2, 3))[:, None])


def test_one_picture_cannot_be_halved() -> None:
    def run(values, into):  # type: ignore[no-untyped-def]
        raise OutOfMemoryError("the GPU has no memory left")

    with pytest.raises(OutOfMemoryError, match=r"^the GPU has no memory left$"):
        run_or_halve(run, {"x": np.zeros((1, 3))}, {}, {"x": 0}, "a.onnx")
