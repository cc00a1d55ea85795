"""Ready-made ONNX graphs of CLIP, MetaCLIP 2 and SigLIP as a bundle's `clip` component, without PyTorch.

Model hubs hold them in the layout of transformers.js and optimum: `onnx/vision_model.onnx` and `onnx/text_model.onnx`,
each at several precisions that a suffix names, beside `config.json`, `preprocessor_config.json`, `tokenizer.json` and
`tokenizer_config.json`.

There is no original to compare with. A graph of fewer bits is compared with the fp32 one, if that is there; the fp32
one is taken at its word. Either way the bundle stores what ONNX Runtime computes here, and all providers are held to
it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import write_json
from rar.runtime.encoder.info import HALF
from rar.runtime.encoder.tokenizer import Tokenizer
from rar.runtime.errors import BundleError, ExportError, ProviderError
from rar.runtime.picture.load import load_image
from rar.runtime.picture.preprocess import Preprocess
from rar.runtime.session import OnnxSession
from rar.runtime.session.checks import Runs, narrowed, sampled

from ..graphs import checks, precisions, ready
from ..graphs.variants import VARIANTS
from ..pictures.photos import checked_photos
from . import parity
from .export import check_new, halves, texts, views
from .folder import read_config, read_json, read_settings, read_tokenizer
from .model import TEMPLATES

if TYPE_CHECKING:
    import tokenizers


@dataclass(frozen=True)
class _Kind:
    """A family of models.

    Attributes:
        length: Tokens of a text where `config.json` leaves it to the family.
        pictures: Names that the pictures' embeddings may have, the best first.
        texts: Names that the texts' embeddings may have, the best first.
    """

    length: int
    pictures: tuple[str, ...]
    texts: tuple[str, ...]


# CLIP's `pooler_output` is from before the projection into the space of both towers. SigLIP has no projection.
_CLIP = _Kind(77, ("image_embeds",), ("text_embeds",))
_KINDS: Mapping[str, _Kind] = {
    "clip": _CLIP,
    "metaclip_2": _CLIP,
    "siglip": _Kind(64, ("image_embeds", "pooler_output"), ("text_embeds", "pooler_output")),
}


@dataclass(frozen=True)
class Folder:
    """What the JSON files of a folder say.

    Attributes:
        path: The folder.
        graphs: Where its graphs lie.
        kind: A key of `_KINDS`.
        length: Tokens of a text.
        preprocess: The picture preparation; transparency is dropped, as transformers 4 and transformers.js do.
        tokenizer: The tokenizer with its truncation and padding.
        clean: The text cleaning before it (`rar.runtime.encoder.tokenizer.CLEANERS`).
    """

    path: Path
    graphs: Path
    kind: str
    length: int
    preprocess: Preprocess
    tokenizer: tokenizers.Tokenizer
    clean: str

    def graph(self, tower: str, variant: str) -> Path:
        """The file of a tower at a variant."""
        return self.graphs / f"{tower}_model{'' if variant == 'fp32' else f'_{variant}'}.onnx"

    def variants(self) -> list[str]:
        """The variants that both towers are there in."""
        return [name for name in VARIANTS if all(self.graph(tower, name).is_file() for tower in ("vision", "text"))]

    def tokenize(self) -> Tokenizer:
        """The tokenizer as the runtime will run it."""
        import tokenizers

        return Tokenizer(tokenizers.Tokenizer.from_str(self.tokenizer.to_str()), self.clean)


def read_folder(path: str | os.PathLike[str]) -> Folder:
    """Reads the JSON files of a folder.

    Raises:
        ExportError: One is missing, too large or no JSON, or says what the runtime does not support.
    """
    path = Path(path)
    config, kind = read_config(path, _KINDS, "vision_model")
    told = config.get("text_config")
    length = told.get("max_position_embeddings", _KINDS[kind].length) if isinstance(told, dict) else _KINDS[kind].length
    if type(length) is not int or not 2 <= length <= 1 << 16:
        raise ExportError(
            f"{path / 'config.json'}: max_position_embeddings must be a number of tokens, not {length!r:.40}"
        )
    preprocess = read_settings(path / "preprocessor_config.json")
    tokenizer, clean = _tokenizer(path, kind, length)
    graphs = path / "onnx"
    return Folder(path, graphs if graphs.is_dir() else path, kind, length, preprocess, tokenizer, clean)


def export_ready(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    variant: str = "fp32",
    precision: precisions.Precision = "fp32",
    images: str | os.PathLike[str] | None = None,
    templates: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes ready-made graphs into a new bundle.

    Args:
        folder: See the module.
        out: The bundle's folder; must not hold an encoder yet.
        variant: A key of `VARIANTS`.
        precision: `fp32` takes the variant as it is; `fp16` and `int8` convert the fp32 one.
        images: A folder of pictures, half to calibrate on and half to compare with; by default the photos that
            scikit-image and scikit-learn ship.
        templates: How class names are written; none for the usual one.

    Returns:
        The manifest's entry.

    Raises:
        ExportError: A file is missing or unlike what a bundle takes, or the graph is too far from the fp32 one; nothing
            is left behind.
        BundleError: The folder cannot take a bundle.
        InputError: The pictures' folder is missing or empty.
    """
    if variant != "fp32" and precision != "fp32":
        raise ExportError(f"--precision {precision} converts the fp32 graphs; leave it or --variant {variant} out")
    check_new(out)
    given = read_folder(folder)
    if variant not in given.variants():
        there = ", ".join(given.variants()) or "none"
        raise ExportError(
            f"{given.path}: lacks {given.graph('vision', variant).name} or {given.graph('text', variant).name} in "
            f"{given.graphs}; choose a --variant that both towers are there in: {there}"
        )
    towers = [_visual(given, *halves(images)), _text(given)]
    held_at = VARIANTS[variant] if precision == "fp32" else precision
    with stage(out, "clip") as staging, tempfile.TemporaryDirectory() as scratch:
        made = [_export(tower, given, variant, precision, staging.folder, Path(scratch)) for tower in towers]
        if made[0].dim != made[1].dim:
            raise ExportError(
                f"{given.path}: pictures get {made[0].dim} dimensions and texts {made[1].dim}; take one model's graphs"
            )
        given.tokenizer.save(str(staging.folder / "tokenizer.json"))
        write_json(staging.folder / "preprocess.json", given.preprocess.to_dict())
        staging.info.update(
            source=f"ready-made ONNX {given.kind} {given.path}",
            precision=held_at,
            scheme={tower.name: one.scheme for tower, one in zip(towers, made, strict=True)},
            dim=made[0].dim,
            clean=given.clean,
            templates=list(templates or TEMPLATES),
            parity={parity.NAMES[name]: value for one in made for name, value in one.parity.items()},
            held_to={f"{tower.name}.onnx": one.held_to for tower, one in zip(towers, made, strict=True)},
            checks={f"{tower.name}.onnx": one.held for tower, one in zip(towers, made, strict=True)},
            made_with={name: version(name) for name in ("onnx", "onnxruntime", "rar-runtime")},
        )
    return staging.info


