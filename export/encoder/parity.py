# ruff: noqa: RUF001, SIM905  # the strings are odd on purpose
"""How far an exported encoder is from its PyTorch source, measured on real pictures and texts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rar.runtime.errors import ExportError
from rar.runtime.picture.load import load_image
from rar.runtime.session import OnnxSession
from rar.runtime.session.checks import LIMITS, Runs

from ..graphs.checks import arrays
from ..graphs.precisions import Precision
from .model import DualEncoder

if TYPE_CHECKING:
    import torch

TOKENIZER_STRINGS = 1000
# The manifest's name for the comparison of each output.
NAMES = {
    "image_embeds": "visual", "image_features": "features", "region_embeds": "regions", "region_boxes": "boxes",
    "text_embeds": "text",
}  # fmt: skip
_WORDS = """
    a photo of the golden retriever espresso Granny Smith apple don't we'll it's 747-400 C-130 McLaren HELLO iPhone
    eBay x2 v1.0 O'Neill rock'n'roll crème brûlée São-Paulo naïve ﬁne ½ ™ °C 3.14 1,000 (red) [x] {y} a/b a_b
    &amp; &lt;b&gt; &quot;x&quot; “quoted” ‘single’ … — – ＦＵＬＬ ! ? ; : # @ % * + = ~ ^ $ \\ | Сова 北京
    烤鸭 ラーメン 김치 αβγ العربية עברית हिन्दी ไทย 🍎 🐕‍🦺 👩🏽‍🍳 🇯🇵 ☕️
