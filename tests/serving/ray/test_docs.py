"""What docs/scale.md shows is what happens: its commands and programs run on a cluster of two nodes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from documents import needing, typed, with_own

from rar.export.memory.build import MemorySource, build_memory
from rar.export.pictures.labelled import read_images
from rar.runtime import Bundle, Memory

BLOCKS = needing("a cluster", "scale.md")
Run = Callable[..., str]


@pytest.fixture
def run(cluster: Any, tmp_path: Path) -> Run:
    """Runs a block where a user of the cluster is."""

    def run(text: str, language: str = "python", **variables: str) -> str:
        return typed(language, text, tmp_path, RAY_ADDRESS=cluster.address, **variables)

    return run


@pytest.fixture
def own(five_classes: tuple[Path, Path], class_pictures: list[Path], tmp_path: Path) -> dict[str, object]:
    """Stand-ins for what the document names: a bundle, pictures, and a bucket with pictures and a Parquet file."""
    bundle, photos = five_classes
    (tmp_path / "bucket/photos").mkdir(parents=True)
    for picture in class_pictures:
        name = f"{picture.parent.name}-{picture.name}"
        shutil.copy(picture, (tmp_path / "bucket/photos" / name).with_suffix(".jpg"))
    rows = {"number": list(range(12)), "bytes": [path.read_bytes() for path in class_pictures]}
    pq.write_table(pa.table(rows), tmp_path / "bucket/rows.parquet")
    shutil.copytree(photos, tmp_path / "data/photos")
    return {"/srv/bundle": bundle, "/data/": f"{tmp_path}/data/", "s3://": f"file://{tmp_path}/"}


def answers(folder: Path) -> list[dict[str, Any]]:
    rows = [row for part in folder.glob("*.parquet") for row in pq.read_table(part).to_pylist()]
    assert all(len(row["retrieved"]) == 5 and row["error"] is None for row in rows)
    return rows


def test_each_block_is_run_below() -> None:
    assert [block.language for block in BLOCKS] == ["sh", "python", "sh", "python"]
    assert len(needing("processes of its own", "scale.md")) == 1


def test_a_night_of_pictures(run: Run, own: dict[str, object], tmp_path: Path) -> None:
    for line in with_own(BLOCKS[0].text, own).splitlines():
        run(line, "sh")
    assert len(answers(tmp_path / "answers")) == 13
    assert {Path(row["path"]).name.partition("-")[0] for row in answers(tmp_path / "bucket/answers")} == {
        "cat", "coffee", "grass", "rocket"
    }  # fmt: skip
    assert sorted(row["number"] for row in answers(tmp_path / "rows")) == list(range(12))


def test_in_a_program_of_ones_own(run: Run, own: dict[str, object], tmp_path: Path) -> None:
    # Two CPUs are all that the cluster has, and tasks that list and write want one.
    run(with_own(BLOCKS[1].text, {**own, "size=2": "size=1"}))
    assert sorted(row["number"] for row in answers(tmp_path / "data/answers")) == list(range(12))


def test_a_memory_of_many_pictures(
    run: Run, five_classes: tuple[Path, Path], class_pictures: list[Path], tmp_path: Path
) -> None:
    own = {"/srv/bundle": five_classes[0], "/data/photos": class_pictures[0].parents[1], "/srv/new": tmp_path / "new"}
    run(with_own(BLOCKS[2].text, own), "sh")
    with closing(Memory.open(tmp_path / "new")) as memory:
        assert sorted(memory.labels) == sorted({path.parent.name for path in class_pictures})


def test_a_memory_in_two_shards(
    cluster: Any, run: Run, five_classes: tuple[Path, Path], class_pictures: list[Path], tmp_path: Path
) -> None:
    from rar.serving.ray.cluster import nodes

    bundle, photos = five_classes
    images = read_images(photos)
    there = [node["NodeID"] for node in nodes()]
    # Each node's own `shard`, as /srv/shard is on two machines.
    for i, home in enumerate(cluster.homes):
        shard = Path(shutil.copytree(bundle, home / "shard"))
        build_memory(Bundle.open(shard), MemorySource(images=images[i::2]), dim="8", text_weight=0.0, provider="cpu")
    own = {"/srv/shard": "/proc/self/cwd/shard", "10.0.0.1": there[0], "10.0.0.2": there[1], "/srv/encoder": bundle}
    ask = f"\nfor one in rec.recognize({[str(path) for path in class_pictures]}):\n    print(one.label)"
    assert run(with_own(BLOCKS[3].text, own) + ask).split() == [path.parent.name for path in class_pictures]


def test_in_hugging_faces_datasets(five_classes: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (block,) = needing("processes of its own", "scale.md")
    bundle, photos = five_classes
    text = with_own(block.text, {"/srv/bundle": bundle, "/data/photos": photos}) + "\nprint(*answers['answer'])"
    named = {path.parent.name for path in photos.rglob("*.*")}
    assert set(typed("python", text, tmp_path, HF_HOME=str(tmp_path / "hub")).split()) == named