@dataclass(frozen=True)
class _Tower:
    """One graph to take.

    Attributes:
        name: `visual` or `text`, as in the bundle.
        file: `vision` or `text`, as in the folder.
        form: What the bundle's graph takes and gives.
        typical: Inputs to calibrate on.
        samples: Makes inputs to compare with.
        checked: The inputs that are stored with the graph.
    """

    name: str
    file: str
    form: ready.Form
    typical: Iterable[Mapping[str, npt.NDArray[Any]]]
    samples: Callable[[], Iterator[Mapping[str, npt.NDArray[Any]]]]
    checked: Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class _Made:
    """One graph that was taken.

    Attributes:
        dim: Of its embeddings.
        scheme: The variant, or what it was converted to.
        parity: Output -> its cosines to the fp32 graph's; empty if there is none other than itself.
        held_to: The file whose outputs are stored with it.
        held: The manifest's entry of these.
    """

    dim: int
    scheme: str
    parity: Mapping[str, Mapping[str, float | int]]
    held_to: str
    held: Mapping[str, Any]


def _visual(given: Folder, calibrating: Sequence[Path], comparing: Sequence[Path]) -> _Tower:
    prepare = given.preprocess
    return _Tower(
        "visual",
        "vision",
        ready.pictures(prepare.size, _KINDS[given.kind].pictures),
        views(prepare, calibrating),
        lambda: ({"pixel_values": prepare([load_image(path)])} for path in comparing),
        # Not the user's pictures: a bundle is copied to others.
        narrowed({"pixel_values": prepare([load_image(path) for path in checked_photos()])}),
    )


