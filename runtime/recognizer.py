"""The loop: pictures -> batch tensor -> embeddings -> candidates -> ranking -> results."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from time import perf_counter
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from .bundle import Bundle
from .clip import Clip
from .errors import BundleError, ImageError, InputError, RarError
from .images import Pixels, Source, load_image
from .memory import Candidate, Memory
from .rank import Query, Ranker
from .wca import Wca, WcaOptions

Rank: TypeAlias = Literal["none", "wca"]
RANKS: tuple[Rank, ...] = ("none", "wca")

_BATCH = 16


@dataclass(frozen=True)
class Result:
    """What was recognised in one picture.

    Attributes:
        label: The best candidate's class; None where the picture could not be read.
        score: The best candidate's score: the ranker's, or the retrieval's where nothing ranked.
        candidates: The k candidates in their final order, each with its scores.
        retrieved: The same in the retrieval's order.
        timings: Milliseconds this picture took in each stage; a batch's time is shared equally.
        error: Why this picture gave no answer, or None.
    """

    label: str | None = None
    score: float | None = None
    candidates: Sequence[Candidate] = ()
    retrieved: Sequence[Candidate] = ()
    timings: dict[str, float] = field(default_factory=dict)
    error: RarError | None = None


@dataclass
class _Batch:
    """Pictures that were decoded and prepared together; a broken one has an error in place of pixels."""

    pixels: list[Pixels | ImageError]
    tensor: npt.NDArray[np.float32]
    timings: dict[str, float]

    @property
    def good(self) -> list[Pixels]:
        return [pixels for pixels in self.pixels if isinstance(pixels, np.ndarray)]


class Recognizer:
    """Retrieve, then rank. Open one a process and call it from any thread.

    Example:
        >>> rec = Recognizer.open("bundle")
        >>> for result in rec.recognize(["cat.jpg", "dog.jpg"], k=5):
        ...     print(result.label, result.score)
    """

    def __init__(self, clip: Clip, memory: Memory, default_rank: Rank, wca: WcaOptions | None, threads: int) -> None:
        self.clip = clip
        self.memory = memory
        self.default_rank = default_rank
        self._wca_options = wca
        self._rankers: dict[Rank, Ranker | None] = {"none": None}
        self._decoders = ThreadPoolExecutor(threads, thread_name_prefix="rar-decode")

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        provider: str = "auto",
        *,
        threads: int | None = None,
        text_weight: float | None = None,
        wca: WcaOptions | None = None,
    ) -> Recognizer:
        """Opens a bundle.

        Args:
            path: The bundle's folder.
            provider: `auto`, `cpu`, `cuda` or `tensorrt`; see `provider` for what was chosen.
            threads: Threads of decoding, of preprocessing and of each session; None for one a core.
            text_weight: Replaces the memory's weight of texts against pictures, 0 to 1.
            wca: Settings of the WCA ranker.

        Raises:
            BundleError: The bundle, a part of it or its memory is missing, damaged, newer, or was made
                with another encoder.
            ProviderError: The device is not there.
            InputError: A setting is out of range.
        """
        if threads is not None and threads < 1:
            raise InputError(f"threads={threads}; give 1 or more, or None for one a core")
        bundle = Bundle.open(path)
        info = bundle.component("memory").info
        if info.get("encoder") != bundle.component("clip").fingerprint:
            raise BundleError(
                f"{bundle.root}: the memory was made with another encoder; build it again with `rar-export memory`"
            )
        clip = Clip(bundle, provider, threads)
        rank = info.get("rank", "none")
        if rank not in RANKS:
            raise BundleError(f"{bundle.root}: the ranker {rank!r} is unknown to this release; upgrade rar-runtime")
        return cls(clip, Memory.open(bundle, text_weight), rank, wca, threads or os.cpu_count() or 1)

    @property
    def provider(self) -> str:
        """The device that runs the encoder: `cpu`, `cuda` or `tensorrt`."""
        return self.clip.visual.provider

    def recognize(self, images: Source | Iterable[Source], k: int = 5, rank: Rank | None = None) -> list[Result]:
        """Recognises pictures.

        Args:
            images: Paths, bytes, PIL images, uint8 RGB arrays [H, W, 3], mixed; or one of them.
            k: Candidates a picture.
            rank: `none` keeps the retrieval's order, `wca` ranks by crops and descriptions; None takes the
                bundle's default.

        Returns:
            One result a picture, in order; a picture that cannot be read has its `error` set.

        Raises:
            InputError: `k` or `rank` does not fit the memory.
        """
        single = isinstance(images, (str, os.PathLike, bytes, np.ndarray)) or hasattr(images, "getexif")
        return list(self.stream([images] if single else images, k=k, rank=rank))  # type: ignore[arg-type, list-item]

    def stream(
        self, source: Iterable[Source], k: int = 5, rank: Rank | None = None, batch_size: int = _BATCH
    ) -> Iterator[Result]:
        """Recognises pictures as they come, in bounded memory.

        While one batch is embedded, searched and ranked, the next is decoded and prepared; no more than two
        batches are held.

        Args:
            source: Pictures, as for `recognize`; may be endless.
            k: Candidates a picture.
            rank: As for `recognize`.
            batch_size: Pictures embedded at once.

        Yields:
            One result a picture, in order.

        Raises:
            InputError: `k`, `rank` or `batch_size` is out of range.
        """
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}; give 1 or more")
        self.memory.check_k(k)
        ranker = self._ranker(self.default_rank if rank is None else rank)
        return self._stream(iter(source), k, ranker, batch_size)

    def _stream(self, source: Iterator[Source], k: int, ranker: Ranker | None, batch_size: int) -> Iterator[Result]:
        # One worker of its own: it waits for the decoders, so it must not be one of them.
        with ThreadPoolExecutor(1, thread_name_prefix="rar-prepare") as prepare:
            ahead: Future[_Batch | None] = prepare.submit(self._prepare, source, batch_size)
            while (batch := ahead.result()) is not None:
                ahead = prepare.submit(self._prepare, source, batch_size)
                yield from self._answer(batch, k, ranker)

    def _prepare(self, source: Iterator[Source], batch_size: int) -> _Batch | None:
        """The next pictures, decoded and written into one batch tensor; None at the end."""
        sources = list(islice(source, batch_size))
        if not sources:
            return None
        timings: dict[str, float] = {}
        with _timed(timings, "decode"):
            pixels = list(self._decoders.map(_decode, sources))
        batch = _Batch(pixels, np.empty(0, np.float32), timings)
        if batch.good:
            with _timed(timings, "preprocess"):
                batch.tensor = self.clip.preprocess(batch.good)
        return batch

    def _answer(self, batch: _Batch, k: int, ranker: Ranker | None) -> Iterator[Result]:
        good = batch.good
        answers: Iterator[Result] = iter(())
        if good:
            with _timed(batch.timings, "embed"):
                embeddings = self.clip.embed_pixels(batch.tensor)
            with _timed(batch.timings, "search"):
                retrieved = self.memory.search(embeddings, k)
            final = retrieved
            if ranker is not None:
                queries = [Query(*parts) for parts in zip(good, embeddings, retrieved, strict=True)]
                with _timed(batch.timings, "rank"):
                    final = [_reorder(q.candidates, s) for q, s in zip(queries, ranker.rank(queries), strict=True)]
            timings = {stage: 1e3 * seconds / len(good) for stage, seconds in batch.timings.items()}
            answers = (_result(ranked, found, dict(timings)) for ranked, found in zip(final, retrieved, strict=True))
        for pixels in batch.pixels:
            yield Result(error=pixels) if isinstance(pixels, ImageError) else next(answers)

    def _ranker(self, rank: Rank) -> Ranker | None:
        if rank not in RANKS:
            raise InputError(f"rank {rank!r} is unknown; choose {', '.join(RANKS)}")
        if rank not in self._rankers:
            self._rankers[rank] = Wca(self.clip, self.memory, self._wca_options)
        return self._rankers[rank]


def _decode(source: Source) -> Pixels | ImageError:
    try:
        return load_image(source)
    except ImageError as error:
        return error


def _reorder(candidates: Sequence[Candidate], scores: npt.NDArray[np.floating]) -> list[Candidate]:
    """The candidates by falling score; equal scores keep the retrieval's order."""
    order = np.argsort(-scores, kind="stable")
    return [replace(candidates[i], rank_score=float(scores[i])) for i in order]


def _result(final: Sequence[Candidate], retrieved: Sequence[Candidate], timings: dict[str, float]) -> Result:
    best = final[0]
    score = best.similarity if best.rank_score is None else best.rank_score
    return Result(best.label, score, final, retrieved, timings)


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    start = perf_counter()
    yield
    timings[stage] = perf_counter() - start
