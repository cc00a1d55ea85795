# ruff: noqa: RUF001, SIM905  # the strings are odd on purpose
"""How far an exported encoder is from its PyTorch source, measured on real pictures and texts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rar.runtime.errors import ExportError
from rar.runtime.images import load_image
from rar.runtime.session import OnnxSession

from .dual_encoder import DualEncoder
from .graph import Precision

TOKENIZER_STRINGS = 1000
_WORDS = """
    a photo of the golden retriever espresso Granny Smith apple don't we'll it's 747-400 C-130 McLaren HELLO iPhone
    eBay x2 v1.0 O'Neill rock'n'roll crème brûlée São-Paulo naïve ﬁne ½ ™ °C 3.14 1,000 (red) [x] {y} a/b a_b
    &amp; &lt;b&gt; &quot;x&quot; “quoted” ‘single’ … — – ＦＵＬＬ ! ? ; : # @ % * + = ~ ^ $ \\ | Сова 北京
    烤鸭 ラーメン 김치 αβγ العربية עברית हिन्दी ไทย 🍎 🐕‍🦺 👩🏽‍🍳 🇯🇵 ☕️
""".split()

# Least (worst pair, mean) cosine to the PyTorch fp32 embedding. fp32 differs by summation order only. The int8
# limits catch a broken quantisation; what it costs in accuracy is for `rar-bench accuracy` to say.
LIMITS: dict[Precision, tuple[float, float]] = {
    "fp32": (0.9999, 0.9999),
    "fp16": (0.999, 0.9995),
    "int8": (0.90, 0.98),
}


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
    import torch

    session = OnnxSession(graph, "cpu", fp16=precision == "fp16")
    names = encoder.visual_outputs
    source: dict[str, list[Any]] = {name: [] for name in names}
    exported: dict[str, list[Any]] = {name: [] for name in names}
    for path in pictures:
        pixels = encoder.preprocess([load_image(path)])
        with torch.inference_mode():
            found = encoder.visual(torch.from_numpy(pixels))
        graphs = session.run({"pixel_values": pixels})
        for name, value in zip(names, found if isinstance(found, tuple) else (found,), strict=True):
            source[name].append(value.flatten(1).numpy())
            exported[name].append(graphs[name].reshape(1, -1))
    return {
        name: _check(f"visual {name}", np.concatenate(source[name]), np.concatenate(exported[name]), precision, encoder)
        for name in names
    }


def compare_text(encoder: DualEncoder, graph: Path, precision: Precision) -> dict[str, float | int]:
    """Compares the text graph with its module on strings of many kinds.

    Raises:
        ExportError: A cosine is below the limit of the precision.
    """
    import torch

    session = OnnxSession(graph, "cpu", fp16=precision == "fp16")
    tokenize = encoder.runtime_tokenizer()
    source, exported = [], []
    texts = sample_strings(64)
    for start in range(0, len(texts), 16):
        ids = tokenize(texts[start : start + 16])
        with torch.inference_mode():
            source.append(encoder.text(torch.from_numpy(ids)).numpy())
        exported.append(session.run({"input_ids": ids})["text_embeds"])
    return _check("text", np.concatenate(source), np.concatenate(exported), precision, encoder)


def compare_preprocess(encoder: DualEncoder, pictures: Sequence[Path]) -> dict[str, float | int]:
    """Compares the runtime's picture preparation with the model's own, element by element.

    Pictures are cut to 1:1 and 2:1 first: where the crop's margin is odd, transformers and torchvision
    disagree by a pixel and the runtime follows torchvision.

    Raises:
        ExportError: The two differ, so the model would see other pixels than it was made for.
    """
    worst, count = 0.0, 0
    for path in pictures:
        pixels = load_image(path)
        side = min(pixels.shape[:2]) // 2 * 2
        for height, width in ((side, side), (side // 2, side), (side, side // 2)):
            cut = np.ascontiguousarray(pixels[:height, :width])
            ours = encoder.preprocess([cut])[0]
            worst = max(worst, float(np.abs(ours - encoder.reference_preprocess(Image.fromarray(cut))).max()))
            count += 1
    if worst > 1e-5:
        raise ExportError(
            f"the runtime prepares pictures otherwise than {encoder.source} (largest difference {worst:.3g}); "
            "please report this model"
        )
    return {"max_difference": worst, "count": count}


def compare_tokenizer(encoder: DualEncoder) -> dict[str, int]:
    """Compares the runtime's tokenizer with the model's own on `TOKENIZER_STRINGS` strings.

    Raises:
        ExportError: More than one string in a hundred is tokenized otherwise.
    """
    texts = sample_strings(TOKENIZER_STRINGS)
    ours, theirs = encoder.runtime_tokenizer()(texts), encoder.reference_tokenize(texts)
    if ours.shape[1] != theirs.shape[1]:
        raise ExportError(f"the tokenizers pad to {ours.shape[1]} and {theirs.shape[1]} tokens")
    equal = (ours == theirs).all(1)
    if equal.mean() < 0.99:
        example = texts[int(np.argmin(equal))]
        raise ExportError(f"{int((~equal).sum())} of {len(texts)} strings are tokenized otherwise, as {example!r}")
    return {"equal": int(equal.sum()), "count": len(texts)}


def sample_strings(count: int, seed: int = 0) -> list[str]:
    """Class names, sentences, scripts, accents, emoji, entities, odd spaces and over-long text, seeded.

    None spells a special token: the runtime reads those as plain characters on purpose.
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
    precision: Precision,
    encoder: DualEncoder,
) -> dict[str, Any]:
    values = cosines(source, exported)
    result = Cosines(
        float(values.min()), float(values.mean()), len(values), float(np.abs(exported - source).max(initial=0))
    )
    least, mean = LIMITS[precision]
    if not (result.min >= least and result.mean >= mean):  # written so that NaN fails
        raise ExportError(
            f"the {precision} {part} graph is too far from PyTorch: cosine min {result.min:.5f}, mean "
            f"{result.mean:.5f} over {result.count}; the limits are {least} and {mean}. Choose a higher precision"
        )
    if precision == "fp32" and encoder.tolerance is not None and result.max_difference > encoder.tolerance:
        raise ExportError(
            f"the fp32 {part} graph is too far from PyTorch: an element differs by {result.max_difference:.3g}; the "
            f"limit is {encoder.tolerance:g}. Please report this model"
        )
    return asdict(result)
