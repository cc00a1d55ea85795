"""Tensors name memory; copies between them are NumPy's slices."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rar.runtime.session.tensors import Host, of_array, to_array


@given(st.integers(0, 5), st.integers(0, 6), st.integers(0, 4), st.integers(0, 4), st.integers(0, 9))
def test_copying_rows_is_a_slice(height: int, width: int, before: int, after: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    source = rng.integers(0, 255, (height, width + after), np.uint8)
    target = rng.integers(0, 255, (height, before + width), np.uint8)
    expected = target.copy()
    expected[:, before:] = source[:, :width]
    Host().copy(
        of_array(target).address + before,
        of_array(source).address,
        target_pitch=before + width,
        source_pitch=width + after,
        width=width,
        height=height,
    )
    assert np.array_equal(target, expected)


def test_parts_are_numpy_s_own() -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    tensor = of_array(array)
    assert (tensor.nbytes, tensor.shape) == (96, (4, 3, 2))
    assert np.array_equal(to_array(tensor[2]), array[2])
    assert np.array_equal(to_array(tensor.rows(1, 3)), array[1:3])
    assert to_array(tensor.rows(2, 2)).shape == (0, 3, 2)
    for start, stop in ((-1, 2), (0, 5), (3, 2)):
        with pytest.raises(IndexError):
            tensor.rows(start, stop)


def test_a_part_keeps_the_memory_and_the_last_one_lets_it_go() -> None:
    class Owned(np.ndarray):  # one that can be referred to weakly
        pass

    array = np.ones((2, 3)).view(Owned)
    gone = weakref.ref(array)
    part = to_array(of_array(array)[1])
    del array
    gc.collect()
    assert part.tolist() == [1, 1, 1]
    del part
    gc.collect()
    assert gone() is None
