"""Each token of a row sees its own branch and nothing else, at the place it would have there alone."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rar.runtime.rank.mllm.tree import PICTURE, Positions, Segment, Tree, fork, pack, stack


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    count = draw(st.integers(1, 6))
    segments = [
        Segment(
            draw(st.lists(st.integers(0, 99), min_size=1, max_size=4)),
            draw(st.none() | st.integers(0, i - 1)) if i else None,
        )
        for i in range(count)
    ]
    spots = [(i, offset) for i, segment in enumerate(segments) for offset in range(len(segment.ids))]
    return Tree(segments, draw(st.lists(st.sampled_from(spots), min_size=1, max_size=5)))


def alone(tree: Tree, place: tuple[int, int]) -> list[int]:
    """The ids of a place's branch up to it."""
    segment, offset = place
    before = [token for ancestor in tree.ancestors(segment)[:-1] for token in tree.segments[ancestor].ids]
    return [*before, *tree.segments[segment].ids[: offset + 1]]


class TestPack:
    @given(st.lists(trees(), min_size=1, max_size=3), st.integers(0, 20), st.lists(st.integers(0, 99), max_size=4))
    def test_every_place_sees_its_branch_in_order(self, many: list[Tree], start: int, prefix: list[int]) -> None:
        row = pack(many, start=start, prefix=prefix)
        assert len(row.ids) == len(prefix) + sum(map(len, many))
        assert row.mask.diagonal().all()
        for tree, places in zip(many, row.places, strict=True):
            for place, at in zip(tree.places, places, strict=True):
                seen = np.flatnonzero(row.mask[at])
                order = seen[np.argsort(row.positions[0, seen])]
                assert row.ids[order].tolist() == [*prefix, *alone(tree, place)]
                assert row.positions[0, order].tolist() == list(range(start, start + len(order)))

    @given(st.lists(trees(), min_size=1, max_size=4), st.integers(0, 5))
    def test_rows_are_the_packs_and_what_fills_them_sees_itself(self, many: list[Tree], start: int) -> None:
        packs = [pack([tree], start=start) for tree in many]
        rows = stack(packs)
        for i, row in enumerate(packs):
            length = len(row.ids)
            assert rows.lengths[i] == length
            np.testing.assert_array_equal(rows.ids[i, :length], row.ids)
            np.testing.assert_array_equal(rows.mask[i, :length, :length], row.mask)
            np.testing.assert_array_equal(rows.positions[:, i, :length], row.positions)
            np.testing.assert_array_equal(rows.places[i, : rows.counts[i]], row.places[0])
            assert not rows.mask[i, :length, length:].any()
            np.testing.assert_array_equal(rows.mask[i, length:], np.eye(rows.ids.shape[1], dtype=bool)[length:])


class TestFork:
    @given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=4))
    def test_the_front_is_shared_and_something_is_left(self, sequences: list[list[int]]) -> None:
        common, rests = fork(sequences)
        assert [common + rest for rest in rests] == sequences
        assert all(rests)
        longer = {tuple(rest[:1]) for rest in rests}
        assert len(longer) > 1 or min(map(len, rests)) == 1


def qwen_positions(ids: Sequence[int], rows: int, columns: int) -> list[list[int]]:
    """transformers' `get_rope_index` for one picture between two texts, in its own words."""
    first = list(ids).index(PICTURE)
    size = rows * columns
    before = np.tile(np.arange(first), (3, 1))
    t, h, w = np.meshgrid([0], np.arange(rows), np.arange(columns), indexing="ij")
    picture = np.stack([t.ravel(), h.ravel(), w.ravel()]) + first
    after = np.tile(np.arange(len(ids) - first - size), (3, 1)) + picture.max() + 1
    return np.concatenate([before, picture, after], 1).tolist()  # type: ignore[no-any-return]


class TestPositions:
    @pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3), (3, 2), (6, 6)])
    def test_a_picture_of_three_dimensions(self, rows: int, columns: int) -> None:
        ids = [5, 6, *[PICTURE] * (rows * columns), 7, 8, 9]
        positions = Positions(3, (rows, columns))
        found, after = positions.count(ids, 0)
        assert found.tolist() == qwen_positions(ids, rows, columns)
        assert after == found.max() + 1
        later, _ = positions.count(ids, 10)
        np.testing.assert_array_equal(later, found + 10)

    def test_branches_after_a_picture_go_on_from_its_largest(self) -> None:
        tree = Tree([Segment([1, *[PICTURE] * 6]), Segment([2, 3], 0), Segment([4], 0)], [(1, 1), (2, 0)])
        row = pack([tree], start=10, positions=Positions(3, (2, 3)))
        assert row.positions[:, row.places[0]].tolist() == [[15, 14]] * 3
        assert row.positions[:, 1:7].tolist() == [[11] * 6, [11, 11, 11, 12, 12, 12], [11, 12, 13, 11, 12, 13]]

    def test_three_dimensions_without_a_picture_are_alike(self) -> None:
        found, _ = Positions(3, (2, 2)).count([1, 2, 3], 4)
        assert found.tolist() == [[4, 5, 6]] * 3


class TestWholePictures:
    """Gemma 3's pictures see themselves whole; every other token sees what precedes it."""

    def test_a_picture_sees_itself_and_not_the_next_one(self) -> None:
        ids = [5, PICTURE, PICTURE, 6, PICTURE, PICTURE, 7]
        wanted = np.tri(7, dtype=bool)
        wanted[1, 2] = wanted[4, 5] = True
        np.testing.assert_array_equal(Positions(whole_picture=True).mask(ids), wanted)
        np.testing.assert_array_equal(Positions().mask(ids), np.tri(7, dtype=bool))

    def test_in_a_row_too_and_branches_see_no_more_than_before(self) -> None:
        tree = Tree([Segment([1, PICTURE, PICTURE, 2]), Segment([3], 0), Segment([4], 0)], [(1, 0), (2, 0)])
        whole = pack([tree], prefix=[9], positions=Positions(whole_picture=True)).mask
        plain = pack([tree], prefix=[9]).mask
        assert whole[2, 3]
        assert not plain[2, 3]
        whole[2, 3] = False
        np.testing.assert_array_equal(whole, plain)
