"""Processes that search a memory while another one changes it."""

from pathlib import Path

import numpy as np
from memories import add_part, unit

from rar.benchmarks.memory.growth import search_while_growing
from rar.runtime import Memory
from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import write_json

DIM = 96


def test_no_answer_is_wrong_and_none_is_lost_while_another_process_adds_and_compacts(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(2000, DIM)))
    with stage(tmp_path / "bundle", "memory") as staging:
        staging.info.update(text_weight=0.0, pool=1, encoder="none")
        add_part(staging, "pictures", vectors, np.arange(2000, dtype=np.int32) // 20, 24)
        write_json(staging.folder / "labels.json", [f"class {i}" for i in range(100)])
    told = search_while_growing(tmp_path / "bundle", 4.0)
    assert (told["wrong"], told["lost"]) == (0, 0), told
    assert told["searches"] > 50
    assert told["changes"] > 10
    assert len(Memory.open(tmp_path / "bundle").labels) > 100
