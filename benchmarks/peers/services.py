"""Retrieval by two packages that embed pictures themselves, with NumPy's exact search behind them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rar.runtime.bundle.manifest import Bundle
from rar.runtime.errors import RarError
from rar.runtime.stages import in_stage

from ..latency.work import Opened
from .pytorch import Terms, distinct, exact

_BATCHES = (1, 8, 32)
# A model that fastembed knows; the path of its files is given separately.
_FASTEMBED_MODEL = "Qdrant/clip-ViT-B-32-vision"
_PILLOW_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}


def open_fastembed(terms: Terms) -> Opened:
    """Embeds by fastembed with the bundle's own picture graph: Pillow, NumPy and ONNX Runtime as it sets them."""
    from fastembed import ImageEmbedding

    model = ImageEmbedding(_FASTEMBED_MODEL, specific_model_path=str(terms.folder / "fastembed"), threads=terms.threads)

    def embed(pictures: Sequence[Path]) -> Any:
        return np.stack(list(model.embed([str(picture) for picture in pictures], batch_size=len(pictures))))

    return _open(embed, terms)


def write_model(bundle: Path, folder: Path) -> None:
    """The bundle's picture graph and its preparation in fastembed's layout.

    Raises:
        RarError: fastembed has no such preparation.
    """
    opened = Bundle.open(bundle)
    settings = opened.read_json("clip", "preprocess.json")
    if settings["fit"] != "crop":
        raise RarError(f"fastembed crops pictures, where this encoder wants them fitted by {settings['fit']!r}")
    for name in opened.component("clip").files:
        if name.startswith("visual.onnx"):
            target = "model.onnx" if name == "visual.onnx" else name
            os.symlink(opened.file("clip", name).resolve(), folder / target)
    size = settings["size"]
    config = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": settings.get("shortest_edge") or size},
        "resample": _PILLOW_FILTERS[settings["filter"]],
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": settings["mean"],
        "image_std": settings["std"],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(config), encoding="utf-8")


def open_infinity(terms: Terms) -> Opened:
    """Embeds by infinity's engine for CLIP, PyTorch behind a queue.

    Raises:
        RarError: infinity runs only folders of transformers, and the encoder is not one.
    """
    from infinity_emb import EngineArgs, SyncEngineArray

    if terms.encoder[0] != "transformers":
        raise RarError(
            "infinity runs CLIP from a folder of transformers; this encoder was exported from something else"
        )
    folder = terms.encoder[1]
    engine = SyncEngineArray.from_args([EngineArgs(model_name_or_path=folder, engine="torch", device="cpu")])

    def embed(pictures: Sequence[Path]) -> Any:
        images = [picture.read_bytes() for picture in pictures]
        embeddings, _ = engine.image_embed(model=folder, images=images).result()
        return np.asarray(embeddings, np.float32)

    return _open(embed, terms)


def _open(embed: Any, terms: Terms) -> Opened:
    search, labels = exact(terms), terms.labels()

    def answer(pictures: Sequence[Path], batch: int) -> list[str]:
        nearest = []
        for start in range(0, len(pictures), batch):
            # Decoded and prepared inside.
            with in_stage("embed"):
                embeddings = embed(pictures[start : start + batch])
            with in_stage("search"):
                nearest += [distinct(places, labels, terms.k)[0] for places in search(embeddings)]
        return nearest

    return Opened(answer, _BATCHES)
