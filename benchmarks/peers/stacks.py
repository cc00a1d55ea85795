"""The optional stacks that `rar-bench latency` compares this runtime with; their common files are prepared once.

Retrieval: `torch-best` (the fastest of several ways, and `torch-best-fp32` of those at fp32, for equal precision),
`torch-eager`, `clip-retrieval`, `fastembed`, `infinity`, three of OpenVINO, and three of this runtime on OpenVINO
(`rar-openvino`). Retrieval and ranking: `transformers-generate`, `rar-paper`. All get the encoder that the bundle was
exported from, and search the vectors of the bundle's memory.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from rar.runtime.bundle.manifest import Bundle
from rar.runtime.encoder.info import EncoderInfo
from rar.runtime.errors import InputError
from rar.runtime.memory import Memory

from ..latency.work import Opened, Way
from ..made import made
from . import engines, pytorch, rank, services, torch_best
from .pytorch import LABELS, NAMES, VECTORS, Terms


@dataclass(frozen=True)
class Peer:
    """One stack.

    Attributes:
        name: Its name on the command line.
        way: The way that it runs.
        open: Opens it; pickled.
        needs: Module -> what to install if it is missing.
        index: Makes its index of the vectors' file, in a folder; None without an index.
        prepare: Makes whatever else it needs; None if that is nothing.
    """

    name: str
    way: Way
    open: Callable[[Terms], Opened]
    needs: Mapping[str, str]
    index: Callable[[Path, Path], None] | None = None
    prepare: Callable[[Terms], None] | None = None

    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        absent = [package for module, package in self.needs.items() if importlib.util.find_spec(module) is None]
        return f"not installed: pip install {' '.join(absent)}" if absent else None


_TORCH = {"torch": "torch"}
_VISION = {**_TORCH, "torchvision": "torchvision"}
_FAISS = {"faiss": "faiss-cpu"}
_OPENVINO = {"openvino": "openvino"}
_WRITES = {**_TORCH, "transformers": "transformers"}

PEERS = (
    Peer("torch-best", "retrieve", torch_best.open_best, _VISION, prepare=torch_best.prepare),
    Peer(
        "torch-best-fp32",
        "retrieve, fp32",
        torch_best.open_best_fp32,
        _VISION,
        prepare=torch_best.prepare,
    ),
    Peer("torch-eager", "retrieve", pytorch.open_eager, _TORCH),
    Peer(
        "clip-retrieval",
        "retrieve",
        pytorch.open_clip_retrieval,
        {**_TORCH, **_FAISS},
        index=pytorch.build_clip_retrieval_index,
    ),
    Peer("fastembed", "retrieve", services.open_fastembed, {"fastembed": "fastembed"}),
    *(
        Peer(
            f"openvino-{kind}",
            "retrieve",
            partial(engines.open_openvino, kind),
            _OPENVINO,
            prepare=partial(engines.prepare_openvino, kind),
        )
        for kind in engines.KINDS
    ),
    Peer("rar-openvino", "retrieve", partial(engines.open_ours_on_openvino, None), _OPENVINO),
    Peer("rar-openvino-fp32", "retrieve, fp32", partial(engines.open_ours_on_openvino, "fp32"), _OPENVINO),
    Peer(
        "rar-openvino-bf16",
        "retrieve",
        partial(engines.open_ours_on_openvino, "bf16"),
        _OPENVINO,
        prepare=engines.need_fp32,
    ),
    Peer("infinity", "retrieve", services.open_infinity, {"infinity_emb": "infinity-emb[torch,vision]"}),
    Peer("transformers-generate", "rank", rank.open_generate, _WRITES),
    Peer("rar-paper", "rank", rank.open_paper, {**_WRITES, **_FAISS}, index=rank.build_paper_index),
)

# This runtime is compared with the best of these.
BASELINES: Mapping[Way, set[str]] = {
    "retrieve": {"torch-best"},
    "retrieve, fp32": {"torch-best-fp32"},
    "rank": {"rar-paper"},
    "rank, gated": {"rar-paper"},
}


def chosen(names: Sequence[str] | None) -> list[Peer]:
    """The peers of these names; None for all, `none` for none.

    Raises:
        InputError: A name is unknown.
    """
    known = {peer.name: peer for peer in PEERS}
    names = list(known) if names is None else [] if list(names) == ["none"] else names
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"the peer {unknown[0]!r} is unknown; choose {', '.join(known)}, or none")
    return [known[name] for name in names]


def terms_of(bundle: Bundle, work: Path, k: int, threads: int | None, encoder: Sequence[str] | None = None) -> Terms:
    """The inputs of the peers, from the bundle's record of its sources.

    Args:
        bundle: The bundle.
        work: The folder for prepared files.
        k: Candidates.
        threads: Threads of all libraries.
        encoder: Replaces the bundle's record of its encoder; see `Terms`.
    """
    source = EncoderInfo.of(bundle).source
    kind, _, rest = source.partition(" ")
    parts = ("starter",) if kind == "starter:" else (kind, *rest.rsplit(" ", 1))
    if kind == "transformers":  # the model's type, then its folder
        parts = (kind, rest.partition(" ")[2])
    mllm, merged = None, False
    if "mllm" in bundle.components:
        info = bundle.component("mllm").info
        mllm = "starter" if info["architecture"] == "starter" else str(info["source"]).split(" ", 2)[2]
        merged = bool(info["adapter"]) and mllm == "starter"
    return Terms(work, bundle.root, tuple(encoder or parts), mllm, merged, k, threads)


def prepare(terms: Terms, peers: Sequence[Peer]) -> None:
    """Writes the peers' files: vectors, labels and indexes, the starter's names and its MLLM. Existing files are kept.

    Raises:
        RarError: Something could not be made.
    """
    bundle = Bundle.open(terms.bundle)
    memory = Memory.open(bundle)
    part = memory.parts["texts" if memory.text_weight == 1 else "pictures"]
    there = np.flatnonzero(part.labels >= 0)
    np.save(terms.folder / VECTORS, part.vectors[there].astype(np.float32))
    names = memory.labels
    labels = [names[label] for label in part.labels[there].tolist()]
    (terms.folder / LABELS).write_text(json.dumps(labels), encoding="utf-8")
    memory_made, encoder_made = bundle.component("memory").fingerprint, bundle.component("clip").fingerprint
    for peer in peers:
        if peer.index is not None:
            build = partial(peer.index, terms.folder / VECTORS)
            made(terms.folder / peer.name, {"memory": memory_made}, build)
    if terms.encoder == ("starter",):
        made(terms.folder / NAMES, {"encoder": encoder_made}, partial(pytorch.write_names, terms.bundle))
    if any(peer.name == "fastembed" for peer in peers):
        made(terms.folder / "fastembed", {"encoder": encoder_made}, partial(services.write_model, terms.bundle))
    for peer in peers:
        if peer.prepare is not None:
            peer.prepare(terms)
    if terms.mllm == "starter" and any(peer.way == "rank" for peer in peers):
        asked = {"mllm": bundle.component("mllm").fingerprint}
        made(terms.folder / rank.MLLM, asked, partial(rank.save_starter, terms.merged))
