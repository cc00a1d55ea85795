"""llama.cpp as the decoder of `rar-bench rank`: the same prompt and names, without the picture.

The starter's language model is SmolLM2-135M, whose weights come as GGUF; they are quantised again to Q8_0, which has
the eight bits of our int8. Its adapter is not in them, which changes no time. llama.cpp cannot take the starter's
picture, so as many text tokens stand in its place; ours makes the picture's embeddings besides. It gets what we give
ourselves: the head of the prompt stays in its cache, and all names go through one call, as sequences that share the
prompt.
"""

from __future__ import annotations

import ctypes
import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from rar.export.starter.packages import language_file
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.errors import RarError
from rar.runtime.machine.cores import usable_cores
from rar.runtime.machine.cpu import instruction_sets
from rar.runtime.rank.mllm.modes import answer_scores, ask_likelihood, ask_list
from rar.runtime.rank.mllm.prompt import Prompt
from rar.runtime.rank.mllm.tree import PICTURE, Tree

from ..rank.ways import Asked, Way, paper_prompt

NAME = "llama.cpp Q8_0, no picture"
_STAND_IN = 1  # the text token in the place of each of a picture's
_Q8_0 = 7  # llama.h: LLAMA_FTYPE_MOSTLY_Q8_0


def missing(model: str) -> str | None:
    """Why it cannot run here, or None."""
    if importlib.util.find_spec("llama_cpp") is None:
        return "not installed: pip install llama-cpp-python"
    return None if model == "starter" else "runs the starter's language model alone"


def describe() -> dict[str, Any]:
    """What a result file says of it."""
    return {
        "what": "prompt and names as ours, text tokens in the picture's place; the picture's embeddings are not made",
        "weights": "SmolLM2-135M-Instruct, Q4_1 quantised again to Q8_0",
        "kernels": "packed weights" if _packed() else "as the weights are stored: not its AMX ones",
        "version": version("llama-cpp-python"),
    }


def open_llama(bundle: str, threads: int | None, asked: Sequence[Asked]) -> Callable[[tuple[Way, list[int]]], float]:
    """Seconds that a way takes for the question of one picture.

    Raises:
        RarError: llama.cpp cannot run the model.
    """
    opened = Bundle.open(bundle)
    tokenizer = tokenizers.Tokenizer.from_file(str(opened.file("mllm", "tokenizer.json")))
    ours = Prompt.from_dict(opened.read_json("mllm", "prompt.json"), tokenizer)
    prompts = {True: ours, False: paper_prompt(ours)}
    with tempfile.TemporaryDirectory() as folder:
        decoder = Decoder(quantize(language_file(), Path(folder) / "q8_0.gguf"), ours.context, threads)

    def take(job: tuple[Way, list[int]]) -> float:
        way, (place,) = job
        prompt, names, mode = prompts[way.own_prompt], asked[place].names, way.options.mode
        decoder.keep(prompt.head(mode))
        start = perf_counter()
        if mode == "generate":
            decoder.write(ask_list(prompt, names)[0], asked[place].answer)
        else:
            question = ask_likelihood(prompt, names)
            answer_scores(question, decoder.logits(question.tree))
        return perf_counter() - start

    return take


def _packed() -> bool:
    return "amx_int8" not in instruction_sets()


def quantize(source: Path, file: Path) -> Path:
    """Quantises a GGUF to Q8_0, and returns the new file.

    Raises:
        RarError: llama.cpp cannot.
    """
    import llama_cpp

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.allow_requantize = _Q8_0, True
    if llama_cpp.llama_model_quantize(str(source).encode(), str(file).encode(), ctypes.byref(settings)):
        raise RarError(f"llama.cpp cannot quantise {source.name}")
    return file


