"""PyTorch at its best on this CPU: of several ways to run the encoder a trial in the same run keeps the fastest.

A way is the network eager, traced and frozen, or compiled ahead of time by inductor with freezing and `max_autotune`,
at fp32, under autocast to bf16 where the CPU multiplies it, or quantised to int8 by PT2E (torchao). All are channels
last. Programs are stored, as a careful user does, so that a process that starts neither traces nor compiles. Pictures
are decoded and prepared by torchvision: uint8 tensors, resized while channels last, a batch by all cores.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from rar.runtime.bundle.files import write_json
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.errors import RarError
from rar.runtime.machine.cores import usable_cores
from rar.runtime.machine.cpu import instruction_sets
from rar.runtime.stages import in_stage

from ..latency.work import Opened, told
from ..made import made
from ..process import in_a_process
from .batches import ByBatch, Embed
from .pytorch import Floats, Terms, decode, distinct, exact, network, versions

Precision: TypeAlias = Literal["fp32", "bf16", "int8"]
# Float32 [N, 3, S, S] -> embeddings, float32 [N, d]; tensors.
Program: TypeAlias = Callable[[Any], Any]

SIZES = (1, 8)  # pictures a program takes
FOLDER = "torch-best"
_TRIAL = "trial.json"
_ENDING = ".pt2"  # which inductor asks for
_WARM, _ROUNDS = 2, 7
_ALL: tuple[Precision, ...] = get_args(Precision)
_FP32: tuple[Precision, ...] = ("fp32",)
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
# A program whose embeddings are farther from fp32's than this does not do the same work.
LEAST_COSINE = 0.95


@dataclass(frozen=True)
class Recipe:
    """One way to run the network.

    Attributes:
        name: For the eye.
        precision: Of its products.
        write: Stores a program of the network for batches of one size: network, some batches, file. Pickled.
        read: Loads it: terms, file. Pickled.
        needs: A module that PyTorch does not bring, and the package of it; None without.
    """

    name: str
    precision: Precision
    write: Callable[[Any, Sequence[Any], Path], None]
    read: Callable[[Terms, Path], Program]
    needs: tuple[str, str] | None = None

    def folder(self, terms: Terms) -> Path:
        """Where its programs are stored."""
        return terms.folder / FOLDER / f"{self.name}-{self.precision}"

    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        if self.precision == "bf16" and not _BF16 & set(instruction_sets()):
            return "this CPU does not multiply bf16"
        if self.needs and importlib.util.find_spec(self.needs[0]) is None:
            return f"not installed: pip install {self.needs[1]}"
        return None


def embedder(inner: Any, half: bool) -> Any:
    """A module that gives a network's embeddings alone, float32, and multiplies at bf16 if `half`."""
    import torch

    class Embedder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, pixels: torch.Tensor) -> Any:
            if not half:  # without the context, which quantizers do not look into
                return _first(self.inner(pixels))
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                outputs = self.inner(pixels)
            return _first(outputs).float()

    return Embedder().eval().to(memory_format=torch.channels_last)


def _first(outputs: Any) -> Any:
    # Some encoders give features for an MLLM beside the embedding.
    return outputs[0] if isinstance(outputs, tuple) else outputs


def write_nothing(inner: Any, batches: Sequence[Any], file: Path) -> None:
    """Eager needs no program."""
    file.touch()


def read_eager(half: bool, terms: Terms, file: Path) -> Program:
    """The network itself."""
    return embedder(network(terms)[0], half)  # type: ignore[no-any-return]


