"""One form of a result for all engines: the row of `rar-recognize --json`, as a dict and as an Arrow schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rar.runtime.cli.records import Row, to_row

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Row", "schema", "to_row"]


def schema() -> pa.Schema:
    """The Arrow schema of rows; its fields are those of `Row`, in the same order."""
    import pyarrow as pa

    number, text = pa.float64(), pa.string()
    entry = pa.struct({"modality": text, "source": text})
    candidate = pa.struct({"label": text, "similarity": number, "rank_score": number, "entry": entry})
    region = pa.struct({"label": text, "box": pa.list_(number), "description": text, "score": number})
    return pa.schema(
        {
            "label": text,
            "score": number,
            "probability": number,
            "unknown": number,
            "candidates": pa.list_(candidate),
            "retrieved": pa.list_(text),
            "ranked_by": text,
            "skipped": text,
            "fallback": pa.bool_(),
            "truncated": pa.bool_(),
            "regions": pa.list_(region),
            "milliseconds": pa.map_(text, number),
            "provider": text,
            "error": text,
        }
    )
