"""The three losses and the matching against versions in NumPy and SciPy, written from the papers' formulas."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.special import log_softmax

from rar.export.grain.boxes import overlap, to_corners
from rar.export.grain.losses import box_loss, contrast, match, region_loss

Doubles = npt.NDArray[np.float64]


def unit(chance: np.random.Generator, *shape: int) -> Doubles:
    vectors = chance.normal(size=shape)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def tensor(array: npt.NDArray[np.floating]) -> torch.Tensor:  # type: ignore[type-arg]
    return torch.from_numpy(np.asarray(array, np.float32))


def random_boxes(chance: np.random.Generator, count: int) -> Doubles:
    """Centre, width and height; they may reach out of the picture."""
    return np.concatenate([chance.uniform(0, 1, (count, 2)), chance.uniform(0.01, 0.9, (count, 2))], 1)


def giou(a: Doubles, b: Doubles) -> tuple[float, float]:
    """IoU and GIoU of two boxes (centre, width, height), with the intervals of each axis taken one by one."""
    inter, hull = 1.0, 1.0
    for axis in (0, 1):
        a0, a1 = a[axis] - a[axis + 2] / 2, a[axis] + a[axis + 2] / 2
        b0, b1 = b[axis] - b[axis + 2] / 2, b[axis] + b[axis + 2] / 2
        inter *= max(0.0, min(a1, b1) - max(a0, b0))
        hull *= max(a1, b1) - min(a0, b0)
    union = a[2] * a[3] + b[2] * b[3] - inter
    return inter / union, inter / union - (hull - union) / hull


def cost(predicted: Doubles, truth: Doubles) -> Doubles:
    """[n, q]: 5 L1 - 2 GIoU."""
    return np.array([[5 * np.abs(t - p).sum() - 2 * giou(t, p)[1] for p in predicted] for t in truth]).reshape(
        len(truth), len(predicted)
    )


@st.composite
def batches(draw: st.DrawFn) -> tuple[Doubles, list[Doubles]]:
    """Predicted boxes [N, q, 4], and of each picture none to more boxes than queries."""
    chance = np.random.default_rng(draw(st.integers(0, 10_000)))
    queries = draw(st.integers(1, 5))
    counts = draw(st.lists(st.integers(0, 7), min_size=1, max_size=4))
    predicted = np.stack([random_boxes(chance, queries) for _ in counts])
    return predicted, [random_boxes(chance, count) for count in counts]


class TestOverlap:
    @given(st.integers(0, 10_000))
    def test_equals_the_axis_by_axis_form(self, seed: int) -> None:
        chance = np.random.default_rng(seed)
        a, b = random_boxes(chance, 4), random_boxes(chance, 4)
        iou, generalised = overlap(to_corners(tensor(a)), to_corners(tensor(b)))
        expected = np.array([giou(one, other) for one, other in zip(a, b, strict=True)])
        np.testing.assert_allclose(iou, expected[:, 0], atol=1e-5)
        np.testing.assert_allclose(generalised, expected[:, 1], atol=1e-5)

    def test_corners_of_a_box(self) -> None:
        corners = to_corners(torch.tensor([0.5, 0.25, 0.5, 0.125]))
        assert corners.tolist() == [0.25, 0.1875, 0.75, 0.3125]

    def test_boxes_without_area_give_finite_numbers_and_gradients(self) -> None:
        a = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]], requires_grad=True)
        for value in overlap(a, torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.2, 0.2, 0.4, 0.4]])):
            assert torch.isfinite(value).all()
            value.sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
        assert a.grad is not None
        assert torch.isfinite(a.grad).all()

    def test_equal_and_distant_boxes(self) -> None:
        one = torch.tensor([0.1, 0.1, 0.3, 0.2])
        assert [float(value) for value in overlap(one, one)] == pytest.approx([1, 1])
        far = overlap(torch.tensor([0.0, 0.0, 0.01, 0.01]), torch.tensor([0.99, 0.99, 1.0, 1.0]))
        assert float(far[0]) == 0
        assert float(far[1]) == pytest.approx(-0.9998, abs=1e-6)


class TestMatching:
    @given(batches())
    def test_is_scipys_on_an_independent_cost(self, batch: tuple[Doubles, list[Doubles]]) -> None:
        predicted, truth = batch
        found = match(tensor(predicted), [tensor(own) for own in truth])
        start = 0
        for row, own in enumerate(truth):
            table = cost(predicted[row], own)
            targets, queries = linear_sum_assignment(table)
            mine = found.pictures == row
            assert len(set(found.queries[mine].tolist())) == int(mine.sum()) == min(table.shape)
            chosen = table[found.targets[mine] - start, found.queries[mine]]
            assert chosen.sum() == pytest.approx(table[targets, queries].sum(), abs=1e-4)
            start += len(own)

    @given(st.integers(0, 10_000), st.integers(1, 3))
    def test_no_other_assignment_is_cheaper(self, seed: int, count: int) -> None:
        chance = np.random.default_rng(seed)
        predicted, truth = random_boxes(chance, 4), random_boxes(chance, count)
        found = match(tensor(predicted[None]), [tensor(truth)])
        table = cost(predicted, truth)
        cheapest = min(
            sum(table[row, query] for row, query in enumerate(chosen)) for chosen in permutations(range(4), count)
        )
        assert table[found.targets, found.queries].sum() == pytest.approx(cheapest, abs=1e-4)

    def test_targets_count_through_all_pictures(self) -> None:
        boxes = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1]])
        found = match(boxes.expand(3, 2, 4), [boxes[:1], boxes[:0], boxes])
        assert sorted(zip(*(part.tolist() for part in vars(found).values()), strict=True)) == [
            (0, 0, 0),
            (2, 0, 1),
            (2, 1, 2),
        ]

    def test_a_network_that_gives_no_numbers_is_matched_somehow(self) -> None:
        found = match(torch.full((1, 2, 4), torch.nan), [torch.full((1, 4), 0.5)])
        assert len(found) == 1


class TestContrast:
    @given(st.integers(0, 10_000), st.integers(1, 9), st.floats(1, 100))
    def test_is_the_mean_of_both_cross_entropies(self, seed: int, count: int, scale: float) -> None:
        chance = np.random.default_rng(seed)
        images, texts = unit(chance, count, 8), unit(chance, count, 8)
        logits = scale * images @ texts.T
        expected = -np.mean([np.diag(log_softmax(logits, 1)).mean(), np.diag(log_softmax(logits, 0)).mean()])
        found = contrast(tensor(images), tensor(texts), torch.tensor(scale))
        assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def in_numpy(
    predicted: Doubles,
    truth: Sequence[Doubles],
    regions: Doubles,
    words: Doubles,
    meanings: Sequence[int],
    scale: float,
) -> tuple[float, float]:
    """L_box and L_rd, box by box."""
    boxes, said, start, count = 0.0, 0.0, 0, 0
    for row, own in enumerate(truth):
        for target, query in zip(*linear_sum_assignment(cost(predicted[row], own)), strict=True):
            one, other = predicted[row, query], own[target]
            boxes += np.abs(one - other).sum() + 1 - giou(one, other)[1]
            said -= log_softmax(scale * words @ regions[row, query])[meanings[start + target]]
            count += 1
        start += len(own)
    return boxes / max(1, count), said / max(1, count)


class TestRegions:
    @given(batches(), st.integers(1, 4), st.floats(1, 50))
    def test_both_losses_equal_their_sums_over_matched_boxes(
        self, batch: tuple[Doubles, list[Doubles]], distinct: int, scale: float
    ) -> None:
        predicted, truth = batch
        chance = np.random.default_rng(len(truth) * 100 + distinct)
        regions, words = unit(chance, *predicted.shape[:2], 6), unit(chance, distinct, 6)
        meanings = chance.integers(0, distinct, sum(map(len, truth)))
        targets = [tensor(own) for own in truth]
        found = match(tensor(predicted), targets)
        expected = in_numpy(predicted, truth, regions, words, meanings.tolist(), scale)
        boxes = box_loss(tensor(predicted), targets, found)
        said = region_loss(tensor(regions), tensor(words), torch.from_numpy(meanings), found, torch.tensor(scale))
        assert float(boxes) == pytest.approx(expected[0], rel=1e-3, abs=1e-4)
        assert float(said) == pytest.approx(expected[1], rel=1e-3, abs=1e-3)

    def test_a_batch_without_boxes_costs_nothing_and_has_gradients(self) -> None:
        boxes = torch.full((2, 3, 4), 0.5, requires_grad=True)
        regions = torch.randn(2, 3, 6, requires_grad=True)
        truth = [torch.empty(0, 4)] * 2
        found = match(boxes, truth)
        words, none = torch.empty(0, 6), torch.empty(0, dtype=torch.int64)
        total = box_loss(boxes, truth, found) + region_loss(regions, words, none, found, torch.tensor(9.0))
        total.backward()  # type: ignore[no-untyped-call]
        assert float(total.detach()) == 0
        assert boxes.grad is not None
        assert not boxes.grad.any()

    def test_a_description_goes_where_its_box_went(self) -> None:
        boxes = torch.tensor([[0.1, 0.1, 0.2, 0.2], [0.75, 0.75, 0.5, 0.5]])
        predicted = boxes[None].flip(1)  # query 0 sees the second box
        words = torch.eye(2)
        regions = words[None].flip(1)
        found = match(predicted, [boxes])
        said = region_loss(regions, words, torch.tensor([0, 1]), found, torch.tensor(100.0))
        assert float(said) == pytest.approx(0, abs=1e-6)
        crossed = region_loss(regions, words, torch.tensor([1, 0]), found, torch.tensor(100.0))
        assert float(crossed) == pytest.approx(100, abs=1e-3)
