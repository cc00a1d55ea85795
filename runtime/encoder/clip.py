"""The dual encoder at run time: maps pictures and texts to embeddings in one space."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..bundle.manifest import Bundle
from ..errors import BundleError, InputError, RarError
from ..machine.cores import usable_cores
from ..picture.preprocess import Preprocess
from ..session import Options, Session, Sessions
from ..session.protocol import Array
from .info import EncoderInfo
from .side import SideBySide
from .tokenizer import Tokenizer

Floats = npt.NDArray[np.float32]

_LOG = logging.getLogger("rar")

_TEXTS_A_RUN = 64
# A picture tower's weights, in bytes, that may be in memory twice.
_TWICE = 64 << 20


@dataclass(frozen=True)
class GrainRegions:
    """The regions that a GRAIN encoder's queries found in one picture.

    Attributes:
        embeddings: float32 [q, d], L2-normalised.
        boxes: float32 [q, 4], x0, y0, x1, y1 as shares of the picture's width and height.
    """

    embeddings: Floats
    boxes: Floats


@dataclass(frozen=True)
class Seen:
    """The outputs of one pass of the picture tower over N pictures.

    Attributes:
        embeddings: float32 [N, d], L2-normalised.
        features: float32 [N, t, C], or None if the encoder has no output `image_features`.
        regions: The regions of each picture, or None if the encoder gives no regions.
    """

    embeddings: Floats
    features: Floats | None = None
    regions: Sequence[GrainRegions] | None = None


# Waits for what was begun, and gives it and the seconds from its beginning to its end.
Begun: TypeAlias = Callable[[], tuple[Seen, float]]


class Clip:
    """A bundle's two towers. The text tower is loaded at its first use.

    Args:
        bundle: The bundle.
        provider: See `Sessions`.
        threads: Threads of preprocessing and of each session; None for one per core.
        options: See `Sessions`.

    Attributes:
        dim: The embeddings' dimension d.
        sessions: Opens the bundle's graphs and knows what runs each.
        preprocess: The model's own picture preparation.
        visual: The picture tower's session.
        templates: Prompt templates for class names, each with one `{}`; none if the encoder has no text tower.

    Raises:
        BundleError: A part of the encoder is missing or damaged.
        ProviderError: The device is missing.
    """

    def __init__(
        self, bundle: Bundle, provider: str = "auto", threads: int | None = None, options: Options | None = None
    ) -> None:
        info = EncoderInfo.of(bundle)
        self.dim, self.templates = info.dim, info.templates
        self._clean, self._fp16 = info.clean, info.half
        settings = bundle.read_json("clip", "preprocess.json")
        try:
            self.preprocess = Preprocess.from_dict(settings, threads=threads)
        except InputError as error:
            raise BundleError(f"{bundle.root}: clip/preprocess.json: {error}; export the encoder again") from error
        self.sessions = Sessions(bundle, provider, threads, options)
        self.visual = self.sessions.open("clip", "visual.onnx", fp16=self._fp16)
        self._bundle, self._threads = bundle, threads or usable_cores()
        # Opened at the first use, of which several threads may be the first.
        self._guard, self._asked, self._closed = Lock(), False, False
        self._side: SideBySide | None = None

    def embed_pixels(self, pixels: Floats) -> Floats:
        """float32 [N, 3, S, S], the output of `preprocess` -> float32 [N, d], L2-normalised."""
        return np.asarray(self.visual.run({"pixel_values": pixels}, ["image_embeds"])["image_embeds"], np.float32)

    def encode(self, pixels: Floats) -> tuple[Floats, Floats | None]:
        """As `embed_pixels`, with the features that an MLLM sees the pictures by, in the same pass.

        Returns:
            float32 [N, d], L2-normalised; float32 [N, t, C], or None if the encoder has no output `image_features`.
        """
        seen = self.see(pixels)
        return seen.embeddings, seen.features

    def see(self, pixels: Floats) -> Seen:
        """All outputs of the encoder for float32 [N, 3, S, S], in one pass."""
        return self._seen(self.visual.run({"pixel_values": pixels}, self._wanted))

    def begin(self, pixels: Floats) -> Begun | None:
        """Begins what `see` does, by other threads, where that is the faster way through many batches.

        Args:
            pixels: float32 [N, 3, S, S].

        Returns:
            Waits for the outputs, and gives them and the seconds that they took; None where `see` is the way.
        """
        count, threads = len(pixels), self._threads
        # Of a small batch in uneven parts some threads would have little to do.
        even = count >= threads > 1 and (count % threads == 0 or count >= 4 * threads)
        side = self._beside() if even else None
        if side is None:
            return None
        begun = side.begin(pixels, self._wanted)

        def outcome() -> tuple[Seen, float]:
            outputs, seconds = begun()
            return self._seen(outputs), seconds

        return outcome

    def _beside(self) -> SideBySide | None:
        """Runs parts of a batch side by side; None on a GPU, and where the weights are too large to be held twice."""
        with self._guard:
            if self._asked or self._closed:
                return self._side
            self._asked = True
            files = self._bundle.component("clip").files
            weights = sum(file.bytes for name, file in files.items() if name.startswith("visual.onnx"))
            if self.visual.provider != "cpu" or weights > _TWICE:
                return None
            try:
                session = self.sessions.beside("clip", "visual.onnx", "cpu", 1, fp16=self._fp16)
            except RarError as error:  # what runs goes on running, though the bundle changed or memory is short
                _LOG.info("%s: batches are not embedded side by side: %s", self._bundle.root, error)
                return None
            self._side = SideBySide(session, self._threads)
            return self._side

    @property
    def _wanted(self) -> list[str]:
        wanted = ["image_embeds"]
        wanted += ["image_features"] if self.has_features else []
        return wanted + (["region_embeds", "region_boxes"] if self.has_regions else [])

    def _seen(self, given: Mapping[str, Array]) -> Seen:
        outputs = {name: np.asarray(value, np.float32) for name, value in given.items()}
        regions = None
        if self.has_regions:
            regions = [
                GrainRegions(*pair) for pair in zip(outputs["region_embeds"], outputs["region_boxes"], strict=True)
            ]
        return Seen(outputs["image_embeds"], outputs.get("image_features"), regions)

    @property
    def has_features(self) -> bool:
        """Whether the picture tower has the second output `image_features`."""
        return "image_features" in self.visual.outputs

    @property
    def has_regions(self) -> bool:
        """Whether the picture tower is GRAIN's, with region queries."""
        return {"region_embeds", "region_boxes"} <= set(self.visual.outputs)

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Texts -> float32 [N, d], L2-normalised.

        Raises:
            BundleError: The text tower or its tokenizer is damaged.
            InputError: The encoder has no text tower.
        """
        if not self.templates:
            raise InputError(
                f"{self._bundle.root}: the encoder sees pictures only; give classes by pictures or vectors, not texts"
            )
        tokenizer, session = self._text
        runs = [
            session.run({"input_ids": tokenizer(texts[start : start + _TEXTS_A_RUN])})["text_embeds"]
            for start in range(0, len(texts), _TEXTS_A_RUN)
        ]
        return np.concatenate(runs).astype(np.float32) if runs else np.empty((0, self.dim), np.float32)

    def embed_names(self, names: Sequence[str]) -> Floats:
        """Class names -> float32 [N, d]: each name's mean embedding over the model's templates, L2-normalised."""
        # replace, not format: a name is data, and may contain braces
        prompts = [template.replace("{}", name) for name in names for template in self.templates]
        embeddings = self.embed_texts(prompts).reshape(len(names), len(self.templates), self.dim).mean(1)
        return np.asarray(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), np.float32)

    def close(self) -> None:
        """Closes its sessions, and those of a bundle's MLLM that were opened beside them; it cannot embed any more."""
        with self._guard:
            self._closed = True
            if self._side is not None:
                self._side.close()
        self.sessions.close()

    @cached_property
    def _text(self) -> tuple[Tokenizer, Session]:
        tokenizer = Tokenizer.open(self._bundle.file("clip", "tokenizer.json"), self._clean)
        return tokenizer, self.sessions.open("clip", "text.onnx", fp16=self._fp16)