class Decoder:
    """A language model in llama.cpp, with the head of a prompt in its cache.

    Args:
        file: A GGUF.
        context: Tokens that it may hold.
        threads: None for one a core.

    Raises:
        RarError: It cannot be opened.
    """

    _SEQUENCES = 16  # names that it ranks at most

    def __init__(self, file: Path, context: int, threads: int | None) -> None:
        import llama_cpp

        self._llama: Any = llama_cpp
        llama_cpp.llama_backend_init()
        loading = llama_cpp.llama_model_default_params()
        # Its AMX kernels, compiled by GCC 12, load a tile configuration that is not there yet, and the process ends.
        loading.use_extra_bufts = _packed()
        model = llama_cpp.llama_model_load_from_file(str(file).encode(), loading)
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = min(context, 1024)
        settings.n_threads = settings.n_threads_batch = threads or usable_cores()
        # One cache that all sequences share: the prompt is in it once.
        settings.n_seq_max, settings.kv_unified = self._SEQUENCES, True
        self._context: Any = model and llama_cpp.llama_init_from_model(model, settings)
        if not self._context:
            raise RarError(f"llama.cpp cannot open {file.name}")
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._batch = llama_cpp.llama_batch_init(settings.n_batch, 0, self._SEQUENCES)
        self._head: list[int] = []

    def keep(self, head: Sequence[int]) -> None:
        """Decodes the head of a prompt, unless it is in the cache."""
        if list(head) == self._head:
            return
        self._forget(0)
        everywhere = range(self._SEQUENCES)
        self._decode([(token, place, everywhere, False) for place, token in enumerate(head)])
        self._head = list(head)

    def logits(self, tree: Tree) -> npt.NDArray[np.float32]:
        """The logits of a tree's places: float32 [M, V].

        Raises:
            RarError: llama.cpp failed.
        """
        common, *branches = (segment.ids for segment in tree.segments)
        rows = self._rows(common, len(self._head), range(len(branches) or 1))
        firsts = [0]
        for sequence, ids in enumerate(branches):
            firsts.append(len(rows))
            rows += self._rows(ids, len(self._head) + len(common), [sequence])
        wanted = [firsts[segment] + offset for segment, offset in tree.places]
        self._decode([(*row, place in wanted) for place, row in enumerate(rows)])
        found = np.stack([self._row(place) for place in wanted])
        self._forget(len(self._head))
        return found

    def write(self, tree: Tree, count: int) -> list[int]:
        """Greedy tokens after a tree of one branch.

        Raises:
            RarError: llama.cpp failed.
        """
        (segment,) = tree.segments
        place = len(self._head) + len(segment.ids)
        rows = self._rows(segment.ids, len(self._head), [0])
        self._decode([(*row, number == len(rows) - 1) for number, row in enumerate(rows)])
        written = [int(self._row(-1).argmax())]
        while len(written) < count:
            self._decode([(written[-1], place + len(written) - 1, [0], True)])
            written.append(int(self._row(-1).argmax()))
        self._forget(len(self._head))
        return written

    @staticmethod
    def _rows(ids: Sequence[int], start: int, sequences: Sequence[int]) -> list[tuple[int, int, Sequence[int]]]:
        return [(_STAND_IN if token == PICTURE else token, start + i, sequences) for i, token in enumerate(ids)]

    def _decode(self, rows: Sequence[tuple[int, int, Sequence[int], bool]]) -> None:
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequences, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i] = len(sequences)
            for j, sequence in enumerate(sequences):
                batch.seq_id[i][j] = sequence
        if code := self._llama.llama_decode(self._context, batch):
            raise RarError(f"llama.cpp could not decode {len(rows)} tokens (code {code})")

    def _row(self, place: int) -> npt.NDArray[np.float32]:
        pointer = self._llama.llama_get_logits_ith(self._context, place)
        return np.ctypeslib.as_array(pointer, (self._vocabulary,)).copy()

    def _forget(self, start: int) -> None:
        self._llama.llama_memory_seq_rm(self._llama.llama_get_memory(self._context), -1, start, -1)
