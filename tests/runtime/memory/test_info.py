"""The memory's entry in a manifest that may come from a stranger."""

import math
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rar.runtime.bundle.manifest import Bundle, Component
from rar.runtime.errors import BundleError
from rar.runtime.memory.info import MemoryInfo, Weighing

GOOD = {"encoder": "abc", "text_weight": 0.25, "pool": 3, "centred": True, "rank": "wca", "tune": {"rank": "wca"}}
ODD = st.sampled_from([10**400, 10**30, math.inf, math.nan, None, "1", [], {}]) | st.integers() | st.floats()


def read(**changes: Any) -> MemoryInfo:
    return MemoryInfo.of(Bundle(Path("b"), {"memory": Component({}, GOOD | changes)}))


def test_all_is_read() -> None:
    assert read() == MemoryInfo("abc", Weighing(0.25, 3, True), "wca", {"rank": "wca"})


@given(st.sampled_from(["text_weight", "pool", "centred"]), ODD)
def test_what_cannot_be_is_an_error_of_ours(key: str, value: Any) -> None:
    try:
        weighing = read(**{key: value}).weighing
    except BundleError:
        return
    assert 0 <= weighing.text_weight <= 1
    assert 1 <= weighing.pool < 2**31
    assert weighing.centred is True