""".split()


@dataclass(frozen=True)
class Cosines:
    """Cosines between exported and source embeddings, and the largest difference of an element."""

    min: float
    mean: float
    count: int
    max_difference: float


def compare_visual(
    encoder: DualEncoder, graph: Path, pictures: Sequence[Path], precision: Precision
) -> dict[str, dict[str, float | int]]:
    """Compares the visual graph with its module on pictures prepared by the runtime, output by output.

    Raises:
        ExportError: A cosine is below the limit of the precision.
    """
    session = OnnxSession(graph, "cpu", fp16=precision == "fp16")
    samples = ({"pixel_values": encoder.preprocess([load_image(path)])} for path in pictures)
    source = _Module(encoder.visual, encoder.visual_outputs)
    return compare_graphs("visual", source, session, samples, precision, encoder.tolerance)


def compare_text(encoder: DualEncoder, graph: Path, precision: Precision) -> dict[str, dict[str, float | int]]:
    """Compares the text graph with its module on strings of many kinds.

    Raises:
        ExportError: A cosine is below the limit of the precision.
    """
    session = OnnxSession(graph, "cpu", fp16=precision == "fp16")
    tokenize = encoder.runtime_tokenizer()
    texts = sample_strings(64)
    samples = ({"input_ids": tokenize(texts[start : start + 16])} for start in range(0, len(texts), 16))
    source = _Module(encoder.text_tower, ("text_embeds",))
    return compare_graphs("text", source, session, samples, precision, encoder.tolerance)


def compare_prepared(encoder: DualEncoder, pictures: Sequence[Path]) -> float:
    """The least cosine of what the module gives for pictures that the runtime and the model's own prepare.

    Raises:
        ExportError: It is below the limit of fp16, or NaN.
    """
    module, values = _Module(encoder.visual, encoder.visual_outputs), []
    for path in pictures:
        pixels = load_image(path)
        own = encoder.reference_preprocess(Image.fromarray(pixels))[None]
        both = [module.run({"pixel_values": seen})["image_embeds"] for seen in (encoder.preprocess([pixels]), own)]
        values.append(cosines(*both))
    least, limit = float(np.min(values)), LIMITS["fp16"].worst
    if not least >= limit:  # written so that NaN fails
        raise ExportError(
            f"the runtime prepares pictures so far from {encoder.source} that an embedding's cosine is {least:.5f}; "
            f"the limit is {limit:g}. Please report this model"
        )
    return least


class _Module:
    """A PyTorch module that is run like a graph."""

    def __init__(self, module: torch.nn.Module, names: Sequence[str]) -> None:
        self._module, self._names = module, names

    def run(
        self, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> Mapping[str, npt.NDArray[Any]]:
        import torch

        with torch.inference_mode():
            return arrays(self._names, self._module(*map(torch.from_numpy, inputs.values())))


def compare_graphs(
    part: str,
    source: Runs,
    exported: Runs,
    samples: Iterable[Mapping[str, npt.NDArray[Any]]],
    precision: str,
    tolerance: float | None = None,
    original: str = "PyTorch",
) -> dict[str, dict[str, float | int]]:
    """Compares a tower at fp32 with the exported graph, output by output.

    Args:
        part: `visual` or `text`.
        source: The tower at fp32.
        exported: The graph.
        samples: Their inputs.
        precision: The graph's: a key of `LIMITS`.
        tolerance: The largest difference of an element at fp32.
        original: What the source is, for messages.

    Returns:
        Output -> its cosines.

    Raises:
        ExportError: A cosine is below the limit of the precision, or an element differs by more than the tolerance.
    """
    pairs: dict[str, list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]] = {}
    for inputs in samples:
        theirs = exported.run(inputs)
        for name, values in source.run(inputs).items():
            pairs.setdefault(name, []).append((values, np.asarray(theirs[name])))
    result = {}
    for name, outputs in pairs.items():
        rows = [np.concatenate([rows.reshape(len(rows), -1) for rows in side]) for side in zip(*outputs, strict=True)]
        result[name] = _check(f"{part} {name}", rows[0], rows[1], precision, tolerance, original)
    return result


def reference_tokens(encoder: DualEncoder, texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """Token ids by the model's own tokenizer, int64 [N, L].

    Raises:
        ExportError: The model has none.
    """
    if encoder.reference_tokenize is None:
        raise ExportError(f"{encoder.source}: has no tokenizer to compare with; choose a model with a text tower")
    return encoder.reference_tokenize(texts)


def compare_tokenizer(encoder: DualEncoder) -> dict[str, int]:
    """Compares the runtime's tokenizer with the model's own on `TOKENIZER_STRINGS` strings.

    Raises:
        ExportError: More than one string in a hundred is tokenized differently.
    """
    texts = sample_strings(TOKENIZER_STRINGS)
    ours, theirs = encoder.runtime_tokenizer()(texts), reference_tokens(encoder, texts)
    if ours.shape[1] != theirs.shape[1]:
        raise ExportError(f"the tokenizers pad to {ours.shape[1]} and {theirs.shape[1]} tokens; choose another model")
    equal = (ours == theirs).all(1)
    if equal.mean() < 0.99:
        example = texts[int(np.argmin(equal))]
        raise ExportError(
            f"{int((~equal).sum())} of {len(texts)} strings are tokenized otherwise, as {example!r}"
            "; choose another model"
        )
    return {"equal": int(equal.sum()), "count": len(texts)}


def sample_strings(count: int, seed: int = 0) -> list[str]:
    """Class names, sentences, scripts, accents, emoji, entities, odd spaces and over-long text, seeded.

    No string contains a special token: the runtime reads those as plain characters on purpose.
    """
    chance = random.Random(seed)  # noqa: S311  # test material, not a secret
    spaces = [" "] * 12 + ["  ", "\t", "\n", "\u00a0", "\u3000", ""]
    texts = ["", " ", "a", "🍎", "word " * 200]
    while len(texts) < count:
        length = chance.choice((1, 2, 3, 6, 12, 25, 120))
        texts.append("".join(chance.choice(_WORDS) + chance.choice(spaces) for _ in range(length)))
    return texts[:count]


def cosines(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Cosine of each row of `a` with the same row of `b`: float64 [N]."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(wide_a, axis=1) * np.linalg.norm(wide_b, axis=1)
    return np.asarray((wide_a * wide_b).sum(1) / norms)


def _check(
    part: str,
    source: npt.NDArray[np.float32],
    exported: npt.NDArray[np.float32],
    precision: str,
    tolerance: float | None,
    original: str,
) -> dict[str, float | int]:
    values = cosines(source, exported)
    result = Cosines(
        float(values.min()), float(values.mean()), len(values), float(np.abs(exported - source).max(initial=0))
    )
    limit = LIMITS[precision]
    if not (result.min >= limit.worst and result.mean >= limit.mean):  # written so that NaN fails
        raise ExportError(
            f"the {precision} {part} graph is too far from {original}: cosine min {result.min:.5f}, mean "
            f"{result.mean:.5f} over {result.count}; the limits are {limit}. Choose a higher precision"
        )
    if precision == "fp32" and tolerance is not None and result.max_difference > tolerance:
        raise ExportError(
            f"the fp32 {part} graph is too far from {original}: an element differs by {result.max_difference:.3g}; the "
            f"limit is {tolerance:g}. Please report this model"
        )
    return asdict(result)