def _text(given: Folder) -> _Tower:
    tokenize = given.tokenize()
    strings = parity.sample_strings(64)
    return _Tower(
        "text",
        "text",
        ready.texts(given.length, _KINDS[given.kind].texts),
        texts(tokenize),
        lambda: ({"input_ids": tokenize(strings[start : start + 16])} for start in range(0, len(strings), 16)),
        {"input_ids": tokenize(checks.TEXTS)},
    )


def _export(
    tower: _Tower, given: Folder, variant: str, precision: precisions.Precision, folder: Path, scratch: Path
) -> _Made:
    """Writes one graph into the component's folder, with the runs that it is held to."""
    source, full = given.graph(tower.file, variant), given.graph(tower.file, "fp32")
    final, wide = folder / f"{tower.name}.onnx", scratch / f"{tower.name}.onnx"
    try:
        scheme = variant
        if precision != "fp32":
            ready.take(source, wide, tower.form)
            scheme = precisions.convert(wide, final, precision, tower.typical)
        else:
            ready.take(source, final, tower.form)
            if variant != "fp32" and full.is_file():
                ready.take(full, wide, tower.form)
        held_at = VARIANTS[variant] if precision == "fp32" else precision
        session = OnnxSession(final, "cpu", fp16=held_at in HALF)
        reference: Runs = OnnxSession(wide, "cpu") if wide.is_file() else session
        outputs = reference.run(tower.checked)
        shape = np.shape(outputs[tower.form.output])
        if len(shape) != 2 or shape[0] != len(tower.checked[tower.form.input]):
            raise ExportError(f"{source}: gives embeddings of the shape {list(shape)}; it must be one vector a row")
        figures: Mapping[str, Mapping[str, float | int]] = {}
        if reference is not session:
            own = np.shape(session.run(tower.checked)[tower.form.output])
            if own != shape:
                raise ExportError(
                    f"{source}: gives embeddings of the shape {list(own)}, and {full.name} of {list(shape)}; take "
                    "graphs of one model"
                )
            samples = tower.samples()
            figures = parity.compare_graphs(
                tower.name, reference, session, samples, held_at, original=f"the fp32 one, {full.name}"
            )
        held = checks.store_runs(folder, final.name, [sampled(tower.checked, outputs)], session, held_at)
    except (BundleError, ProviderError) as error:
        raise ExportError(f"{source}: cannot be run here ({error}); choose another --variant") from error
    return _Made(shape[1], scheme, figures, (full if reference is not session else source).name, held)


def _tokenizer(folder: Path, kind: str, length: int) -> tuple[tokenizers.Tokenizer, str]:
    """The tokenizer with truncation and padding, and its cleaning step's name."""
    import tokenizers

    path = folder / "tokenizer.json"
    tokenizer = read_tokenizer(path)
    settings = read_json(folder / "tokenizer_config.json")
    pad = settings.get("pad_token")
    pad = pad.get("content") if isinstance(pad, dict) else pad
    number = tokenizer.token_to_id(pad) if isinstance(pad, str) else None
    side = settings.get("padding_side", "right")
    if number is None or side not in ("left", "right"):
        raise ExportError(
            f"{folder / 'tokenizer_config.json'}: pads with {pad!r:.40} on the {side!r:.40}; pad_token must be in "
            "tokenizer.json, and padding_side left or right"
        )
    try:
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(length=length, pad_id=number, pad_token=pad, direction=side)
        clean = _clean(tokenizer, kind, settings.get("tokenizer_class"))
        # One that lacks its unknown token, say, fails at the first text with such a character.
        Tokenizer(tokenizers.Tokenizer.from_str(tokenizer.to_str()), clean)(parity.sample_strings(64))
    except Exception as error:  # `tokenizers` raises the bare Exception
        raise ExportError(f"{path}: cannot encode a text ({error}); download it again") from error
    return tokenizer, clean


def _clean(tokenizer: tokenizers.Tokenizer, kind: str, name: object) -> str:
    """The cleaning that a SigLIP learned and its tokenizer.json may leave to the caller."""
    if kind != "siglip":
        return "none"
    sentencepiece = str(name).startswith("SiglipTokenizer")
    odd, plain = ("AN!", "an") if sentencepiece else ("AN", "an")
    if tokenizer.encode(odd).ids == tokenizer.encode(plain).ids:
        return "none"
    # The first SigLIP drops punctuation too; SigLIP 2 keeps it.
    return "siglip" if sentencepiece else "lowercase"
