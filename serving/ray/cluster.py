"""A Ray cluster: connected to, or started here for one job; and what its nodes have."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rar.runtime import errors
from rar.runtime.errors import BundleError, InputError, RarError

from ..fingerprint import fingerprint

# An error of ours as a traceback ends with it.
_OURS = re.compile(r"^(?:.*[ .])?rar\.runtime\.errors\.(\w+Error): (.+)$", re.MULTILINE)


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A connection to a cluster; without an address to one that is started on this machine, and ends with the block.

    Raises:
        InputError: Nobody answers at the address.
    """
    if ray.is_initialized():  # the caller's own
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports to its makers
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="warning")
        else:
            ray.init(address=address, log_to_driver=False, logging_level="warning")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"no Ray cluster at {address or 'this machine'} ({error}); check --address") from error
    try:
        yield
    finally:
        ray.shutdown()


def quiet() -> None:
    """Leaves progress and errors of data sets to the caller, who has one bar and one line for them."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def nodes() -> list[dict[str, Any]]:
    """The nodes that work."""
    return [node for node in ray.nodes() if node["Alive"]]


def check_bundles(bundle: str, told: Callable[[str], str] = fingerprint) -> str:
    """The fingerprint of a bundle that all nodes have.

    Args:
        bundle: Its folder.
        told: What is compared of it.

    Raises:
        BundleError: A node has none, or nodes have different ones.
    """
    asked = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes()}
    look = ray.remote(num_cpus=0)(_look)
    found_by = ray.get(
        [
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(one, soft=False)).remote(bundle, told)
            for one in asked
        ]
    )
    for address, (found, error) in zip(asked.values(), found_by, strict=True):
        if found is None:
            raise BundleError(f"node {address}: {error}; copy the bundle to the same path on each node")
    different = {one for one, _ in found_by}
    if len(different) > 1:
        raise BundleError(
            f"{bundle}: {len(different)} different bundles on the {len(asked)} nodes {', '.join(asked.values())}; "
            "copy one to all"
        )
    return str(different.pop())


def actors(threads: int) -> int:
    """How many actors of so many threads the nodes have CPUs for.

    Raises:
        InputError: Not even one.
    """
    count = sum(int(node["Resources"].get("CPU", 0) // threads) for node in nodes())
    if not count:
        raise InputError(f"no node has {threads} CPUs; give fewer --threads")
    return count


def own_error(error: BaseException) -> RarError:
    """Ray's error as one of ours: what an actor raised, or else Ray's own last line.

    Ray Data sends what a function raises as text alone.
    """
    ours = _OURS.findall(str(error))
    if ours:
        return named_error(*ours[-1])
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return RarError(f"Ray: {type(error).__name__}: {lines[-1] if lines else ''}")


def named_error(name: str, message: str) -> RarError:
    """The error of ours with this class's name."""
    kind: type[RarError] = getattr(errors, name, RarError)
    return kind(message)


def _look(bundle: str, told: Callable[[str], str]) -> tuple[str | None, str]:
    try:
        return told(bundle), ""
    except RarError as error:
        return None, str(error)
