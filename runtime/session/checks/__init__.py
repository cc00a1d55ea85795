"""Compares every graph with stored fp32 outputs before its first answer, whatever runs it."""

from .hold import failure, graph_precision, hold, key_of
from .measure import LIMITS, Limit, Measured, Runs, compare, measure
from .outcomes import Key, Place, outcomes, recall, remember
from .runs import Run, again, check_file, has_runs, load_runs, narrowed, read_runs, sampled, save_runs

__all__ = [
    "LIMITS",
    "Key",
    "Limit",
    "Measured",
    "Place",
    "Run",
    "Runs",
    "again",
    "check_file",
    "compare",
    "failure",
    "graph_precision",
    "has_runs",
    "hold",
    "key_of",
    "load_runs",
    "measure",
    "narrowed",
    "outcomes",
    "read_runs",
    "recall",
    "remember",
    "sampled",
    "save_runs",
]
