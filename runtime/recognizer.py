"""The loop: pictures -> batch tensor -> embeddings -> candidates -> ranking -> results."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from threading import Lock
from time import perf_counter
from typing import Literal, TypeAlias, get_args

import numpy as np

from .answer import Answer, Plan, Within
from .batch import Batch, timed
from .bundle import Bundle
from .clip import Clip
from .confidence import FUSION, check_fusion
from .errors import BundleError, ImageError, InputError
from .frames import BLUR, GROW, Frame, Surround, pack
from .grain import Grain, GrainOptions
from .images import Pixels, Source, load_image
from .memory import Memory
from .mllm.model import Mllm
from .mllm.ranker import MllmOptions, MllmRanker
from .probe import Probe
from .rank import RANKS, Query, Rank, Ranker
from .regions import Blur, Boxes, Growth
from .result import Result, by_frame, in_frame
from .session import Options
from .stages import note, stage
from .tuning import Tuning
from .wca import Wca, WcaOptions

Gate: TypeAlias = Literal["off", "unsure"]
GATES: tuple[Gate, ...] = get_args(Gate)

_BATCH = 16
_REGIONS = 32


class Recognizer:
    """Retrieve, then rank. Open one a process and call it from any thread.

    Example:
        >>> rec = Recognizer.open("bundle")
        >>> for result in rec.recognize(["cat.jpg", "dog.jpg"], k=5):
        ...     print(result.label, result.score)
    """

    def __init__(
        self,
        bundle: Bundle,
        clip: Clip,
        memory: Memory,
        *,
        default_rank: Rank = "none",
        wca: WcaOptions | None = None,
        grain: GrainOptions | None = None,
        mllm: MllmOptions | None = None,
        tuning: Tuning | None = None,
        probe: Probe | None = None,
        threads: int | None = None,
    ) -> None:
        self.clip = clip
        self.memory = memory
        self.default_rank = default_rank
        self.tuning = tuning
        self.probe = probe
        self._bundle = bundle
        self._threads = threads
        self._wca_options = wca
        self._grain_options = grain or (tuning and tuning.grain) or GrainOptions()
        self._mllm_options = mllm or (tuning and tuning.mllm) or MllmOptions()
        self._rankers: dict[Rank, Ranker | None] = {"none": None}
        self._loading = Lock()  # two threads must not each load an MLLM
        self._answer = Answer(clip, memory)
        self._decoders = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="rar-decode")

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        provider: str = "auto",
        *,
        threads: int | None = None,
        text_weight: float | None = None,
        wca: WcaOptions | None = None,
        grain: GrainOptions | None = None,
        mllm: MllmOptions | None = None,
        options: Options | None = None,
    ) -> Recognizer:
        """Opens a bundle.

        Args:
            path: The bundle's folder.
            provider: What runs the models: `engine` for the bundle's own TensorRT engines; `tensorrt`, `tensorrt-rtx`,
                `cuda` or `cpu` for those providers of ONNX Runtime; or `auto` for the first of these that works. See
                `provider` and `clip.sessions.running` for what was chosen.
            threads: Threads of decoding, of preprocessing and of each session; None for one a core.
            text_weight: Replaces the memory's weight of texts against pictures, 0 to 1.
            wca: Settings of the WCA ranker.
            grain: Settings of the GRAIN ranker; None for what `rar-export tune` stored, or else the defaults. What was
                fitted for other settings (fusion, gate) is not used.
            mllm: Settings of the MLLM ranker, likewise.
            options: Provider -> ONNX Runtime's own options for it, as strings; they come before the bundle's.

        Raises:
            BundleError: The bundle, a part of it or its memory is missing, damaged, newer, or was made
                with another encoder.
            ProviderError: The device is not there, or has not the memory for the models.
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
        clip = Clip(bundle, provider, threads, options)
        rank = info.get("rank", "none")
        if rank not in RANKS:
            raise BundleError(f"{bundle.root}: the ranker {rank!r} is unknown to this release; upgrade rar-runtime")
        tuning = Tuning.from_info(info)
        return cls(
            bundle,
            clip,
            Memory.open(bundle, text_weight, embed=clip, threads=threads),
            default_rank=rank,
            wca=wca,
            grain=grain,
            mllm=mllm,
            tuning=tuning,
            probe=Probe.open(bundle) if tuning and tuning.gate_by == "probe" else None,
            threads=threads,
        )

    @property
    def provider(self) -> str:
        """What runs the encoder: `engine`, `tensorrt`, `tensorrt-rtx`, `cuda` or `cpu`."""
        return self.clip.visual.provider

    def recognize(
        self,
        images: Source | Iterable[Source],
        k: int = 5,
        rank: Rank | None = None,
        *,
        gate: Gate = "off",
        deadline_ms: float | None = None,
        labels: Collection[str] | None = None,
        tags: Collection[str] | None = None,
    ) -> list[Result]:
        """Recognises pictures.

        Args:
            images: Paths, bytes, PIL images, uint8 RGB arrays [H, W, 3], mixed; or one of them.
            k: Candidates a picture.
            rank: `none` keeps the retrieval's order, `wca` ranks by crops and descriptions, `grain` by a GRAIN
                encoder's regions and descriptions, `mllm` by the bundle's multimodal LLM; None takes the bundle's
                default.
            gate: `unsure` ranks only pictures whose best class is less sure than the margin that `rar-export tune`
                fitted; `off` ranks all.
            deadline_ms: Milliseconds from when a batch is picked up. Pictures whose ranking would come later, going
                by how long it has taken so far, keep the retrieval's order; the least sure are ranked first.
            labels: The only classes that are looked for; None for all.
            tags: Only classes that have one of these are looked for; None for all.

        Returns:
            One result a picture, in order; a picture that cannot be read has its `error` set. Each says who ranked
            it, or why it was not ranked.

        Raises:
            InputError: A setting is out of range, or does not fit the bundle.
        """
        single = isinstance(images, (str, os.PathLike, bytes, np.ndarray)) or hasattr(images, "getexif")
        source: Iterable[Source] = [images] if single else images  # type: ignore[assignment, list-item]
        return list(self.stream(source, k, rank, gate=gate, deadline_ms=deadline_ms, labels=labels, tags=tags))

    def stream(
        self,
        source: Iterable[Source],
        k: int = 5,
        rank: Rank | None = None,
        batch_size: int = _BATCH,
        *,
        gate: Gate = "off",
        deadline_ms: float | None = None,
        labels: Collection[str] | None = None,
        tags: Collection[str] | None = None,
    ) -> Iterator[Result]:
        """Recognises pictures as they come, in bounded memory.

        While one batch is embedded, searched and ranked, the next is decoded and prepared; no more than two
        batches are held. The memory may be changed meanwhile: each batch is answered from it as it is then, with fewer
        candidates where fewer classes are left.

        Args:
            source: Pictures, as for `recognize`; may be endless.
            k: Candidates a picture.
            rank: As for `recognize`.
            batch_size: Pictures embedded at once.
            gate: As for `recognize`.
            deadline_ms: As for `recognize`.
            labels: As for `recognize`.
            tags: As for `recognize`.

        Yields:
            One result a picture, in order.

        Raises:
            InputError: A setting is out of range, or does not fit the bundle.
        """
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}; give 1 or more")
        within = Within(labels, tags)
        plan = self._plan(k, within, self.default_rank if rank is None else rank, gate, deadline_ms)
        batches = self._batches(partial(self._prepare, iter(source), batch_size))
        return (result for batch in batches for result in self._answer(batch, plan))

    def recognize_regions(
        self,
        image: Source,
        boxes: Boxes,
        k: int = 5,
        rank: Rank | None = None,
        *,
        scores: Sequence[float] | None = None,
        fusion: float = FUSION,
        grow: Growth = GROW,
        blur: Blur | float | None = BLUR,
        square: bool = False,
        gate: Gate = "off",
        deadline_ms: float | None = None,
        labels: Collection[str] | None = None,
        tags: Collection[str] | None = None,
    ) -> list[Result]:
        """Recognises what a detector found in one picture (RAR's detection, arXiv 2403.13805, section 3.2).

        Each region is the box grown, and what lies outside the box may be blurred: so the encoder sees it, and so, as
        a picture of its own, the ranker does.

        Args:
            image: As one of those for `recognize`.
            boxes: [M, 4] numbers: x0, y0, x1, y1 in pixels, edges at x1 and y1 outside.
            k: Candidates a box.
            rank: As for `recognize`.
            scores: The detector's confidence in each box, 0 to 1. Each result's `score` is then that of the detection,
                proposal^a * p^(1 - a), where p is the best candidate's share under a softmax over the candidates; by
                default it is as for `recognize`.
            fusion: The exponent a. The paper gives no formula; the default is the geometric mean, as Detic's.
            grow: Factor on the box's sides, or (limit, factor) pairs for objects of different size; see
                `Preprocess.regions`. The paper gives no values. The default is the bare box: on scenes of groceries
                with the starter's encoder no scale gained more than chance would give, nor did blur at any
                (docs/detection.md). `rar-bench detection --sweep` measures what your encoder makes of yours.
            blur: A `Blur`, or its radius as a share of the box's longer side; None leaves all sharp. Likewise.
            square: Grows the shorter side up to the longer one.
            gate: As for `recognize`.
            deadline_ms: As for `recognize`.
            labels: As for `recognize`.
            tags: As for `recognize`.

        Returns:
            One result a box, in order; a box that is empty, inverted, not finite or outside the picture has its `error`
            set, and each has where the picture cannot be read.

        Raises:
            InputError: A setting is out of range, or does not fit the bundle; or the boxes are not [M, 4] numbers, or
                the scores not one a box, 0 to 1.
        """
        frame = Frame(image, boxes, scores)
        frame.check()
        (results,) = self.stream_regions(
            [frame], k, rank, fusion=fusion, grow=grow, blur=blur, square=square, gate=gate, deadline_ms=deadline_ms,
            labels=labels, tags=tags,
        )  # fmt: skip
        return results

    def stream_regions(
        self,
        frames: Iterable[Frame],
        k: int = 5,
        rank: Rank | None = None,
        batch_size: int = _REGIONS,
        *,
        fusion: float = FUSION,
        grow: Growth = GROW,
        blur: Blur | float | None = BLUR,
        square: bool = False,
        gate: Gate = "off",
        deadline_ms: float | None = None,
        labels: Collection[str] | None = None,
        tags: Collection[str] | None = None,
    ) -> Iterator[list[Result]]:
        """Recognises what a detector found in pictures as they come, in bounded memory.

        Boxes of several pictures share a batch, and those of one may fall into several. While one batch is embedded,
        searched and ranked, the next is cut out, and up to four pictures are decoded.

        Args:
            frames: Pictures with their boxes; may be endless.
            k: As for `recognize_regions`, as are the others that are not named here.
            rank: As for `recognize`.
            batch_size: Regions embedded at once.
            fusion: As for `recognize_regions`.
            grow: As for `recognize_regions`.
            blur: As for `recognize_regions`.
            square: As for `recognize_regions`.
            gate: As for `recognize`.
            deadline_ms: As for `recognize`.
            labels: As for `recognize`.
            tags: As for `recognize`.

        Yields:
            The results of each picture's boxes, in order.

        Raises:
            InputError: As `recognize_regions`.
        """
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}; give 1 or more")
        check_fusion(fusion)
        plan = self._plan(k, Within(labels, tags), self.default_rank if rank is None else rank, gate, deadline_ms)
        # Taken in by the thread that cuts, given out by the caller's: what belongs to which picture.
        open_frames: deque[tuple[int, Sequence[float] | None]] = deque()

        def taken() -> Iterator[Frame]:
            for frame in frames:
                open_frames.append((count := frame.check(), frame.scores))
                if count:
                    yield frame

        surround = Surround(grow, blur, square)
        regions = pack(
            taken(), self.clip.preprocess, surround, batch_size, self._decoders, drawn=plan.ranker is not None
        )
        batches = self._batches(lambda: next(regions, None))
        results = (
            in_frame(result, around)
            for batch in batches
            for result, around in zip(self._answer(batch, plan), batch.around, strict=True)
        )
        return by_frame(results, open_frames, plan.fusion, fusion)

    def queries(self, source: Iterable[Source], k: int = 5, batch_size: int = _BATCH) -> Iterator[Query | ImageError]:
        """What a ranker would be given, for those who rank on their own: one query a picture, in order.

        Args:
            source: As for `stream`.
            k: Candidates a picture.
            batch_size: Pictures embedded at once.

        Yields:
            The query, or why the picture cannot be read.

        Raises:
            InputError: `k` is out of range.
        """
        self.memory.check_k(k)
        for batch in self._batches(partial(self._prepare, iter(source), batch_size)):
            found = iter(self._answer.retrieve(batch, k, Within()))
            for pixels in batch.pixels:
                yield pixels if isinstance(pixels, ImageError) else next(found)

    @stage("plan")
    def _plan(self, k: int, within: Within, rank: Rank, gate: Gate, deadline_ms: float | None) -> Plan:
        self.memory.check_k(k, within.labels, within.tags)
        if gate not in GATES:
            raise InputError(f"gate {gate!r} is unknown; choose {', '.join(GATES)}")
        if deadline_ms is not None and not deadline_ms > 0:
            raise InputError(f"deadline_ms={deadline_ms}; give more than 0, or None for no deadline")
        ranker = self._ranker(rank)
        options = self._mllm_options if rank == "mllm" else self._grain_options if rank == "grain" else None
        tuning = self.tuning if self.tuning and self.tuning.fits(rank, options) else None
        margin, probe = math.inf, None
        if gate == "unsure" and ranker is not None:
            if tuning is None or tuning.gate is None:
                raise InputError(
                    f"gate='unsure' needs a margin fitted for the ranker {rank!r} as it is set; "
                    "run `rar-export tune`, or use gate='off'"
                )
            margin = tuning.gate
            probe = self.probe if tuning.gate_by == "probe" else None
        deadline = math.inf if deadline_ms is None else deadline_ms / 1e3
        return Plan(k, within, rank, ranker, tuning.fusion if tuning else 0.0, margin, probe, deadline)

    def _batches(self, following: Callable[[], Batch | None]) -> Iterator[Batch]:
        start = perf_counter()
        # One worker of its own: it waits for the decoders, so it must not be one of them.
        with ThreadPoolExecutor(1, thread_name_prefix="rar-prepare") as prepare:
            ahead: Future[Batch | None] = prepare.submit(following)
            while (batch := ahead.result()) is not None:
                ahead = prepare.submit(following)
                waited = perf_counter() - start
                note({**batch.timings, "hand-over": max(0.0, waited - sum(batch.timings.values()))})
                batch.start = start
                yield batch
                start = perf_counter()
        note({"hand-over": perf_counter() - start})

    def _prepare(self, source: Iterator[Source], batch_size: int) -> Batch | None:
        """The next pictures, decoded and written into one batch tensor; None at the end."""
        sources = list(islice(source, batch_size))
        if not sources:
            return None
        timings: dict[str, float] = {}
        with timed(timings, "decode"):
            pixels = list(self._decoders.map(_decode, sources))
        batch = Batch(pixels, np.empty(0, np.float32), timings)
        if batch.good:
            with timed(timings, "preprocess"):
                batch.tensor = self.clip.preprocess(batch.good)
        return batch

    def _ranker(self, rank: Rank) -> Ranker | None:
        if rank not in RANKS:
            raise InputError(f"rank {rank!r} is unknown; choose {', '.join(RANKS)}")
        with self._loading:
            if rank not in self._rankers:
                if rank == "mllm":
                    self._rankers[rank] = MllmRanker(Mllm(self._bundle, self.clip, self._threads), self._mllm_options)
                elif rank == "grain":
                    self._rankers[rank] = Grain(self.clip, self.memory, self._grain_options)
                else:
                    self._rankers[rank] = Wca(self.clip, self.memory, self._wca_options)
            return self._rankers[rank]


def _decode(source: Source) -> Pixels | ImageError:
    try:
        return load_image(source)
    except ImageError as error:
        return error
