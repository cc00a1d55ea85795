"""A real Ray cluster of two nodes on this machine; the second runs our kernels without vector instructions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deadly import make_deadly

pytest.importorskip("ray")

_STORE = 100 << 20


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes of one CPU each; this process is connected to them."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        path = [make_deadly(tmp_path_factory.mktemp("path")), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(path))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        head = {"num_cpus": 1, "object_store_memory": _STORE, "include_dashboard": False}
        # A path under /proc/self/cwd is another folder on each node, as on two machines.
        homes = [tmp_path_factory.mktemp("head"), tmp_path_factory.mktemp("second")]
        patch.chdir(homes[0])
        cluster = Cluster(initialize_head=True, head_node_args=head)
        cluster.homes = homes
        patch.chdir(homes[1])
        cluster.add_node(num_cpus=1, object_store_memory=_STORE, env_vars={"RAR_SIMD": "scalar"})
        ray.init(address=cluster.address, log_to_driver=False, logging_level="warning")
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def many(class_pictures: list[Path], tmp_path: Path) -> Callable[[int], list[Path]]:
    """So many pictures of the four classes in one folder, as links; each name begins with its class."""

    def make(count: int) -> list[Path]:
        folder = tmp_path / "many"
        folder.mkdir()
        made = []
        for i in range(count):
            picture = class_pictures[i % len(class_pictures)]
            made.append(folder / f"{picture.parent.name}-{i:05}{picture.suffix}")
            os.link(picture, made[-1])
        return made

    return make
