"""A memory whose pictures are embedded by a real cluster is the one that this process builds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rar.export.cli import main
from rar.export.pictures.embed import Batch
from rar.export.pictures.labelled import LabelledImage
from rar.runtime import BundleError, InputError, RarError
from rar.runtime.bundle.manifest import Bundle
from rar.serving.ray.embed import RayEmbedder

PARTS = ("vectors.npy", "entries.npy", "index.usearch", "reduction.npz", "discriminant.npz")


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 small pictures of five classes: 13 batches, the last one short."""
    folder = tmp_path_factory.mktemp("noise")
    chance = np.random.default_rng(0)
    for i in range(400):
        path = folder / f"class {i % 5}" / f"{i:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(chance.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return folder


def built(bundle: Path, out: Path, images: Path, *more: str) -> int:
    return main(["memory", str(bundle), "--images", str(images), "--out", str(out), "--provider", "cpu", *more])


@pytest.mark.parametrize("threads", ["1", "2"])
def test_the_memory_is_the_same_for_any_number_of_actors(
    cluster: Any, tiny_bundle: Path, noise: Path, tmp_path: Path, threads: str
) -> None:
    assert built(tiny_bundle, tmp_path / "here", noise, "--threads", "1") == 0
    assert built(tiny_bundle, tmp_path / "ray", noise, "--threads", "1", "--engine", "ray") == 0
    here, ray = (Bundle.open(tmp_path / name).component("memory").files for name in ("here", "ray"))
    assert here.keys() == ray.keys()
    compared = [name for name in here if name.rpartition("/")[2] in PARTS or name.endswith(".usearch")]
    assert len(compared) >= 3
    for name in compared:
        assert here[name].sha256 == ray[name].sha256, name


def batches(*paths: Path) -> list[Batch]:
    return [[LabelledImage(path, "a") for path in paths]]


def test_a_broken_picture_is_named(cluster: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"class 'a': .*broken\.png.*mend or remove the picture"):
        list(RayEmbedder(tiny_bundle, provider="cpu")(batches(tmp_path / "broken.png")))


def test_a_picture_that_ends_each_process_ends_the_job(
    cluster: Any, tiny_bundle: Path, noise: Path, tmp_path: Path
) -> None:
    deadly = tmp_path / "deadly-1.png"
    deadly.write_bytes(next(noise.rglob("*.png")).read_bytes())
    with pytest.raises(RarError, match="Ray: "):
        list(RayEmbedder(tiny_bundle, provider="cpu")(batches(deadly)))


def test_nodes_with_different_encoders_are_refused(cluster: Any, tiny_bundle: Path, noise: Path) -> None:
    shutil.copytree(tiny_bundle, cluster.homes[0] / "bundle")
    with pytest.raises(BundleError, match="copy the bundle to the same path on each node"):
        list(RayEmbedder("/proc/self/cwd/bundle", provider="cpu")(batches(next(noise.rglob("*.png")))))


def test_an_address_without_an_engine_is_refused(tiny_bundle: Path, noise: Path, tmp_path: Path) -> None:
    assert built(tiny_bundle, tmp_path / "out", noise, "--address", "auto") == 2
    assert not (tmp_path / "out").exists()
