"""Stores fp32 runs beside each graph, and compares the graph with them at export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rar.runtime.errors import ExportError
from rar.runtime.machine.cpu import instruction_sets
from rar.runtime.session import Session
from rar.runtime.session.checks import LIMITS, Run, check_file, measure, save_runs

# Short, and with an accent, digits and signs.
TEXTS = ("a photo of a Granny Smith apple.", "crème brûlée, 747-400")


def store_runs(folder: Path, graph: str, runs: Sequence[Run], session: Session, precision: str) -> dict[str, Any]:
    """Writes a graph's runs beside it.

    Args:
        folder: The component's folder.
        graph: The graph's name in it.
        runs: Inputs and their fp32 outputs.
        session: The exported graph.
        precision: The graph's precision: a key of `LIMITS`.

    Returns:
        The manifest's entry: the precision, the cosines, and the instruction sets that they were measured on.

    Raises:
        ExportError: The graph is outside the limits of its precision.
    """
    measured, limit = measure(session, runs), LIMITS[precision]
    if not measured.within(limit):
        raise ExportError(
            f"the {precision} graph {graph} is too far from fp32 on the inputs that it is to be checked with: "
            f"{measured}; the limits are {limit}. Choose a higher precision"
        )
    save_runs(folder / check_file(graph), runs)
    return {
        "precision": precision,
        "worst": measured.worst,
        "mean": measured.mean,
        "count": measured.count,
        "instruction_sets": list(instruction_sets()),
    }


def arrays(names: Sequence[str], outputs: Any) -> dict[str, npt.NDArray[np.generic]]:
    """A module's output, or tuple of outputs, as arrays by name."""
    values = outputs if isinstance(outputs, tuple) else (outputs,)
    return {name: value.detach().float().numpy() for name, value in zip(names, values, strict=True)}
