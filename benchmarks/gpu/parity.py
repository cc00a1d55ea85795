"""Does the GPU answer as the CPU does? Encoders, MLLM, memory that ends; each against fp32 on the CPU."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from rar.runtime.bundle.manifest import Bundle
from rar.runtime.encoder.clip import Clip
from rar.runtime.errors import OutOfMemoryError
from rar.runtime.memory import Candidate
from rar.runtime.picture.load import load_image
from rar.runtime.rank.mllm.model import Mllm
from rar.runtime.rank.mllm.modes import ask_likelihood, ask_list
from rar.runtime.rank.mllm.ranker import MllmOptions, MllmRanker
from rar.runtime.rank.protocol import Query
from rar.runtime.session import OnnxSession
from rar.runtime.session.checks import Run
from rar.runtime.session.checks.measure import compare

from .models import SIDE
from .step import Row, Setting

NAMES = ("red panda", "espresso", "lighthouse", "motorcycle", "sunflower")
_PICTURES = 16
_TOKENS = 24  # written greedily
# MB that ONNX Runtime's arena may take, and a batch that needs more.
_ARENAS, _BATCH = (4096, 2048, 1536, 1024, 768, 640, 512), 512


def run(setting: Setting) -> Iterator[Row]:
    """Rows of every comparison, the ones that matter most first."""
    yield from _encoder(setting, "b32-fp32", ("b32-fp32", "b32-fp16"))
    yield from _mllm(setting, "b32-fp32", ("b32-fp32", "b32-fp16"))
    yield from _memory(setting)
    yield from _encoder(setting, "l14-fp32", ("l14-fp32", "l14-fp16"))
    # Its fp32 weights are not among the models: the CPU computes the same fp16 graph.
    yield from _mllm(setting, "l14-fp16", ("l14-fp16",), pictures=1)


def queries(setting: Setting, count: int) -> list[Query]:
    """Pictures, each with the same candidates."""
    candidates = [Candidate(name, 0.5 - place / 100) for place, name in enumerate(NAMES)]
    pictures = [load_image(path) for path in setting.pictures[:count]]
    return [Query(picture, np.empty(0, np.float32), candidates) for picture in pictures]


def _encoder(setting: Setting, reference: str, names: Sequence[str]) -> Iterator[Row]:
    reference_clip = Clip(Bundle.open(setting.models / reference), "cpu")
    pixels = reference_clip.preprocess([load_image(path) for path in setting.pictures[:_PICTURES]])
    texts = [f"a photo of a {name}." for name in NAMES]
    expected = {"image_embeds": reference_clip.embed_pixels(pixels), "text_embeds": reference_clip.embed_texts(texts)}
    for name in names:
        began = perf_counter()
        clip = Clip(Bundle.open(setting.models / name), setting.provider)
        opened = perf_counter() - began
        actual = {"image_embeds": clip.embed_pixels(pixels), "text_embeds": clip.embed_texts(texts)}
        cosines = {output: _worst_cosine(array, actual[output]) for output, array in expected.items()}
        yield {
            "check": "encoder", "model": name, "against": f"{reference} on the CPU", "pictures": len(pixels),
            "worst_cosine": cosines, "opened_seconds": opened, "providers": dict(clip.sessions.running),
            "placement": dict(getattr(clip.visual, "placement", {})),
        }  # fmt: skip


def _mllm(setting: Setting, reference: str, names: Sequence[str], pictures: int = 4) -> Iterator[Row]:
    asked = queries(setting, pictures)
    expected = _answers(setting, reference, "cpu", asked)
    for name in names:
        actual = _answers(setting, name, setting.provider, asked)
        yield {
            "check": "mllm", "model": name, "against": f"{reference} on the CPU", "pictures": pictures,
            "worst_cosine": _worst_cosine(expected["logits"], actual["logits"]),
            "largest_logit_difference": float(np.abs(expected["logits"] - actual["logits"]).max()),
            "largest_logit": float(np.abs(expected["logits"]).max()),
            "largest_score_difference": {
                mode: float(np.abs(expected[mode] - actual[mode]).max()) for mode in ("likelihood", "choice")
            },
            "greedy_tokens_equal": float((expected["greedy"] == actual["greedy"]).mean()),
            "greedy_tokens": int(expected["greedy"].size),
            "cache_device": actual["device"], "seconds": actual["seconds"],
        }  # fmt: skip


def _answers(setting: Setting, name: str, provider: str, asked: Sequence[Query]) -> dict[str, Any]:
    began = perf_counter()
    bundle = Bundle.open(setting.models / name)
    mllm = Mllm(bundle, Clip(bundle, provider))
    prompt, decoder = mllm.prompt, mllm.decoder
    pictures = list(mllm.see(asked))
    trees = [ask_likelihood(prompt, NAMES).tree for _ in asked]
    lists = [ask_list(prompt, NAMES)[0] for _ in asked]
    written = decoder.greedy(
        prompt.head("generate"), lists, pictures, [_TOKENS] * len(asked), lambda _, tokens: len(tokens) >= _TOKENS
    )
    answers: dict[str, Any] = {
        "logits": np.concatenate(list(decoder.logits(prompt.head("likelihood"), trees, pictures))),
        "greedy": np.array(written),
        "device": mllm.decoder.device.kind,
    }
    for options in (MllmOptions("likelihood"), MllmOptions("choice", "rotate")):
        answers[options.mode] = np.stack([ranking.scores for ranking in MllmRanker(mllm, options).rank(asked)])
    answers["seconds"] = perf_counter() - began
    return answers


def _worst_cosine(expected: npt.NDArray[np.generic], actual: npt.NDArray[np.generic]) -> float:
    """The lowest cosine of two arrays' rows."""
    return compare([(Run({}, {"rows": expected}), {"rows": actual})]).worst


class _Warnings(logging.Handler):
    """Counts the batches that were run in halves."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.halved = 0

    def emit(self, log: logging.LogRecord) -> None:
        self.halved += "in halves" in log.getMessage()


def _memory(setting: Setting) -> Iterator[Row]:
    """A batch in less and less memory: whole, in halves, then refused; what is answered must stay the same."""
    if setting.provider != "cuda":
        yield {"check": "memory", "skipped": "the limit of an arena is CUDA's"}
        return
    path = Bundle.open(setting.models / "b32-fp32").graph("clip", "visual.onnx")
    pixels = np.random.default_rng(0).standard_normal((_BATCH, 3, SIDE, SIDE), np.float32)
    expected: npt.NDArray[np.generic] | None = None
    for megabytes in _ARENAS:
        warnings = _Warnings()
        logging.getLogger("rar").addHandler(warnings)
        row: Row = {"check": "memory", "arena_mb": megabytes, "batch": _BATCH}
        session = None
        try:
            session = OnnxSession(path, "cuda", options={"gpu_mem_limit": str(megabytes << 20)})
            actual = session.run({"pixel_values": pixels}, ["image_embeds"])["image_embeds"]
            expected = actual if expected is None else expected
            row |= {
                "outcome": "in halves" if warnings.halved else "whole",
                "worst_cosine": _worst_cosine(expected, actual),
            }
        except OutOfMemoryError as error:
            row |= {"outcome": "refused", "error": str(error)[:300]}
        finally:
            logging.getLogger("rar").removeHandler(warnings)
            del session
            gc.collect()
        yield row
        if row["outcome"] == "refused":
            return
