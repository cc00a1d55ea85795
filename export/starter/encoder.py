"""The starter's dual encoder, made of the stored graphs: see `towers` for what it computes."""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import write_json
from rar.runtime.bundle.manifest import Bundle, exists
from rar.runtime.encoder.tokenizer import Tokenizer
from rar.runtime.errors import ExportError
from rar.runtime.picture.load import load_image
from rar.runtime.picture.preprocess import Preprocess
from rar.runtime.session import OnnxSession

from ..encoder import parity
from ..encoder.export import texts, views
from ..encoder.model import TEMPLATES
from ..graphs import checks, precisions
from ..pictures import prepare
from . import packages, skeletons

if TYPE_CHECKING:
    import tokenizers

SOURCE = "starter: EfficientNet-Lite2 and all-MiniLM-L6-v2"
OUTPUTS = ("image_embeds", "image_features")
CHANNELS = 1280  # of `image_features`
# The classifier's own evaluation (TensorFlow's EfficientNet): resize to 292, crop 260, pixels by .498 and .502.
SIZE, SHORTEST_EDGE, MEAN, STD = 260, 292, 0.498, 0.502
TEXT_LENGTH = 128


def export_encoder(
    out: str | os.PathLike[str],
    precision: precisions.Precision,
    tensors: Mapping[str, npt.NDArray[np.generic]] | None = None,
) -> None:
    """Writes the encoder into a new bundle, without PyTorch.

    The fp32 graphs must give the stored outputs of PyTorch. Then the exported ones are compared with the fp32 ones.

    Args:
        out: The bundle's folder; must not hold an encoder yet.
        precision: `fp32`, `fp16` or `int8`.
        tensors: `packages.Tensors`, if they are open already.

    Raises:
        ExportError: A package is missing, or a graph is too far from PyTorch; nothing is left behind.
        BundleError: The folder cannot take a bundle.
    """
    if exists(out) and "clip" in Bundle.open(out).components:
        raise ExportError(f"{out}: holds an encoder already, and a memory made with it; name a new folder")
    tensors = packages.Tensors() if tensors is None else tensors
    calibrating, comparing = (packages.photos(names) for names in (packages.CALIBRATING, packages.COMPARING))
    result: dict[str, Any] = {"preprocess": compare_pixels(comparing), "tokenizer": compare_tokens()}
    scheme, held = {}, {}
    with (
        stage(out, "clip") as staging,
        tempfile.TemporaryDirectory() as scratch,
        tqdm(total=4, disable=None) as bar,
    ):
        typical: dict[str, Iterable[Mapping[str, npt.NDArray[Any]]]] = {
            "visual": views(preprocess(), calibrating),
            "text": texts(Tokenizer(text_tokenizer(), "none")),
        }
        for name, samples in (("visual", _pixels(comparing)), ("text", _ids())):
            graph = f"{name}.onnx"
            full, final = Path(scratch) / graph, staging.folder / graph
            bar.set_description(f"{name} from its packages")
            skeletons.fill(name, tensors, full)
            source = skeletons.hold(name, full)
            bar.update()
            bar.set_description(f"{name} to {precision}")
            scheme[name] = precisions.convert(full, final, precision, typical[name])
            session = OnnxSession(final, "cpu", fp16=precision == "fp16")
            figures = parity.compare_graphs(name, source, session, samples, precision)
            result.update((parity.NAMES[output], value) for output, value in figures.items())
            held[graph] = checks.store_runs(staging.folder, graph, skeletons.runs(name), session, precision)
            bar.update()
        text_tokenizer().save(str(staging.folder / "tokenizer.json"))
        write_json(staging.folder / "preprocess.json", preprocess().to_dict())
        staging.info.update(
            source=SOURCE,
            precision=precision,
            scheme=scheme,
            dim=int(skeletons.runs("text")[0].outputs["text_embeds"].shape[1]),
            clean="none",
            templates=list(TEMPLATES),
            parity=result,
            checks=held,
            made_with={name: version(name) for name in ("onnx", "onnxruntime", "rar-runtime")},
        )


def preprocess() -> Preprocess:
    """The classifier's preparation of pictures."""
    return Preprocess(
        size=SIZE, shortest_edge=SHORTEST_EDGE, mean=(MEAN,) * 3, std=(STD,) * 3, filter="bicubic", fit="crop"
    )


def text_tokenizer() -> tokenizers.Tokenizer:
    """MiniLM's tokenizer with the sentence encoder's length."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(packages.text_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(TEXT_LENGTH)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]"), pad_token="[PAD]")  # noqa: S106  # no secret
    return tokenizer


def compare_tokens() -> dict[str, int]:
    """Compares the tokenizer with the stored ids of transformers' on `parity.TOKENIZER_STRINGS` strings.

    Raises:
        ExportError: A string is tokenized differently.
    """
    ours = row_checks(Tokenizer(text_tokenizer(), "none")(parity.sample_strings(parity.TOKENIZER_STRINGS)))
    theirs: Sequence[int] = skeletons.reference()["tokens"]
    equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
    if equal < len(theirs):
        raise ExportError(
            f"{len(theirs) - equal} of {len(theirs)} strings are tokenized otherwise than by transformers; "
            "install the version of tokenizers that pyproject.toml names"
        )
    return {"equal": equal, "count": len(theirs)}


def compare_pixels(pictures: Sequence[Path]) -> dict[str, float | int]:
    """Compares the preparation of pictures with torchvision's stored ones, bit for bit.

    Raises:
        ExportError: One differs.
    """
    stored: Mapping[str, Sequence[int]] = skeletons.reference()["pixels"]
    count = 0
    for path in pictures:
        if path.name not in stored:
            continue
        cuts = np.stack([preprocess()([cut])[0] for cut in prepare.cuts(load_image(path))])
        if row_checks(cuts) != list(stored[path.name]):
            raise ExportError(f"{path}: the runtime prepares it otherwise than torchvision; please report this")
        count += len(cuts)
    return {"max_difference": 0.0, "count": count}


def row_checks(rows: npt.NDArray[np.generic]) -> list[int]:
    """A CRC-32 of each row's bytes."""
    return [zlib.crc32(np.ascontiguousarray(row).tobytes()) for row in rows]


def _pixels(pictures: Sequence[Path]) -> Iterator[dict[str, npt.NDArray[Any]]]:
    prepare = preprocess()
    return ({"pixel_values": prepare([load_image(path)])} for path in pictures)


def _ids() -> Iterator[dict[str, npt.NDArray[Any]]]:
    tokenize = Tokenizer(text_tokenizer(), "none")
    texts = parity.sample_strings(64)
    return ({"input_ids": tokenize(texts[start : start + 16])} for start in range(0, len(texts), 16))
