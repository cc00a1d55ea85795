"""A bundle's multimodal LLM: pictures to embeddings, and the language model behind its prompt format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from ..bundle import Bundle
from ..clip import Clip
from ..errors import BundleError, InputError
from ..preprocess import Preprocess
from ..rank import Query
from ..session import Session
from .decoder import Decoder, Shape
from .prompt import Prompt

Floats = npt.NDArray[np.float32]

_PICTURES_A_RUN = 16


class Mllm:
    """The MLLM of a bundle, loaded.

    Args:
        bundle: The bundle.
        clip: Its encoder, whose features some models see the pictures by.
        threads: Threads of preprocessing; None for one a core. Its graphs are opened as the encoder's are.
        budget: See `Decoder`.
        reuse_head: See `Decoder`.
        pack_branches: See `Decoder`.

    Attributes:
        prompt: Its prompt format.
        decoder: Its language model.

    Raises:
        InputError: The bundle holds no MLLM.
        BundleError: A part of it is missing or damaged, or it was made for another encoder.
        ProviderError: The device is not there.
    """

    def __init__(
        self,
        bundle: Bundle,
        clip: Clip,
        threads: int | None = None,
        *,
        budget: int | None = None,
        reuse_head: bool = True,
        pack_branches: bool = True,
    ) -> None:
        if "mllm" not in bundle.components:
            raise InputError(f"{bundle.root}: the bundle holds no MLLM; add one with `rar-export mllm`")
        info = bundle.component("mllm").info
        try:
            shape = Shape(int(info["layers"]), int(info["kv_heads"]), int(info["head_dim"]))
            precision = {name: str(info["precision"][name]) for name in ("vision", "embed", "decoder")}
            self._input = str(info["vision_input"])
            if self._input not in ("pixel_values", "image_features"):
                raise ValueError(f"a known vision_input, not {self._input!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"{bundle.root}: the MLLM's entry in bundle.json lacks {error}; export it again with this release"
            ) from error
        self._preprocess: Preprocess | None = None
        if self._input == "image_features":
            _check_encoder(bundle, clip, info)
        else:
            self._preprocess = _preprocess(bundle, threads)
        self.prompt = Prompt.from_dict(bundle.read_json("mllm", "prompt.json"), _tokenizer(bundle))

        sessions = clip.sessions.of(bundle)

        def load(name: str) -> Session:
            return sessions.open("mllm", f"{name}.onnx", fp16=precision[name].startswith("fp16"))

        self._vision = load("vision")
        self.decoder = Decoder(
            load("embed"),
            load("decoder"),
            shape,
            self.prompt.positions,
            budget=budget,
            reuse_head=reuse_head,
            pack_branches=pack_branches,
        )

    def see(self, queries: Sequence[Query]) -> Floats:
        """The pictures as the language model takes them, in as few passes as memory allows: float32 [N, T, D]."""
        runs = [
            self._vision.run({self._input: self._inputs(queries[start : start + _PICTURES_A_RUN])}, ["image_embeds"])
            for start in range(0, len(queries), _PICTURES_A_RUN)
        ]
        return np.concatenate([np.asarray(run["image_embeds"], np.float32) for run in runs])

    def _inputs(self, queries: Sequence[Query]) -> Floats:
        if self._preprocess is not None:
            return self._preprocess([query.pixels for query in queries])
        features = [query.features for query in queries if query.features is not None]
        if len(features) < len(queries):
            raise InputError("this MLLM sees pictures by the encoder's image_features; pass them with each query")
        return np.stack(features)


def _check_encoder(bundle: Bundle, clip: Clip, info: Mapping[str, Any]) -> None:
    if info.get("encoder") != bundle.component("clip").fingerprint or not clip.has_features:
        raise BundleError(
            f"{bundle.root}: the MLLM was made for another encoder's features; export the encoder and the MLLM again"
        )


def _preprocess(bundle: Bundle, threads: int | None) -> Preprocess:
    settings = bundle.read_json("mllm", "preprocess.json")
    try:
        return Preprocess.from_dict(settings, threads=threads)
    except InputError as error:
        raise BundleError(f"{bundle.root}: mllm/preprocess.json: {error}; export the MLLM again") from error


def _tokenizer(bundle: Bundle) -> tokenizers.Tokenizer:
    path = bundle.file("mllm", "tokenizer.json")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # `tokenizers` raises the bare Exception
        raise BundleError(f"{path}: not a tokenizer ({error}); export the MLLM again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
