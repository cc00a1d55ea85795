"""llama.cpp answers the questions of `rar-bench rank` in one call as it does one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rar.benchmarks.peers import llama
from rar.export.starter.packages import language_file
from rar.runtime import ExportError
from rar.runtime.rank.mllm.tree import PICTURE, Segment, Tree


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> llama.Decoder:
    if reason := llama.missing("starter"):
        pytest.skip(reason)
    try:
        source = language_file()
    except ExportError as error:
        pytest.skip(str(error))
    file = llama.quantize(source, tmp_path_factory.mktemp("gguf") / "q8_0.gguf")
    return llama.Decoder(file, 256, 1)


def test_names_in_one_call_get_the_logits_of_separate_calls(decoder: llama.Decoder) -> None:
    decoder.keep([1, 4093, 198])
    common = Segment([PICTURE, PICTURE, 504, 2365])
    names = [[3575, 28], [1042], [9, 30, 314]]
    together = Tree([common, *(Segment(ids, 0) for ids in names)], [(0, 3), (1, 1), (2, 0), (3, 2)])
    found = decoder.logits(together)
    for row, ids in zip(found[1:], names, strict=True):
        alone = decoder.logits(Tree([common, Segment(ids, 0)], [(0, 3), (1, len(ids) - 1)]))
        np.testing.assert_allclose(alone[1], row, atol=0.3)  # eight bits, added up in another order
        assert alone[1].argmax() == row.argmax()


def test_it_writes_as_many_tokens_as_are_asked_for_and_forgets_them(decoder: llama.Decoder) -> None:
    decoder.keep([1, 4093, 198])
    tree = Tree([Segment([504, 2365, 314])], [(0, 2)])
    written = decoder.write(tree, 6)
    assert len(written) == 6
    assert decoder.write(tree, 6) == written
    assert written[0] == decoder.logits(tree)[0].argmax()


def test_other_models_than_the_starters_are_left_out() -> None:
    assert llama.missing(str(Path("other"))) is not None
