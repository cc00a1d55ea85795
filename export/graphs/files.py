"""ONNX graphs on disk, with their weights beside them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import onnx


_INSIDE = 1024  # bytes below which a weight stays in the graph


_PAGE = 4096  # weights start on a page boundary, so that each can be mapped


def save(model: onnx.ModelProto, path: Path, weights: Iterable[onnx.TensorProto] | None = None) -> None:
    """Writes a graph with its weights in `<name>.onnx.data`.

    ONNX Runtime maps such a file; weights inside the graph would be in memory twice while it is opened.

    Args:
        model: The graph.
        path: The `.onnx` to write.
        weights: Its initializers, instead of those in `model`. Each is written at once and not kept, so a model of any
            size needs only the memory of its largest tensor.
    """
    import onnx

    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)  # onnx appends to an existing file
    if weights is None:
        onnx.save(model, str(path), save_as_external_data=True, location=data.name, size_threshold=_INSIDE)
    else:
        del model.graph.initializer[:]
        with data.open("wb") as file:
            for tensor in weights:
                model.graph.initializer.append(_moved(tensor, file, data.name))
        if not data.stat().st_size:
            data.unlink()
        onnx.save(model, str(path))
    if data.exists():
        data.chmod(0o644)  # onnx makes it private; a bundle is copied between users


def _moved(tensor: onnx.TensorProto, file: BinaryIO, location: str) -> onnx.TensorProto:
    """Appends a large tensor's values to a file; returns a tensor that refers to them. Small tensors stay inline."""
    import onnx

    if not tensor.HasField("raw_data") or len(tensor.raw_data) < _INSIDE:
        return tensor
    file.write(bytes(-file.tell() % _PAGE))
    offset = file.tell()
    length = file.write(tensor.raw_data)
    entries = (("location", location), ("offset", str(offset)), ("length", str(length)))
    return onnx.TensorProto(
        name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, data_location=onnx.TensorProto.EXTERNAL,
        external_data=[onnx.StringStringEntryProto(key=key, value=value) for key, value in entries],
    )  # fmt: skip
