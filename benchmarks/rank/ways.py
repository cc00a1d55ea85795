"""The ways to rank that `rar-bench rank` compares, each behind one call that is timed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from PIL import Image

from rar.runtime.bundle.manifest import Bundle
from rar.runtime.encoder.clip import Clip
from rar.runtime.errors import InputError, RarError
from rar.runtime.memory import Candidate
from rar.runtime.picture.load import load_image
from rar.runtime.rank.mllm.model import Mllm
from rar.runtime.rank.mllm.modes import ask_list
from rar.runtime.rank.mllm.prompt import LETTERS, MODES, Prompt, list_names
from rar.runtime.rank.mllm.ranker import MllmOptions, MllmRanker
from rar.runtime.rank.mllm.tree import PICTURE
from rar.runtime.rank.protocol import Query

BATCH = 8


@dataclass(frozen=True)
class Way:
    """One way to rank.

    Attributes:
        options: The ranker's.
        batch: Pictures a call.
        own_prompt: Takes the bundle's own prompt in place of the paper's.
    """

    options: MllmOptions = field(default_factory=MllmOptions)
    batch: int = 1
    own_prompt: bool = False

    @property
    def title(self) -> str:
        """For the eye."""
        parts: list[str] = [self.options.mode]
        if self.options.mode == "choice":
            parts.append(self.options.debias)
        parts += ["bundle's own prompt"] * self.own_prompt
        return ", ".join(parts)


@dataclass(frozen=True)
class Asked:
    """A picture and what is asked about it.

    Attributes:
        path: The picture.
        candidates: What retrieval found.
        ids: The paper's prompt, `PICTURE` where the picture's tokens go.
        answer: Tokens of the candidates' list.
    """

    path: Path
    candidates: Sequence[Candidate]
    ids: Sequence[int] = ()
    answer: int = 0

    @property
    def names(self) -> list[str]:
        """The candidates'."""
        return [candidate.label for candidate in self.candidates]


def ways(bundle: Bundle) -> list[Way]:
    """What a bundle's MLLM can do."""
    result = []
    for options in (
        MllmOptions("generate"),
        MllmOptions("likelihood"),
        MllmOptions("choice", "none"),
        MllmOptions("choice", "calibrate"),
        MllmOptions("choice", "rotate"),
    ):
        result += [Way(options), Way(options, BATCH)]
    prompts = bundle.read_json("mllm", "prompt.json")["modes"]
    if "likelihood" in prompts:
        result += [Way(MllmOptions("likelihood"), batch, own_prompt=True) for batch in (1, BATCH)]
    return result


def paper_prompt(prompt: Prompt) -> Prompt:
    """A model's prompt format with the paper's texts in all modes."""
    asking = replace(prompt, modes=dict.fromkeys(MODES, MODES["generate"]), letters=dict.fromkeys(LETTERS, 0))
    _, answers = asking.answers("choice", ["one", "two"], list(LETTERS))
    return replace(asking, letters={letter: answer[0] for letter, answer in zip(LETTERS, answers, strict=True)})


def prepare(bundle: Bundle, asked: Sequence[Asked]) -> tuple[list[Asked], dict[str, float]]:
    """What is asked with the paper's prompt, and the medians of its lengths in tokens."""
    tokenizer = tokenizers.Tokenizer.from_file(str(bundle.file("mllm", "tokenizer.json")))
    ours = Prompt.from_dict(bundle.read_json("mllm", "prompt.json"), tokenizer)
    prompt = paper_prompt(ours)
    start = [*prompt.head("generate"), *prompt.picture("generate")]
    ready = []
    for one in asked:
        answer = len(prompt.text([list_names("generate", one.names)])[0])
        ready.append(replace(one, ids=[*start, *prompt.tail("generate", one.names)], answer=answer))
    names = prompt.text([f" {name}" for one in asked for name in one.names])
    lengths = {
        "head": len(prompt.head("generate")),
        "picture": len(prompt.picture("generate")),
        "prompt": float(np.median([len(one.ids) for one in ready])),
        "answer": float(np.median([one.answer for one in ready])),
        "name": float(np.mean([len(ids) for ids in names])),
    }
    if "likelihood" in ours.modes:
        whole = [*ours.head("likelihood"), *ours.picture("likelihood")]
        lengths["own_prompt"] = len(whole) + float(
            np.median([len(ours.tail("likelihood", one.names)) for one in asked])
        )
    return ready, lengths


