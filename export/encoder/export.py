"""Exports any encoder as a bundle's `clip` component."""

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
from tqdm import tqdm

from rar.runtime.bundle.change import stage
from rar.runtime.bundle.files import write_json
from rar.runtime.bundle.manifest import Bundle, exists
from rar.runtime.errors import ExportError
from rar.runtime.picture.folder import find_images
from rar.runtime.picture.load import load_image
from rar.runtime.picture.preprocess import Preprocess
from rar.runtime.session import OnnxSession
from rar.runtime.session.checks import Run, narrowed, sampled

from ..graphs import checks, precisions, trace
from ..pictures import prepare
from ..pictures.photos import checked_photos, package_photos
from . import parity
from .model import DualEncoder

if TYPE_CHECKING:
    import torch

# Random crops per calibration picture: one photo gives ranges at several scales.
_CROPS = 8
_MOST_PICTURES = 64
# Strings to calibrate a text tower on, and how many of them at once.
_TEXTS, _BATCH = 64, 16


def export_clip(
    encoder: DualEncoder,
    out: str | os.PathLike[str],
    precision: precisions.Precision = "fp32",
    images: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Exports an encoder into a new bundle, checked against PyTorch.

    Args:
        encoder: The loaded model.
        out: The bundle's folder; must not hold an encoder yet.
        precision: `fp32`, `fp16` or `int8`.
        images: A folder of pictures, half to calibrate on and half to compare with; by default the photos that
            scikit-image and scikit-learn ship.

    Returns:
        The manifest's entry: precision, scheme, dimension, parity, sizes.

    Raises:
        ExportError: The export fails or lies too far from PyTorch; nothing is left behind.
        BundleError: The folder cannot take a bundle.
        InputError: The pictures' folder is missing or empty.
    """
    import torch

    check_new(out)
    calibrating, comparing = halves(images)
    result: dict[str, Any] = {
        "preprocess": prepare.compare(
            encoder.preprocess,
            encoder.reference_preprocess,
            encoder.source,
            comparing,
            prepare.UPRIGHT_AND_FLAT,
            encoder.rounded,
        )
    }
    towers = [_visual(encoder, calibrating, comparing)]
    if encoder.rounded:
        result["preprocess"]["cosine"] = parity.compare_prepared(encoder, comparing)
    if encoder.text is not None:
        result["tokenizer"] = parity.compare_tokenizer(encoder)
        towers.append(_text(encoder, encoder.text))
    with (
        stage(out, "clip") as staging,
        tempfile.TemporaryDirectory() as scratch,
        tqdm(total=2 * len(towers), disable=None) as bar,
    ):
        scheme, held = {}, {}
        for tower in towers:
            bar.set_description(f"{tower.name} to ONNX")
            full, final = Path(scratch) / f"{tower.name}.onnx", staging.folder / f"{tower.name}.onnx"
            trace.export_onnx(
                tower.module,
                [torch.from_numpy(tower.example)],
                full,
                inputs=[tower.input],
                outputs=tower.outputs,
                dynamic=[tower.dynamic],
            )
            bar.update()
            bar.set_description(f"{tower.name} to {precision}")
            scheme[tower.name] = precisions.convert(full, final, precision, tower.typical)
            bar.update()
            figures = tower.compare(final, precision)
            result.update((parity.NAMES[name], value) for name, value in figures.items())
            session = OnnxSession(final, fp16=precision == "fp16")
            held[final.name] = checks.store_runs(staging.folder, final.name, [tower.run()], session, precision)
        if encoder.tokenizer is not None:
            encoder.tokenizer.save(str(staging.folder / "tokenizer.json"))
        write_json(staging.folder / "preprocess.json", encoder.preprocess.to_dict())
        with torch.inference_mode():
            embeddings = encoder.visual(torch.from_numpy(towers[0].example))
        staging.info.update(
            source=encoder.source,
            precision=precision,
            scheme=scheme,
            dim=int((embeddings if isinstance(embeddings, torch.Tensor) else embeddings[0]).shape[1]),
            clean=encoder.clean,
            templates=list(encoder.templates),
            parity=result,
            checks=held,
            made_with={name: version(name) for name in ("torch", "onnx", "onnxruntime", "rar-runtime")},
        )
    return staging.info


@dataclass(frozen=True)
class _Tower:
    """One graph to export.

    Attributes:
        name: `visual` or `text`.
        module: See `DualEncoder`.
        example: Its input.
        input: The input's name.
        outputs: The outputs' names.
        dynamic: Dimensions of the input that are not fixed.
        typical: Inputs to calibrate on.
        compare: The graph's file and precision -> how far it is from the module.
        run: Gives the run that is stored with the graph.
    """

    name: str
    module: torch.nn.Module
    example: npt.NDArray[Any]
    input: str
    outputs: Sequence[str]
    dynamic: tuple[int, ...]
    typical: Iterable[Mapping[str, npt.NDArray[Any]]]
    compare: Callable[[Path, precisions.Precision], dict[str, dict[str, float | int]]]
    run: Callable[[], Run]


def _visual(encoder: DualEncoder, calibrating: Sequence[Path], comparing: Sequence[Path]) -> _Tower:
    return _Tower(
        "visual",
        encoder.visual,
        encoder.preprocess([load_image(path) for path in [*comparing[:2], *comparing[:2]][:2]]),
        "pixel_values",
        encoder.visual_outputs,
        (0,),
        views(encoder.preprocess, calibrating),
        lambda graph, precision: parity.compare_visual(encoder, graph, comparing, precision),
        lambda: _seen(encoder),
    )


def _text(encoder: DualEncoder, module: torch.nn.Module) -> _Tower:
    tokenize = encoder.runtime_tokenizer()
    # If the tokenizer pads to the longest text and not to a fixed length, the graph takes any length.
    padding = None if encoder.tokenizer is None else encoder.tokenizer.padding
    any_length = padding is not None and padding["length"] is None
    return _Tower(
        "text",
        module,
        tokenize(["a photo of a cat.", "a dog"]),
        "input_ids",
        ["text_embeds"],
        (0, 1) if any_length else (0,),
        texts(tokenize),
        lambda graph, precision: parity.compare_text(encoder, graph, precision),
        lambda: _read(module, tokenize),
    )


def check_new(out: str | os.PathLike[str]) -> None:
    """Checks that a bundle holds no encoder yet.

    Raises:
        ExportError: It does.
    """
    if exists(out) and "clip" in Bundle.open(out).components:
        raise ExportError(f"{out}: holds an encoder already, and a memory made with it; name a new folder")


def halves(images: str | os.PathLike[str] | None) -> tuple[Sequence[Path], Sequence[Path]]:
    """The pictures to calibrate on and those to compare with, of a folder or of the packages' photos.

    Raises:
        ExportError: There are fewer than two.
        InputError: The folder is missing or empty.
    """
    pictures = find_images(Path(images))[:_MOST_PICTURES] if images is not None else package_photos()
    if len(pictures) < 2:
        raise ExportError(f"{images}: holds {len(pictures)} picture; give two or more, for calibrating and comparing")
    return pictures[::2], pictures[1::2]


def views(prepare: Preprocess, pictures: Sequence[Path]) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    """Each picture whole and as seeded square crops of 30 to 100 % of its shorter side."""
    chance = np.random.default_rng(0)
    for path in pictures:
        pixels = load_image(path)
        height, width = pixels.shape[:2]
        views = [pixels]
        for _ in range(_CROPS):
            side = max(1, int(chance.uniform(0.3, 1.0) * min(height, width)))
            top, left = int(chance.integers(height - side + 1)), int(chance.integers(width - side + 1))
            views.append(pixels[top : top + side, left : left + side])
        yield {"pixel_values": prepare(views)}


def texts(tokenize: Callable[[Sequence[str]], npt.NDArray[np.int64]]) -> Iterator[dict[str, npt.NDArray[np.int64]]]:
    """Strings of many kinds; others than those that the graph is compared on."""
    strings = parity.sample_strings(_TEXTS, seed=1)
    for start in range(0, _TEXTS, _BATCH):
        yield {"input_ids": tokenize(strings[start : start + _BATCH])}


def _seen(encoder: DualEncoder) -> Run:
    """The picture tower's stored run. It does not use the user's pictures: a bundle is copied to others."""
    import torch

    inputs = narrowed({"pixel_values": encoder.preprocess([load_image(path) for path in checked_photos()])})
    with torch.inference_mode():
        outputs = encoder.visual(torch.from_numpy(inputs["pixel_values"]))
    return sampled(inputs, checks.arrays(encoder.visual_outputs, outputs))


def _read(module: torch.nn.Module, tokenize: Callable[[Sequence[str]], npt.NDArray[np.int64]]) -> Run:
    """The text tower's stored run."""
    import torch

    ids = tokenize(checks.TEXTS)
    with torch.inference_mode():
        return sampled({"input_ids": ids}, checks.arrays(["text_embeds"], module(torch.from_numpy(ids))))
