"""An actor that says which one it is."""

from __future__ import annotations

import os

import pyarrow as pa

from rar.serving.ray.recognise import Recognise

WORKER = "worker"


class Worker(Recognise):
    """`Recognise`, with a column that tells the actors apart."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        """As there."""
        rows = super().__call__(batch)
        return rows.append_column(WORKER, pa.array([str(os.getpid())] * len(rows), pa.string()))
