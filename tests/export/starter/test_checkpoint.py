"""Tensors of PyTorch's old checkpoints: the same values as PyTorch reads, and nothing that a file asks for is run."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rar.export.starter.checkpoint import read_checkpoint
from rar.export.starter.packages import picture_weights
from rar.runtime.errors import ExportError


def save(tensors: Any, path: Path) -> Path:
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    return path


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Whole ones, views with an offset, and views with their dimensions in another order."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    kind = draw(st.sampled_from([torch.float32, torch.int64]))
    whole = torch.arange(draw(st.integers(0, 9)), 600).to(kind)
    start = draw(st.integers(0, 50))
    view = whole[start : start + int(np.prod(shape))].reshape(shape)
    return view.permute(tuple(draw(st.permutations(range(len(shape))))))


@given(st.lists(tensors(), min_size=1, max_size=4))
def test_it_reads_what_pytorch_reads(tmp_path_factory: pytest.TempPathFactory, values: list[torch.Tensor]) -> None:
    named = OrderedDict((f"layer.{number}", value) for number, value in enumerate(values))
    path = save(named, tmp_path_factory.mktemp("checkpoint") / "model.pth")
    read = read_checkpoint(path)
    assert list(read) == list(named)
    for name, value in named.items():
        assert read[name].dtype == value.numpy().dtype
        np.testing.assert_array_equal(read[name], value.numpy(), strict=True)


def test_it_reads_the_picture_tower_as_pytorch_does() -> None:
    read = read_checkpoint(picture_weights())
    own = torch.load(picture_weights(), map_location="cpu", weights_only=True)
    assert read.keys() == own.keys()
    assert all(np.array_equal(read[name], value.numpy()) for name, value in own.items())


class Asks:
    """Pickled, it asks the reader to make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("place", ["magic", "content", "value"])
def test_nothing_that_a_file_asks_for_is_run(tmp_path: Path, place: str) -> None:
    made, path = tmp_path / "made", tmp_path / "model.pth"
    asks = Asks(made)
    if place == "magic":
        path.write_bytes(pickle.dumps(asks))
    else:
        save(asks if place == "content" else OrderedDict(a=torch.zeros(2), b=asks), path)
    with pytest.raises(ExportError, match=r"model\.pth.*names posix\.mkdir"):
        read_checkpoint(path)
    assert not made.exists()


@given(st.integers(0, 2**32), st.sampled_from(["cut", "changed"]))
def test_a_damaged_file_is_refused_or_read(tmp_path_factory: pytest.TempPathFactory, seed: int, damage: str) -> None:
    chance = np.random.default_rng(seed)
    path = tmp_path_factory.mktemp("damaged") / "model.pth"
    save(OrderedDict(weight=torch.arange(12.0).reshape(3, 4), count=torch.tensor(3)), path)
    content = bytearray(path.read_bytes())
    place = int(chance.integers(len(content)))
    if damage == "cut":
        del content[place:]
    else:
        content[place] = int(chance.integers(256))
    path.write_bytes(content)
    read = {}
    with suppress(ExportError):
        read = read_checkpoint(path)
    assert not read or damage == "changed"
    assert all(isinstance(value, np.ndarray) for value in read.values())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (OrderedDict(a=torch.zeros(1), epoch=3), "other things than tensors"),
        ([torch.zeros(1)], "another format"),
        (OrderedDict(a=torch.zeros(1, dtype=torch.float16)), "HalfStorage"),
    ],
)
def test_what_is_not_plain_tensors_is_refused(tmp_path: Path, content: Any, why: str) -> None:
    with pytest.raises(ExportError, match=why):
        read_checkpoint(save(content, tmp_path / "model.pth"))


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"none\.pth.*No such file"):
        read_checkpoint(tmp_path / "none.pth")
