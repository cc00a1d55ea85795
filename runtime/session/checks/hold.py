"""Compares a graph with its stored runs before its first answer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ...bundle.manifest import Bundle
from ...errors import BundleError, ProviderError
from .measure import LIMITS, Measured, Runs, measure
from .outcomes import Key, Place, recall, remember
from .runs import again, check_file, load_runs


def graph_precision(bundle: Bundle, component: str, graph: str) -> str:
    """The precision of a graph that was exported with runs: a key of `LIMITS`.

    Raises:
        BundleError: The manifest does not name the precision.
    """
    info: Any = bundle.component(component).info
    try:
        precision = str(info["checks"][graph]["precision"])
        LIMITS[precision]
    except (KeyError, TypeError) as error:
        raise BundleError(
            f"{bundle.root}: the entry of {component} in bundle.json does not say which precision {graph} has "
            f"({error!r}); export it again: {again(component)}"
        ) from error
    return precision


def key_of(
    bundle: Bundle, component: str, graph: str, place: Place, precision: str | None = None, computed: str | None = None
) -> Key:
    """The key of a graph's outcome: all that the outcome is valid for.

    Args:
        bundle: The bundle.
        component: The graph's component.
        graph: The graph's name in it; exported with runs.
        place: What runs the graph.
        precision: A key of `LIMITS`, if the graph was converted to another precision than its own.
        computed: A key of `LIMITS`, if it is computed in less than its own; the wider limits of the two count.

    Raises:
        BundleError: The manifest does not name the graph's precision.
    """
    part = bundle.component(component)
    precision = precision or graph_precision(bundle, component, graph)
    limit = min((LIMITS[precision], LIMITS[computed or precision]), key=lambda limit: limit.mean)
    files = [part.files[name].sha256 for name in (graph, f"{graph}.data", check_file(graph)) if name in part.files]
    return Key(f"{component}/{graph}", hashlib.sha256("\n".join(files).encode()).hexdigest(), place, limit)


def hold(bundle: Bundle, session: Runs, key: Key, cache: Path) -> Measured:
    """Compares a session's outputs on the graph's runs with fp32, unless a stored outcome says that they passed.

    Args:
        bundle: The bundle.
        session: What runs the graph.
        key: See `key_of`.
        cache: The user's cache folder.

    Raises:
        ProviderError: The outputs are too far from fp32, or not finite.
        BundleError: The stored runs are missing, altered or damaged.
    """
    known = recall(bundle, cache, key)
    if known is not None:
        return known.measured
    component, _, graph = key.graph.partition("/")
    measured = measure(session, load_runs(bundle, component, graph))
    if not measured.within(key.limit):
        raise ProviderError(failure(bundle, key, measured))
    remember(bundle, cache, key, measured)
    return measured


def failure(bundle: Bundle, key: Key, measured: Measured) -> str:
    """The message of a failed comparison: the measurement, the device, and what to do."""
    return (
        f"{bundle.root}: {key.graph} on {key.place} is too far from fp32 on the inputs it was exported with: "
        f"{measured}; the limits are {key.limit}. Nothing is answered with it: choose another --provider, export the "
        "bundle at a higher --precision, or install another version of the library; "
        f"`rar-export verify {bundle.root} --provider {key.place.provider}` shows all graphs"
    )