def open_ours(
    name: str, provider: str, threads: int | None, asked: Sequence[Asked]
) -> Callable[[tuple[Way, list[int]]], float]:
    """A bundle's MLLM: seconds that a way takes for the pictures at these places."""
    bundle = Bundle.open(name)
    clip = Clip(bundle, provider, threads)
    mllm = Mllm(bundle, clip, threads)
    prompts = {True: mllm.prompt, False: paper_prompt(mllm.prompt)}
    queries = [
        Query(pixels, np.empty(0, np.float32), one.candidates, features)
        for one, pixels, features in zip(asked, *_see(clip, asked), strict=True)
    ]

    def take(job: tuple[Way, list[int]]) -> float:
        way, places = job
        mllm.prompt = prompts[way.own_prompt]
        ranker = MllmRanker(mllm, way.options)
        chosen = [queries[place] for place in places]
        start = perf_counter()
        if way.options.mode == "generate":
            _write(mllm, chosen, [asked[place].answer for place in places])
        else:
            ranker.rank(chosen)
        return perf_counter() - start

    return take


def _write(mllm: Mllm, queries: Sequence[Query], lengths: Sequence[int]) -> None:
    """`generate`, with answers of given lengths."""
    names = [[candidate.label for candidate in query.candidates] for query in queries]
    trees = [ask_list(mllm.prompt, labels)[0] for labels in names]
    seen = list(mllm.see(queries))
    mllm.decoder.greedy(mllm.prompt.head("generate"), trees, seen, lengths, lambda _, written: False)


def open_baseline(
    model: str, adapter: str | None, bundles: Sequence[str], threads: int | None, asked: Sequence[Asked]
) -> Callable[[tuple[Way, list[int]]], float]:
    """The same model in PyTorch at fp32: seconds for one picture.

    Raises:
        InputError: The adapter cannot be read, or a bundle was made with another one.
    """
    import torch

    from rar.export.mllm.adapter import merge
    from rar.export.mllm.source import load
    from rar.export.starter.packages import ADAPTER

    if threads:
        torch.set_num_threads(threads)
    folder = Path(adapter) if adapter else ADAPTER if model == "starter" else None
    _check_adapter(folder, bundles)
    mllm = load(model)
    if folder is not None:
        merge(mllm, folder)
    pixels, features = _see(Clip(Bundle.open(bundles[0]), "cpu", threads), asked)

    def picture(place: int) -> npt.NDArray[np.float32]:
        if mllm.reference_preprocess is not None:
            return mllm.reference_preprocess(Image.fromarray(pixels[place]))
        return np.asarray(features[place])

    def take(job: tuple[Way, list[int]]) -> float:
        (place,) = job[1]
        ids, answer = np.array(asked[place].ids), asked[place].answer
        row = torch.from_numpy(np.where(ids == PICTURE, mllm.image_token, ids))[None]
        start = perf_counter()
        written = write(mllm, row, torch.from_numpy(picture(place))[None], answer)
        seconds = perf_counter() - start
        if len(written) != answer:
            raise RarError(f"the baseline wrote {len(written)} tokens in place of {answer}; please report this model")
        return seconds

    return take


def write(mllm: Any, row: Any, picture: Any, count: int) -> Any:
    """What transformers' `generate` writes, greedy and with its KV cache: a tensor of tokens.

    Args:
        mllm: `rar.export.mllm.source.Mllm`.
        row: tensor int64 [1, L], the prompt's tokens.
        picture: tensor [1, ...], as the model takes a picture.
        count: How many tokens, whatever they are.
    """
    import torch

    with torch.inference_mode():
        inputs = mllm.reference_inputs(row, picture)
        tokens = mllm.reference.generate(
            **inputs,
            min_new_tokens=count,
            max_new_tokens=count,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            pad_token_id=mllm.stop_ids[0],
        )
    # For a prompt of embeddings, `generate` returns only the new tokens.
    return tokens[0, row.shape[1] if "input_ids" in inputs else 0 :]


def _see(clip: Clip, asked: Sequence[Asked]) -> tuple[list[npt.NDArray[np.uint8]], Sequence[Any]]:
    """The decoded pictures, and the encoder's features of each or None."""
    pixels = [load_image(one.path) for one in asked]
    if not clip.has_features:
        return pixels, [None] * len(pixels)
    return pixels, [clip.encode(clip.preprocess([one]))[1][0] for one in pixels]  # type: ignore[index]


def _check_adapter(folder: Path | None, bundles: Sequence[str]) -> None:
    try:
        made = None if folder is None else json.loads((folder / "rar.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: is no folder of `rar-export finetune` ({error})") from error
    for name in bundles:
        merged = Bundle.open(name).component("mllm").info["adapter"]
        if (merged and merged["made"]) != made:
            raise InputError(f"{name}: its MLLM was made with another adapter than the baseline; name it by --adapter")