def write_frozen(half: bool, inner: Any, batches: Sequence[Any], file: Path) -> None:
    """Traces the network and freezes it, its weights constants of the graph."""
    import torch

    with torch.inference_mode():
        traced = torch.jit.trace(embedder(inner, half), batches[0], check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(torch.jit.freeze(traced), file)


def read_frozen(terms: Terms, file: Path) -> Program:
    """The frozen graph."""
    import torch

    return torch.jit.load(file)  # type: ignore[no-any-return, no-untyped-call]


def write_compiled(half: bool, inner: Any, batches: Sequence[Any], file: Path) -> None:
    """Compiles the network ahead of time."""
    _compile(embedder(inner, half), batches[0], file)


def read_compiled(terms: Terms, file: Path) -> Program:
    """The compiled library."""
    import torch

    return torch._inductor.aoti_load_package(file)


def write_int8(inner: Any, batches: Sequence[Any], file: Path) -> None:
    """Quantises the network by PT2E for inductor on x86, its ranges those of the batches, and compiles it."""
    import torch
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    with torch.no_grad():
        # Strict: the quantizer finds the convolutions of a subclass by the function that they call.
        exported = torch.export.export(embedder(inner, False), (batches[0],), strict=True).module()
        quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(exported, quantizer)
        for batch in batches:
            prepared(batch)
        converted = convert_pt2e(prepared)
        move_exported_model_to_eval(converted)
    _compile(converted, batches[0], file)


def _compile(module: Any, example: Any, file: Path) -> None:
    import torch

    with torch.no_grad():
        exported = torch.export.export(module, (example,))
        settings = {"freezing": True, "max_autotune": True}
        torch._inductor.aoti_compile_and_package(exported, package_path=str(file), inductor_configs=settings)


_HALVES: tuple[tuple[Precision, bool], ...] = (("fp32", False), ("bf16", True))
RECIPES = (
    *(Recipe("eager", kind, write_nothing, partial(read_eager, half)) for kind, half in _HALVES),
    *(Recipe("frozen", kind, partial(write_frozen, half), read_frozen) for kind, half in _HALVES),
    *(Recipe("compiled", kind, partial(write_compiled, half), read_compiled) for kind, half in _HALVES),
    Recipe("compiled", "int8", write_int8, read_compiled, ("torchao", "torchao")),
)


@cache  # once a run, however many peers ask
def prepare(terms: Terms, recipes: tuple[Recipe, ...] = RECIPES, sizes: tuple[int, ...] = SIZES) -> None:
    """Stores the programs that are not there, and measures all of them.

    Raises:
        RarError: There are no pictures, torchvision cannot prepare them, or the trial broke off.
    """
    import torch

    if not terms.pictures:
        raise RarError("there are no pictures to try the ways on")
    rows: list[dict[str, Any]] = []
    ready = []
    settings = {
        "encoder": Bundle.open(terms.bundle).component("clip").fingerprint,
        "torch": torch.__version__,
        "instruction_sets": instruction_sets(),
        "threads": terms.threads or usable_cores(),
        "sizes": sizes,
    }
    for recipe in recipes:
        reason = recipe.missing()
        if reason is None:
            try:
                made(recipe.folder(terms), settings, partial(_write, terms, recipe, sizes))
                ready.append(recipe)
            except RarError as error:
                reason = str(error)
        if reason is not None:
            rows.append({"way": recipe.name, "precision": recipe.precision, "reason": reason})
    with in_a_process(partial(_open_trial, terms, tuple(ready), sizes)) as ask:
        rows += ask(None)
    write_json(terms.folder / FOLDER / _TRIAL, {"rows": rows})


def _write(terms: Terms, recipe: Recipe, sizes: Sequence[int], folder: Path) -> None:
    _set_threads(terms)
    inner = network(terms)[0]
    for size in sizes:
        batches = _example(terms, max(size, len(terms.pictures))).split(size)
        whole = [batch for batch in batches if len(batch) == size]
        told(partial(recipe.write, inner, whole, folder / f"{size}{_ENDING}"))


def _open_trial(
    terms: Terms, recipes: Sequence[Recipe], sizes: Sequence[int]
) -> Callable[[None], list[dict[str, Any]]]:
    return lambda _: _trial(terms, recipes, sizes)


def _trial(terms: Terms, recipes: Sequence[Recipe], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Milliseconds and cosine of every program, in turns: a machine that slows down slows all of them."""
    import torch

    _set_threads(terms)
    reference = read_eager(False, terms, Path())
    rows = []
    with torch.inference_mode():
        for size in sizes:
            pixels = _example(terms, size)
            wanted = reference(pixels)
            programs: list[tuple[dict[str, Any], Program, list[float]]] = []
            for recipe in recipes:
                row: dict[str, Any] = {"way": recipe.name, "precision": recipe.precision, "batch": size}
                rows.append(row)
                try:
                    program = told(partial(recipe.read, terms, recipe.folder(terms) / f"{size}{_ENDING}"))
                    found = [told(partial(program, pixels)) for _ in range(_WARM)][-1]
                except RarError as error:
                    row["reason"] = str(error)
                    continue
                row["cosine"] = float(torch.nn.functional.cosine_similarity(found, wanted).mean())
                programs.append((row, program, []))
            for _ in range(_ROUNDS):
                for _, program, taken in programs:
                    start = perf_counter()
                    program(pixels)
                    taken.append(1e3 * (perf_counter() - start))
            for row, _, taken in programs:
                row["ms"] = float(np.median(taken))
    return rows


def chosen(rows: Sequence[Mapping[str, Any]], precisions: Collection[Precision] = _ALL) -> dict[int, Mapping[str, Any]]:
    """By batch size the fastest program of these precisions that does the same work; see `prepare`'s rows."""
    best: dict[int, Mapping[str, Any]] = {}
    for row in rows:
        if "ms" in row and row["precision"] in precisions and row["cosine"] >= LEAST_COSINE:
            size = row["batch"]
            best[size] = min(best.get(size, row), row, key=lambda one: one["ms"])
    return best


def open_best(terms: Terms, precisions: Collection[Precision] = _ALL) -> Opened:
    """Opens what the trial chose, with exact search.

    Raises:
        RarError: No program ran.
    """
    _set_threads(terms)
    rows = json.loads((terms.folder / FOLDER / _TRIAL).read_text(encoding="utf-8"))["rows"]
    best = chosen(rows, precisions)
    if not best:
        raise RarError(f"no way to run the encoder was found: {'; '.join(row.get('reason', '') for row in rows)}")
    embed = ByBatch(lambda size: _embed(terms, best[size], size), sorted(best))
    prepare_pictures, search, labels = Pictures.of(terms), exact(terms), terms.labels()

    def answer(pictures: Sequence[Path], batch: int) -> list[str]:
        classes = []
        for start in range(0, len(pictures), batch):
            pixels = prepare_pictures(pictures[start : start + batch])
            with in_stage("embed"):
                embeddings = embed(pixels.numpy())
            with in_stage("search"):
                classes += [distinct(places, labels, terms.k)[0] for places in search(embeddings)]
        return classes

    runs = {str(size): dict(row) for size, row in sorted(best.items())}
    return Opened(answer, sorted(best), compiles=True, says=lambda: {**versions(), "runs": runs, "trial": rows})


def open_best_fp32(terms: Terms) -> Opened:
    """The same among the ways at fp32."""
    return open_best(terms, _FP32)


def _embed(terms: Terms, row: Mapping[str, Any], size: int) -> Embed:
    import torch

    recipe = next(one for one in RECIPES if (one.name, one.precision) == (row["way"], row["precision"]))
    program = recipe.read(terms, recipe.folder(terms) / f"{size}{_ENDING}")

    def embed(pixels: Floats) -> Floats:
        with torch.inference_mode():
            return np.asarray(program(torch.from_numpy(pixels)).numpy())

    return embed


@dataclass(frozen=True)
class Pictures:
    """Decodes and prepares pictures by torchvision, as `Preprocess` says.

    Attributes:
        settings: The bundle's `preprocess.json`.
        workers: Threads that share a batch.
    """

    settings: Mapping[str, Any]
    workers: ThreadPoolExecutor

    @classmethod
    def of(cls, terms: Terms) -> Pictures:
        """The bundle's own preparation.

        Raises:
            RarError: torchvision has no such preparation.
        """
        settings = Bundle.open(terms.bundle).read_json("clip", "preprocess.json")
        if settings["fit"] == "pad" or settings["filter"] not in ("bilinear", "bicubic"):
            raise RarError(f"torchvision does not prepare tensors by {settings['fit']!r} and {settings['filter']!r}")
        return cls(settings, ThreadPoolExecutor(terms.threads or usable_cores()))

    def __call__(self, pictures: Sequence[Path]) -> Any:
        """Paths -> tensor float32 [N, 3, S, S], channels last."""
        import torch

        with in_stage("decode"):
            images = self._each(_decode, pictures)
        with in_stage("preprocess"):
            batch = torch.stack(self._each(self._cut, images)).to(memory_format=torch.channels_last).float()
            mean, std = (torch.tensor(self.settings[name]).view(3, 1, 1) * 255 for name in ("mean", "std"))
            return batch.sub_(mean).div_(std)

    def _each(self, work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return [work(items[0])] if len(items) == 1 else list(self.workers.map(work, items))

    def _cut(self, image: Any) -> Any:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        size, way = self.settings["size"], InterpolationMode(self.settings["filter"])
        edge = self.settings.get("shortest_edge") or size
        target = [edge] if self.settings["fit"] == "crop" else [size, size]
        return functional.center_crop(functional.resize(image, target, interpolation=way, antialias=True), [size, size])


def _decode(picture: Path) -> Any:
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms.v2.functional import pil_to_tensor

    try:
        return decode_image(str(picture), ImageReadMode.RGB, apply_exif_orientation=True)
    except RuntimeError:  # a format that it does not read
        return pil_to_tensor(decode([picture])[0])


def _example(terms: Terms, size: int) -> Any:
    """A batch of the pictures that are to be recognised."""
    return Pictures.of(terms)([terms.pictures[i % len(terms.pictures)] for i in range(size)])


def _set_threads(terms: Terms) -> None:
    import torch

    torch.set_num_threads(terms.threads or usable_cores())
