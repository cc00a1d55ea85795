"""A bundle's multimodal LLM: its vision part, its prompt format and its language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import tokenizers

from ...bundle.files import utf8_path
from ...bundle.manifest import Bundle
from ...errors import BundleError, InputError
from ...picture.preprocess import Preprocess
from ...session import Session, Sessions
from ..protocol import Query
from .decoder import Decoder
from .info import MllmInfo
from .prompt import Prompt
from .rows import RowDecoder
from .tree import Positions

Floats = npt.NDArray[np.float32]

_PICTURES_A_RUN = 16


class Encoder(Protocol):
    """What of a bundle's encoder an MLLM needs; `Clip` has it."""

    @property
    def sessions(self) -> Sessions:
        """Opens the graphs."""
        ...

    @property
    def has_features(self) -> bool:
        """Whether it gives the features that some models see pictures by."""
        ...


class Mllm:
    """The MLLM of a bundle, loaded.

    Args:
        bundle: The bundle.
        clip: The bundle's encoder; some models see the pictures by its features.
        threads: Threads of preprocessing; None for one per core. The graphs are opened like the encoder's.
        budget: See `Decoder`.

    Attributes:
        bundle: The bundle.
        prompt: Its prompt format.
        decoder: Its language model.

    Raises:
        InputError: The bundle holds no MLLM.
        BundleError: A part of the MLLM is missing or damaged, or it was made for another encoder.
        ProviderError: The device is missing.
    """

    def __init__(
        self,
        bundle: Bundle,
        clip: Encoder,
        threads: int | None = None,
        *,
        budget: int | None = None,
    ) -> None:
        if "mllm" not in bundle.components:
            raise InputError(f"{bundle.root}: the bundle holds no MLLM; add one with `rar-export mllm`")
        self.bundle = bundle
        info = MllmInfo.of(bundle)
        self._input = info.vision_input
        self._preprocess: Preprocess | None = None
        if self._input == "image_features":
            _check_encoder(bundle, clip, info)
        else:
            self._preprocess = _preprocess(bundle, threads)
        self.prompt = Prompt.from_dict(bundle.read_json("mllm", "prompt.json"), _tokenizer(bundle))

        sessions = clip.sessions.of(bundle)

        def load(name: str) -> Session:
            return sessions.open("mllm", f"{name}.onnx", fp16=info.half(name))

        self._vision = load("vision")
        embed, decoder = load("embed"), load("decoder")
        self.decoder: Decoder | RowDecoder
        if info.attention == "tree":
            self.decoder = Decoder(embed, decoder, info.shape, self.prompt.positions, budget=budget)
        elif self.prompt.positions != Positions():
            raise BundleError(
                f"{bundle.root}: the MLLM's decoder ({info.attention}) takes one position a token and lets none see a "
                "later one, its prompt.json asks for more; export it again"
            )
        else:
            self.decoder = RowDecoder(embed, decoder, info.shape, padded=info.attention == "rows")

    def see(self, queries: Sequence[Query]) -> Floats:
        """The pictures' embeddings for the language model, in as few passes as memory allows: float32 [N, T, D]."""
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


def _check_encoder(bundle: Bundle, clip: Encoder, info: MllmInfo) -> None:
    if info.encoder != bundle.component("clip").fingerprint or not clip.has_features:
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
        with utf8_path(path) as name:
            tokenizer = tokenizers.Tokenizer.from_file(name)
    except Exception as error:  # `tokenizers` raises the bare Exception
        raise BundleError(f"{path}: not a tokenizer ({error}); export the MLLM again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
