"""The encoder's entry in the manifest."""

from __future__ import annotations

from dataclasses import dataclass

from ..bundle.manifest import Bundle
from ..errors import BundleError

_LARGEST_DIM = 1 << 31
# The precisions at which a graph computes in fp16; ready-made ones of four bits do between their products.
HALF = ("fp16", "int4")


@dataclass(frozen=True)
class EncoderInfo:
    """What the manifest says of an encoder.

    Attributes:
        dim: The embeddings' dimension d.
        templates: Prompt templates for class names, each with one `{}`; none if there is no text tower.
        clean: The text cleaning before its tokenizer (`CLEANERS`).
        precision: `fp32`, `fp16`, `int8` or `int4`.
        source: Where its model came from; empty if the manifest does not say.
    """

    dim: int
    templates: tuple[str, ...]
    clean: str
    precision: str
    source: str

    @property
    def half(self) -> bool:
        """Whether its graphs may compute in fp16."""
        return self.precision in HALF

    @classmethod
    def of(cls, bundle: Bundle) -> EncoderInfo:
        """Reads the entry of a bundle's encoder.

        Raises:
            BundleError: The bundle has no encoder, or the entry lacks something, or has it out of range.
        """
        info = bundle.component("clip").info
        try:
            dim, templates = info["dim"], info["templates"]
            if type(dim) is not int or not 1 <= dim < _LARGEST_DIM:
                raise ValueError(f"a dim that can be, not {dim!r:.40}")
            reads = "text.onnx" in bundle.component("clip").files
            if not isinstance(templates, list) or (reads and not templates):
                raise ValueError("a list of templates")
            clean, precision, source = str(info["clean"]), str(info["precision"]), str(info.get("source", ""))
            return cls(dim, tuple(map(str, templates)), clean, precision, source)
        except (KeyError, ValueError) as error:
            raise BundleError(
                f"{bundle.root}: the encoder's entry in bundle.json lacks {error}; export it again"
            ) from error
