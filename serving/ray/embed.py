"""`rar-export memory --engine ray`: the pictures of a memory, embedded on all nodes of a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import ray.data

from rar.export.pictures.embed import Batch, embed_batches
from rar.export.pictures.labelled import LabelledImage
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.encoder.clip import Clip
from rar.runtime.errors import BundleError, RarError
from rar.runtime.picture.load import Reading

from .cluster import actors, check_bundles, connected, named_error, own_error, quiet

# Batches that an actor takes at once: it decodes one while it embeds another.
_TOGETHER = 4
# A node that is lost costs an actor one restart. A picture that ends each process that reads it would go on for ever.
_RESTARTS = 3


@dataclass(frozen=True)
class RayEmbedder:
    """Embeds batches on a cluster; see `Embedder`.

    A batch is embedded whole, as it was cut, so that vectors do not depend on how many actors there are. An actor or a
    node that is lost has its batches embedded elsewhere.

    Attributes:
        bundle: The bundle's folder, at the same path on each node, with the same encoder. So are the pictures.
        address: The cluster's; None for one that is started here.
        provider: What runs the encoder.
        threads: Of each actor.
        reading: How large pictures may be.

    Raises:
        InputError: No cluster answers, it has too few CPUs, or a picture cannot be read.
        BundleError: A node has no such bundle, or another encoder.
    """

    bundle: str | os.PathLike[str]
    address: str | None = None
    provider: str = "auto"
    threads: int = 1
    reading: Reading | None = None

    def __call__(self, batches: Sequence[Batch]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """The number of each batch and its vectors, float32 [c, d], in the order in which they are made."""
        if not batches:
            return
        bundle = os.path.abspath(self.bundle)
        with connected(self.address):
            quiet()
            same = check_bundles(bundle, encoder_of)
            rows = [{"number": number, "images": _packed(batch)} for number, batch in enumerate(batches)]
            work = [pa.Table.from_pylist(rows[at : at + _TOGETHER]) for at in range(0, len(rows), _TOGETHER)]
            made = ray.data.from_arrow(work).map_batches(
                _Embed,
                batch_format="pyarrow",
                batch_size=None,
                compute=ray.data.ActorPoolStrategy(size=min(actors(self.threads), len(work))),
                num_cpus=self.threads,
                ray_remote_args_fn=_restarted,
                fn_constructor_kwargs={
                    "bundle": bundle,
                    "expects": same,
                    "provider": self.provider,
                    "threads": self.threads,
                    "reading": self.reading or Reading(),
                },
            )
            try:
                for table in made.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                    for row in table.to_pylist():
                        if row["kind"]:
                            raise named_error(row["kind"], os.fsdecode(row["message"]))
                        yield row["number"], np.frombuffer(row["vectors"], np.float32).reshape(row["count"], -1)
            except ray.exceptions.RayError as error:
                raise own_error(error) from error


class _Embed:
    """One actor."""

    def __init__(self, bundle: str, expects: str, provider: str, threads: int, reading: Reading) -> None:
        if encoder_of(bundle) != expects:  # a node that came later
            raise BundleError(f"{bundle}: this node has another encoder than the one that the job began with")
        self._clip, self._reading = Clip(Bundle.open(bundle), provider, threads), reading

    def __call__(self, work: pa.Table) -> pa.Table:
        rows = work.to_pylist()
        batches = [_unpacked(row["images"]) for row in rows]
        made: list[dict[str, Any]] = []
        try:
            for row, vectors in zip(rows, embed_batches(self._clip, batches, self._reading), strict=True):
                vector_bytes = np.ascontiguousarray(vectors, np.float32).tobytes()
                made.append({"number": row["number"], "count": len(vectors), "vectors": vector_bytes, "kind": ""})
        except RarError as error:  # raised, it would reach the driver without its text
            made.append({"kind": type(error).__name__, "message": os.fsencode(str(error))})
        return pa.Table.from_pylist(made, _MADE)


_MADE = pa.schema(
    {
        "number": pa.int64(),
        "count": pa.int64(),
        "vectors": pa.large_binary(),
        "kind": pa.string(),
        "message": pa.binary(),  # it may name a path that is no text
    }
)


def _restarted() -> dict[str, int]:
    return {"max_restarts": _RESTARTS, "max_task_retries": -1}


def _packed(batch: Batch) -> list[dict[str, bytes | str]]:
    """Pictures as Arrow holds them: a path may be no text."""
    return [{"path": os.fsencode(os.path.abspath(image.path)), "label": image.label} for image in batch]


def _unpacked(images: Sequence[dict[str, Any]]) -> Batch:
    return [LabelledImage(Path(os.fsdecode(image["path"])), image["label"]) for image in images]


def encoder_of(bundle: str) -> str:
    """The fingerprint of a bundle's encoder."""
    return Bundle.open(bundle).component("clip").fingerprint
