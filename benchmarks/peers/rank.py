"""The paper's ranking: the prompt has a list of names, and the MLLM in PyTorch writes it again, sorted.

The prompt is the published one (Liuziyu77/RAR, Few_shot/retrieve_and_rerank.py). The output always has as many tokens
as the list of the candidates. An MLLM that follows the prompt writes that many; one that does not could continue to the
512 that the published loop allows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from PIL import Image

from rar.runtime.bundle.manifest import Bundle
from rar.runtime.rank.mllm.parse import parse_list
from rar.runtime.rank.mllm.prompt import Prompt
from rar.runtime.rank.mllm.tree import PICTURE
from rar.runtime.stages import in_stage

from ..latency.work import Opened
from ..rank.ways import write
from .pytorch import INDEX, Terms, Tower, distinct, exact, read_index, versions

MLLM = "mllm"  # folder of the starter's MLLM in a form that loads at once
_PROJECTOR = "projector.safetensors"

# The published loop's.
_LINKS, _NEIGHBOURS = 64, 100


class Writer:
    """The MLLM in PyTorch at fp32, greedy, with its KV cache."""

    def __init__(self, terms: Terms) -> None:
        bundle = Bundle.open(terms.bundle)
        tokenizer = tokenizers.Tokenizer.from_file(str(bundle.file("mllm", "tokenizer.json")))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._prompt = Prompt.from_dict(bundle.read_json("mllm", "prompt.json"), tokenizer)
        self._mllm = load(terms)

    def write(self, image: Image.Image, features: Any, names: Sequence[str]) -> str:
        """The model's output for a picture and the names.

        Args:
            image: The picture.
            features: tensor [t, C], the encoder's features of it, for a model that sees by them.
            names: The candidates.
        """
        import torch

        mllm = self._mllm
        with in_stage("prompt"):
            ids, answer = self._ids(names)
            row = torch.from_numpy(np.where(ids == PICTURE, mllm.image_token, ids))[None]
        with in_stage("preprocess"):
            picture = features
            if mllm.reference_preprocess is not None:
                picture = torch.from_numpy(mllm.reference_preprocess(image))
        with in_stage("generate"):
            tokens = write(mllm, row, picture[None], answer)
        return self._prompt.decode(tokens.tolist())

    def _ids(self, names: Sequence[str]) -> tuple[Any, int]:
        """The prompt's tokens, and how many the list of the names has."""
        k = len(names)
        question = (
            f"Please play the role of a classification expert, and sort the provided {k} categories from high to low "
            f"according to the top {k} similarity with the input image. Here are the optional categories:{names!r}."
        )
        asking = replace(self._prompt, modes={"generate": {"instruction": "", "question": question, "answer": ""}})
        ids = [*asking.head("generate"), *asking.picture("generate"), *asking.tail("generate", [])]
        return np.array(ids, np.int64), len(self._prompt.text([repr(list(names))])[0])


def open_generate(terms: Terms) -> Opened:
    """`generate` of transformers over k distinct classes, which PyTorch eager and exact search have retrieved."""
    tower, search, labels, writer = Tower(terms), exact(terms), terms.labels(), Writer(terms)

    def answer(pictures: Sequence[Path], batch: int) -> list[str]:
        answers = []
        for picture in pictures:
            seen = tower.see([picture])
            with in_stage("search"):
                names = distinct(search(seen.embeddings)[0], labels, terms.k)
            text = writer.write(seen.images[0], _first(seen.features), names)
            with in_stage("parse"):
                answers.append(names[(parse_list(text, names) or [0])[0]])
        return answers

    return Opened(answer, says=versions)


def open_paper(terms: Terms) -> Opened:
    """The paper's own loop: one picture at a time, faiss's HNSW, the first five neighbours' names, free generation.

    The names are not made distinct. The answer is parsed as in the published code, by regular expressions and over all
    classes. An unreadable answer gives the retrieval's order; the published code takes the previous picture's order if
    there is no bracket.
    """
    tower, index, labels, writer = Tower(terms), read_index(terms, "rar-paper"), terms.labels(), Writer(terms)
    classes = list(dict.fromkeys(labels))

    def answer(pictures: Sequence[Path], batch: int) -> list[str]:
        answers = []
        for picture in pictures:
            seen = tower.see([picture])
            with in_stage("search"):
                places = index.search(seen.embeddings, _NEIGHBOURS)[1][0]
                neighbours = [labels[place] for place in places if place >= 0]
                names = neighbours[: terms.k]
            text = writer.write(seen.images[0], _first(seen.features), names)
            with in_stage("parse"):
                answers.append((read_answer(text, classes) or neighbours)[0])
        return answers

    return Opened(answer, says=versions)


def read_answer(text: str, classes: Sequence[str]) -> list[str] | None:
    """The names that the published code finds in the model's output; None if there is no name, or a foreign one."""
    bracket = re.search(r"\[(.*?)\]", text)
    if bracket is None:
        return None
    items = [item.strip("' ").strip() for item in re.findall(r"'[^']+'|[^,]+", bracket.group(1))]
    return items if items and set(items) <= set(classes) else None


def load(terms: Terms) -> Any:
    """The MLLM as it was exported."""
    from rar.export.mllm import source

    if terms.mllm == "starter":
        from safetensors.torch import load_file

        from rar.export.starter.mllm import load_mllm

        mllm = load_mllm(terms.folder / MLLM)
        mllm.vision.load_state_dict(load_file(terms.folder / MLLM / _PROJECTOR))
        return mllm
    return source.load(str(terms.mllm))


def save_starter(merged: bool, folder: Path) -> None:
    """Writes the starter's MLLM, with its adapter or without, so that the peers need not read the GGUF."""
    import transformers
    from safetensors.torch import save_file

    from rar.export.mllm.adapter import merge
    from rar.export.starter.mllm import load_mllm
    from rar.export.starter.packages import ADAPTER

    mllm = load_mllm()
    if merged:
        merge(mllm, ADAPTER)
    reference: Any = mllm.reference
    # They are floats again, but transformers 5 takes them for what was read, which it cannot write.
    reference.hf_quantizer = None
    vars(reference.config).pop("quantization_config", None)
    reference.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=mllm.tokenizer).save_pretrained(folder)
    save_file(dict(mllm.vision.state_dict()), folder / _PROJECTOR)


def build_paper_index(vectors: Path, folder: Path) -> None:
    """The published code's index: faiss's HNSW with 64 links over all dimensions, by inner product."""
    import faiss

    entries = np.load(vectors)
    index = faiss.IndexHNSWFlat(entries.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
    index.add(entries)
    faiss.write_index(index, str(folder / INDEX))


def _first(features: Any) -> Any:
    return None if features is None else features[0]
