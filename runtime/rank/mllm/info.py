"""The MLLM's entry in the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from ...bundle.manifest import Bundle
from ...errors import BundleError
from .decoder import Shape

_LARGEST = 1 << 16

# How the decoder's graph lets tokens see each other. `tree`: by a mask of its own for each token, so that all answers
# about a picture lie side by side in one row. `rows`: each token sees what precedes it in its row, and a mask hides a
# row's padding. `row`: the same without padding, of which GroupQueryAttention takes none after a cache.
Attention: TypeAlias = Literal["tree", "rows", "row"]


@dataclass(frozen=True)
class MllmInfo:
    """What the manifest says of an MLLM.

    Attributes:
        shape: The decoder's cache.
        precision: Of each graph: `vision`, `embed` and `decoder`.
        vision_input: `pixel_values`, or `image_features` if it sees pictures by the encoder's features.
        encoder: Fingerprint of the encoder whose features it sees; None if the manifest names none.
        attention: See `Attention`; ready-made graphs have other forms than `tree`.
    """

    shape: Shape
    precision: Mapping[str, str]
    vision_input: str
    encoder: str | None
    attention: Attention = "tree"

    def half(self, graph: str) -> bool:
        """Whether a graph, such as `vision.onnx`, computes in fp16."""
        return self.precision[graph.removesuffix(".onnx")].startswith("fp16")

    @classmethod
    def of(cls, bundle: Bundle) -> MllmInfo:
        """Reads the entry of a bundle's MLLM.

        Raises:
            BundleError: The bundle has no MLLM, or the entry lacks something, or has it out of range.
        """
        info = bundle.component("mllm").info
        try:
            counts = {name: info[name] for name in ("layers", "kv_heads", "head_dim")}
            if not all(type(count) is int and 1 <= count < _LARGEST for count in counts.values()):
                raise ValueError(f"a shape that can be, not {counts!s:.80}")
            precision = {name: str(info["precision"][name]) for name in ("vision", "embed", "decoder")}
            vision_input, encoder = str(info["vision_input"]), info.get("encoder")
            if vision_input not in ("pixel_values", "image_features"):
                raise ValueError(f"a known vision_input, not {vision_input!r:.40}")
            attention = info.get("attention", "tree")
            if attention not in get_args(Attention):
                raise ValueError(f"a known attention, not {attention!r:.40}")
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"{bundle.root}: the MLLM's entry in bundle.json lacks {error}; export it again with this release"
            ) from error
        return cls(
            Shape(**counts),
            precision,
            vision_input,
            encoder if isinstance(encoder, str) else None,
            cast(Attention, attention),
        )
