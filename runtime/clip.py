"""The dual encoder at run time: pictures and texts to embeddings in one space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .bundle import Bundle
from .errors import BundleError, InputError
from .preprocess import Preprocess
from .session import Options, Session, Sessions
from .tokenizer import Tokenizer

Floats = npt.NDArray[np.float32]

_TEXTS_A_RUN = 64


@dataclass(frozen=True)
class Regions:
    """What the region queries of a GRAIN encoder found in one picture.

    Attributes:
        embeddings: float32 [q, d], L2-normalised.
        boxes: float32 [q, 4], x0, y0, x1, y1 in shares of the picture's width and height.
    """

    embeddings: Floats
    boxes: Floats


@dataclass(frozen=True)
class Seen:
    """What one pass of the picture tower says of N pictures.

    Attributes:
        embeddings: float32 [N, d], L2-normalised.
        features: float32 [N, t, C], or None where the encoder gives no `image_features`.
        regions: One a picture, or None where the encoder gives no regions.
    """

    embeddings: Floats
    features: Floats | None = None
    regions: Sequence[Regions] | None = None


class Clip:
    """A bundle's two towers. The text tower is loaded when it is first used.

    Args:
        bundle: The bundle.
        provider: See `Sessions`.
        threads: Threads of preprocessing and of each session; None for one a core.
        options: See `Sessions`.

    Attributes:
        dim: The embeddings' dimension d.
        sessions: Opens the bundle's graphs, and says what runs each.
        preprocess: The model's own picture preparation.
        visual: The picture tower's session.
        templates: Prompt templates for class names, each with one `{}`.

    Raises:
        BundleError: A part of the encoder is missing or damaged.
        ProviderError: The device is not there.
    """

    def __init__(
        self, bundle: Bundle, provider: str = "auto", threads: int | None = None, options: Options | None = None
    ) -> None:
        info = bundle.component("clip").info
        try:
            self.dim = int(info["dim"])
            self.templates = [str(template) for template in info["templates"]]
            self._clean = str(info["clean"])
            if not self.templates:
                raise ValueError("a template")
            self._fp16 = info["precision"] == "fp16"
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"{bundle.root}: the encoder's entry in bundle.json lacks {error}; export it again"
            ) from error
        settings = bundle.read_json("clip", "preprocess.json")
        try:
            self.preprocess = Preprocess.from_dict(settings, threads=threads)
        except InputError as error:
            raise BundleError(f"{bundle.root}: clip/preprocess.json: {error}; export the encoder again") from error
        self.sessions = Sessions(bundle, provider, threads, options)
        self.visual = self.sessions.open("clip", "visual.onnx", fp16=self._fp16)
        self._bundle = bundle

    def embed_pixels(self, pixels: Floats) -> Floats:
        """float32 [N, 3, S, S], as `preprocess` makes it -> float32 [N, d], L2-normalised."""
        return np.asarray(self.visual.run({"pixel_values": pixels}, ["image_embeds"])["image_embeds"], np.float32)

    def encode(self, pixels: Floats) -> tuple[Floats, Floats | None]:
        """As `embed_pixels`, and in the same pass what an MLLM sees the pictures by.

        Returns:
            float32 [N, d], L2-normalised; float32 [N, t, C], or None where the encoder gives no `image_features`.
        """
        seen = self.see(pixels)
        return seen.embeddings, seen.features

    def see(self, pixels: Floats) -> Seen:
        """All that the encoder says of float32 [N, 3, S, S], in one pass."""
        wanted = ["image_embeds"]
        wanted += ["image_features"] if self.has_features else []
        wanted += ["region_embeds", "region_boxes"] if self.has_regions else []
        found = {
            name: np.asarray(value, np.float32)
            for name, value in self.visual.run({"pixel_values": pixels}, wanted).items()
        }
        regions = None
        if self.has_regions:
            regions = [Regions(*own) for own in zip(found["region_embeds"], found["region_boxes"], strict=True)]
        return Seen(found["image_embeds"], found.get("image_features"), regions)

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
            BundleError: The text tower or its tokenizer is missing or damaged.
        """
        tokenizer, session = self._text
        runs = [
            session.run({"input_ids": tokenizer(texts[start : start + _TEXTS_A_RUN])})["text_embeds"]
            for start in range(0, len(texts), _TEXTS_A_RUN)
        ]
        return np.concatenate(runs).astype(np.float32) if runs else np.empty((0, self.dim), np.float32)

    def embed_names(self, names: Sequence[str]) -> Floats:
        """Class names in the model's templates -> float32 [N, d]: each name's mean over them, L2-normalised."""
        # replace, not format: a name is data, braces in it included
        prompts = [template.replace("{}", name) for name in names for template in self.templates]
        embeddings = self.embed_texts(prompts).reshape(len(names), len(self.templates), self.dim).mean(1)
        return np.asarray(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), np.float32)

    @cached_property
    def _text(self) -> tuple[Tokenizer, Session]:
        tokenizer = Tokenizer.open(self._bundle.file("clip", "tokenizer.json"), self._clean)
        return tokenizer, self.sessions.open("clip", "text.onnx", fp16=self._fp16)
