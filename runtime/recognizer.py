"""The way of a picture: `stream` -> `picture` -> `batch` -> `encoder` -> `memory` -> `rank` -> `result`.

`Recognizer` holds them together; `loop` answers one batch.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

from .bundle.hub import fetch
from .bundle.manifest import Bundle, unchanged
from .detection.confidence import FUSION, check_fusion
from .detection.frames import AHEAD, BLUR, GROW, Cutter, Frame, OpenFrame, RegionOptions, pack
from .encoder.clip import Clip
from .errors import BundleError, ImageError, InputError, RarError
from .loop import GATES, UNKNOWN, Answer, Asked, Gate, Plan, RegionsAsked, Unknown, Within
from .machine.cores import usable_cores
from .memory import Memory, Retrieval
from .memory.info import MemoryInfo
from .memory.state import USUAL_K
from .memory.strangers import NEEDS, Strangers
from .picture.boxes import Blur, Boxes, Growth
from .picture.given import Given, is_single
from .picture.load import Reading
from .rank.protocol import Opened, Query, Rank, Ranker, RankerOptions
from .rank.rankers import RANKERS, RANKS
from .rank.tuning import Fused, GateBy, Tuning
from .result import Result, by_frame, in_frame
from .session import Options
from .stages import in_stage
from .stream.feed import Begin, Feed
from .stream.intake import Intake, Pace, Policy
from .stream.results import Stream

if TYPE_CHECKING:
    from typing_extensions import Unpack  # for type checkers, which bring it; `typing` has it from Python 3.11 on

_BATCH = 16
_REGIONS = 32


class Recognizer:
    """Retrieve, then rank. Open one a process and call it from any thread.

    A forked process must open its own: one that was opened before the fork raises `InputError` there. Pickled, it is
    the arguments that it was opened with, and whoever unpickles it opens the bundle again.

    Example:
        >>> with Recognizer.open("bundle") as rec:
        ...     for result in rec.recognize(["cat.jpg", "dog.jpg"], k=5):
        ...         print(result.label, result.score)
    """

    def __init__(
        self,
        bundle: Bundle,
        clip: Clip,
        memory: Memory | Retrieval,
        *,
        default_rank: Rank = "none",
        tuning: Tuning | None = None,
        threads: int | None = None,
        reading: Reading | None = None,
        **rankers: RankerOptions | None,
    ) -> None:
        self.clip = clip
        # Typed as a bundle's own, which can be changed too; another memory has what `Retrieval` says.
        self.memory = cast(Memory, memory)
        self.default_rank = default_rank
        self.tuning = tuning
        self._opened = Opened(bundle, clip, memory, threads)
        self._options = _options(rankers, tuning)
        self._by_hand = {name for name, options in rankers.items() if options is not None}
        self._rankers: dict[Rank, Ranker | None] = {"none": None}
        # Two threads must not each load an MLLM, but nobody else waits for one that is being loaded.
        self._loading = {rank: Lock() for rank in RANKERS}
        self._reading = reading or Reading()
        self._answer = Answer(clip, memory)
        self._feed = Feed(clip.preprocess, threads or usable_cores(), self._reading)
        # What `open` was given; another process opens the bundle again by it.
        self._asked: tuple[Path, dict[str, Any]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles as the arguments of `open`, for Spark, `datasets.map` and other processes.

        The other process opens the bundle itself, at the same path, with its own threads, and as the bundle is then.

        Raises:
            InputError: It was not made by `open`.
        """
        if self._asked is None:
            raise InputError(
                "only a recognizer that Recognizer.open made can be sent to another process; this one was built of "
                "parts, so open the bundle in each process instead"
            )
        path, settings = self._asked
        return _reopen, (type(self), path, settings)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        provider: str = "auto",
        *,
        threads: int | None = None,
        text_weight: float | None = None,
        options: Options | None = None,
        reading: Reading | None = None,
        memory: Retrieval | None = None,
        **rankers: RankerOptions | None,
    ) -> Recognizer:
        """Opens a bundle.

        Args:
            path: The bundle's folder.
            provider: What runs the models: `engine` for the bundle's own TensorRT engines; `tensorrt`, `tensorrt-rtx`,
                `cuda` or `cpu` for those providers of ONNX Runtime; `auto` for the first of these that works; or
                `openvino`. See `provider` and `clip.sessions.running` for what was chosen.
            threads: Threads of decoding, of preprocessing and of each session; None for one a core that may be used.
            text_weight: Replaces the memory's weight of texts against pictures, 0 to 1.
            options: Provider -> the library's own options for it, as strings; they come before the bundle's.
            reading: How large pictures may be, and what is done with cut ones; None for the defaults.
            memory: Is searched instead of the bundle's own, which need not be there: one on other machines, such as
                `rar.serving.ray.memory.RayMemory`. What was fitted for the bundle's own is not used.
            **rankers: Settings of a ranker by its name: `wca=WcaOptions(...)`, `grain=GrainOptions(...)`,
                `mllm=MllmOptions(...)`; None for what `rar-export tune` stored, or else the defaults. What was fitted
                for other settings (fusion, gate) is not used.

        Raises:
            BundleError: The bundle, a part of it or its memory is missing, damaged, newer, or was made
                with another encoder.
            ProviderError: The device is not there, or has not the memory for the models.
            InputError: A setting is out of range.
        """
        if threads is not None and threads < 1:
            raise InputError(f"threads={threads}; give 1 or more, or None for one a core")
        # Another process may replace the memory meanwhile; the memory then follows.
        if memory is None:
            opened = unchanged(
                Path(path),
                lambda: cls._open(path, provider, threads, text_weight, options, reading, rankers),
                whole=False,
            )
        elif text_weight is not None:
            raise InputError("text_weight is for the bundle's own memory; open the other one with it")
        else:
            bundle = Bundle.open(path)
            _check_encoder(bundle, memory.encoder)
            clip = Clip(bundle, provider, threads, options)
            settings: dict[str, Any] = {"threads": threads, "reading": reading, **rankers}
            opened = cls(bundle, clip, memory, **settings)
        given = {"threads": threads, "text_weight": text_weight, "options": options, "reading": reading}
        opened._asked = Path(path).absolute(), {"provider": provider, "memory": memory, **given, **rankers}
        return opened

    @classmethod
    def from_pretrained(
        cls, repo: str, provider: str = "auto", *, revision: str | None = None, **settings: Any
    ) -> Recognizer:
        """Opens a bundle from a repository of a model hub; what is in the hub's cache needs no network.

        Only `bundle.json` and the files that it lists are fetched, each is compared with its SHA-256 there, and nothing
        is run. The memory cannot be changed in the cache: `rar-export pull` makes a folder for that. Needs the extra
        `hub`; which hub, which cache and which token, huggingface_hub's own variables say.

        Example:
            >>> rec = Recognizer.from_pretrained("user/bundle", revision="v1", provider="cpu")

        Args:
            repo: `user/name`.
            provider: As for `open`. Where the bundle holds engines, which are compiled code, it must be named.
            revision: A commit of 40 hex digits, a branch or a tag; None for the branch `main`. The log names the commit
                (logger `rar`, at INFO). A commit that is in the cache is opened without asking the hub.
            **settings: As for `open`.

        Raises:
            InputError: The repository or the revision is unknown, huggingface_hub is not installed, or the bundle holds
                engines and no provider was named; or as `open`.
            BundleError: The repository holds no bundle, or one that is altered; or the hub cannot be reached and the
                cache has not all of it; or as `open`.
            ProviderError: As `open`.
        """
        root = fetch(repo, revision)
        if provider == "auto" and any(name.startswith("engines/") for name in Bundle.open(root).components):
            raise InputError(
                f"{repo}: holds engines, which are compiled code that `auto` would run; give the provider: cpu, cuda, "
                "or engine if you trust who made them"
            )
        return cls.open(root, provider, **settings)

    @classmethod
    def _open(
        cls,
        path: str | os.PathLike[str],
        provider: str,
        threads: int | None,
        text_weight: float | None,
        options: Options | None,
        reading: Reading | None,
        rankers: Mapping[str, RankerOptions | None],
    ) -> Recognizer:
        bundle = Bundle.open(path)
        info = MemoryInfo.of(bundle)
        _check_encoder(bundle, info.encoder)
        clip = Clip(bundle, provider, threads, options)
        if info.rank not in RANKS:
            raise BundleError(
                f"{bundle.root}: the ranker {info.rank!r} is unknown to this release; upgrade rar-runtime"
            )
        return cls(
            bundle,
            clip,
            Memory.open(bundle, text_weight, embed=clip, threads=threads, reading=reading),
            default_rank=info.rank,
            tuning=Tuning.of(info.tune),
            threads=threads,
            reading=reading,
            **rankers,
        )

    def close(self) -> None:
        """Ends the decoders and gives back what the models and the memory hold; nothing can be asked any more.

        Streams that are not at their end, and calls in other threads, raise `InputError` at their next batch; those
        that wait for their source do so at once. Closing twice is no error.
        """
        self._feed.close()
        self._rankers = {"none": None}
        self.clip.close()
        if isinstance(self._answer.memory, Memory):  # another one is its maker's to close
            self._answer.memory.close()

    def __enter__(self) -> Recognizer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def provider(self) -> str:
        """What runs the encoder: `engine`, `tensorrt`, `tensorrt-rtx`, `cuda`, `cpu` or `openvino`."""
        return self.clip.visual.provider

    def recognize(self, images: Given | Iterable[Given], **asked: Unpack[Asked]) -> list[Result]:
        """Recognises pictures.

        Args:
            images: Paths, bytes and other buffers, binary file objects, PIL images, uint8 RGB arrays [H, W, 3], mixed;
                or one of them. Nothing is fetched from URLs.
            **asked: See `Asked`.

        Returns:
            One result a picture, in order; a picture that cannot be read has its `error` set. Each says who ranked
            it, or why it was not ranked.

        Raises:
            InputError: A setting is out of range, or does not fit the bundle; or the recognizer is closed.
        """
        source: Iterable[Given] = [images] if is_single(images) else images  # type: ignore[assignment, list-item]
        return list(self.stream(source, **asked))

    def stream(
        self,
        source: Iterable[Given],
        *,
        batch_size: int = _BATCH,
        max_wait_ms: float | None = None,
        policy: Policy = "every",
        **asked: Unpack[Asked],
    ) -> Stream[Result]:
        """Recognises pictures as they come, in bounded memory.

        A thread of its own reads the source, and copies what the source may reuse, such as a camera's buffer, or
        decodes it, if it is a PIL image. While one batch is embedded, searched and ranked, the next is read, decoded
        and prepared; a small encoder begins it too, on several cores. No more than two batches are held. If the source
        raises an error, it is raised here after the results of all pictures before it.

        The memory may be changed meanwhile: each batch is answered from it as it is then, with fewer candidates where
        fewer classes are left. A picture for which no class is left has its `error` set.

        Example:
            >>> for result in rec.stream(camera(), batch_size=4, max_wait_ms=50, policy="latest"):
            ...     print(result.label)

        Args:
            source: Pictures, as for `recognize`; may be endless, and may be slow.
            batch_size: Pictures embedded at once, at most; fewer where they are large (`Reading.batch_bytes`).
            max_wait_ms: Milliseconds that a picture waits for others to share its batch, for a live source. None waits
                for whole batches, which is the fastest way through pictures that are there already.
            policy: What happens where the source is faster than this. `every` answers all pictures, and lets the source
                wait. `latest` always reads: of those that come while a batch is answered only the `batch_size` newest
                are kept. `Stream.dropped` counts the others, and `Stream.place` says which picture a result is of.
            **asked: See `Asked`.

        Returns:
            An iterator of one result a picture, in order. To leave it early, close it or let it go. That does not wait
            for the source.

        Raises:
            InputError: As `recognize`.
        """
        pace = Pace.of(batch_size, max_wait_ms, policy)
        plan = self._plan(**asked)
        pictures = self._feed.pictures(source, pace)
        return Stream(self._pictures(pictures, pace, plan), pictures)

    def _pictures(self, pictures: Intake[Any], pace: Pace, plan: Plan) -> Generator[tuple[int, Result], None, None]:
        for batch in self._feed.of_pictures(pictures, pace, self._begin(plan)):
            yield from zip(batch.places, self._answer(batch, plan), strict=True)

    def recognize_regions(
        self,
        image: Given,
        boxes: Boxes,
        *,
        scores: Sequence[float] | None = None,
        **asked: Unpack[RegionsAsked],
    ) -> list[Result]:
        """Recognises what a detector found in one picture (RAR's detection, arXiv 2403.13805, section 3.2).

        Each region is the box grown, and what lies outside the box may be blurred: so the encoder sees it, and so, as
        a picture of its own, the ranker does.

        Args:
            image: As one of those for `recognize`.
            boxes: [M, 4] numbers: x0, y0, x1, y1 in pixels, edges at x1 and y1 outside.
            scores: The detector's confidence in each box, 0 to 1. Each result's `score` is then that of the detection,
                proposal^a * p^(1 - a), where p is the best candidate's share under a softmax over the candidates; by
                default it is as for `recognize`.
            **asked: See `RegionsAsked`; its `fusion` is the exponent a.

        Returns:
            One result a box, in order; a box that is empty, inverted, not finite or outside the picture has its `error`
            set, and each has where the picture cannot be read.

        Raises:
            InputError: As `recognize`; or the boxes are not [M, 4] numbers, or the scores not one a box, 0 to 1.
        """
        frame = Frame(image, boxes, scores)
        frame.check()
        (results,) = self.stream_regions([frame], **asked)
        return results

    def stream_regions(
        self,
        frames: Iterable[Frame],
        *,
        batch_size: int = _REGIONS,
        max_wait_ms: float | None = None,
        policy: Policy = "every",
        **asked: Unpack[RegionsAsked],
    ) -> Stream[list[Result]]:
        """Recognises what a detector found in pictures as they come, in bounded memory.

        Boxes of several pictures share a batch, and those of one may fall into several. While one batch is embedded,
        searched and ranked, the next is cut out, and up to four pictures are decoded. The source is read as that of
        `stream`.

        Args:
            frames: Pictures with their boxes; may be endless, and may be slow.
            batch_size: Regions embedded at once, at most.
            max_wait_ms: Milliseconds that regions wait for those of other pictures to share their batch; see `stream`.
            policy: See `stream`; `latest` keeps only the newest picture.
            **asked: See `RegionsAsked`.

        Returns:
            An iterator of the results of each picture's boxes, in order; see `stream`.

        Raises:
            InputError: As `recognize_regions`. If a frame is wrong, after the results of all frames before it.
        """
        return self._regions(frames, Pace.of(batch_size, max_wait_ms, policy), **asked)

    def _regions(
        self,
        frames: Iterable[Frame],
        pace: Pace,
        *,
        fusion: float = FUSION,
        grow: Growth = GROW,
        blur: Blur | float | None = BLUR,
        square: bool = False,
        **asked: Unpack[Asked],
    ) -> Stream[list[Result]]:
        check_fusion(fusion)
        plan = self._plan(**asked)
        room = AHEAD if pace.policy == "every" else 1
        reading = self._reading
        taken = self._feed.intake(frames, replace(pace, most=room), lambda frame: frame.own(reading), Frame.checked)
        # Taken in by the thread that cuts, given out by the caller's: what belongs to which picture.
        opened: deque[OpenFrame] = deque()
        options = RegionOptions(grow, blur, square)
        cutter = Cutter(self.clip.preprocess, options, self._feed.decoders, reading, drawn=plan.drawn)
        regions = pack(taken, room, pace, cutter, opened.append)

        def answered() -> Iterator[list[Result]]:
            for batch in self._feed.batches(lambda: next(regions, None), taken, pace, self._begin(plan)):
                answers = zip(self._answer(batch, plan), batch.around, batch.pixels, strict=True)
                yield [
                    result if isinstance(pixels, ImageError) else in_frame(result, around, pixels.shape[:2])
                    for result, around, pixels in answers
                ]

        return Stream(by_frame(answered(), opened, fusion), taken)

    def queries(
        self, source: Iterable[Given], k: int | None = None, batch_size: int = _BATCH
    ) -> Iterator[Query | RarError]:
        """What a ranker would be given, for those who rank on their own: one query a picture, in order.

        Args:
            source: As for `stream`.
            k: See `Asked`.
            batch_size: Pictures embedded at once.

        Yields:
            The query, or why there is none: the picture cannot be read, or no class is left.

        Raises:
            InputError: `k` is out of range, or the recognizer is closed.
        """
        self._feed.check()
        k = self._k(k)
        pace = Pace.of(batch_size, None, "every")
        for batch in self._feed.of_pictures(self._feed.pictures(source, pace), pace, self.clip.begin):
            yield from self._answer.retrieve(batch, k, Within(), evidence=False)

    @in_stage("plan")
    def _plan(
        self,
        k: int | None = None,
        rank: Rank | None = None,
        gate: Gate = "off",
        deadline_ms: float | None = None,
        labels: Collection[str] | None = None,
        tags: Collection[str] | None = None,
        unknown: Unknown = "answer",
    ) -> Plan:
        self._feed.check()
        k = self._k(k, labels, tags)
        rank = self.default_rank if rank is None else rank
        if gate not in GATES:
            raise InputError(f"gate {gate!r} is unknown; choose {', '.join(GATES)}")
        if deadline_ms is not None and not deadline_ms > 0:
            raise InputError(f"deadline_ms={deadline_ms}; give more than 0, or None for no deadline")
        if unknown not in UNKNOWN:
            raise InputError(f"unknown {unknown!r} is unknown; choose {', '.join(UNKNOWN)}")
        tuning = self.tuning if self.tuning and self.tuning.fits(rank, self._options.get(rank)) else None
        # Who sets a ranker by hand wants to see it run.
        useless = self.tuning is not None and rank in self.tuning.unused and rank not in self._by_hand
        ranker = None if useless else self._ranker(rank)
        first = None if useless and rank == "discriminant" else self.first_opinion(rank)
        fused = (tuning.fused if tuning else None) or Fused()
        if rank == "discriminant":
            fused = first or fused
        elif rank != "none" and fused.sharpness is None and RANKERS[rank].log_probabilities:
            fused = replace(fused, sharpness=1 + fused.weights.similarity + fused.weights.discriminant)
        margin = math.inf
        gate_by: GateBy = "fused" if first else "similarity"
        if gate == "unsure" and ranker is not None:
            if tuning is None or tuning.gate is None:
                raise InputError(
                    f"gate='unsure' needs a margin fitted for the ranker {rank!r} as it is set; "
                    "run `rar-export tune`, or use gate='off'"
                )
            margin, gate_by = tuning.gate, tuning.gate_by
        return Plan(
            k,
            Within(labels, tags),
            rank,
            ranker,
            fused,
            first,
            self.sharpness,
            margin,
            gate_by,
            math.inf if deadline_ms is None else deadline_ms / 1e3,
            drawn=ranker is not None and RANKERS[rank].needs(self._opened.bundle) == "pixels",
            useless=useless,
            strangers=self._strangers() if unknown == "reject" else None,
        )

    def _k(self, k: int | None, labels: Collection[str] | None = None, tags: Collection[str] | None = None) -> int:
        """The candidates of each picture: what is there now bounds only who asks for more."""
        checked = self.memory.check_k(k, labels, tags)
        # Classes may be added while a stream runs; a search gives fewer where there are fewer.
        return USUAL_K if k is None else checked

    def _begin(self, plan: Plan) -> Begin | None:
        """What embeds ahead; None where a model ranks, for then the cores are busy with the batch before."""
        return self.clip.begin if plan.ranker is None or plan.rank == "discriminant" else None

    def _strangers(self) -> Strangers:
        """How pictures of none of the classes are told: as `rar-export tune` fitted it, or else the memory's build."""
        discriminant = self.memory.discriminant
        if discriminant is None:
            raise InputError(
                "unknown='reject' needs a memory with pictures, which tell what its classes look like; add some with "
                "`rar-export add`, and run `rar-export compact` on a memory that an earlier release built"
            )
        strangers = (self.tuning and self.tuning.strangers) or discriminant.fit.strangers
        if strangers is None:
            raise InputError(
                f"unknown='reject' cannot tell strangers here: {NEEDS}; add more with `rar-export add`, "
                "then run `rar-export compact`"
            )
        return strangers

    def first_opinion(self, rank: Rank) -> Fused | None:
        """How the discriminant's evidence counts before the ranker of this name; None where it takes no part.

        It does where it gains: as `rar-export tune` found, or else as was measured when it was fitted. And where it was
        asked for.
        """
        discriminant = self.memory.discriminant
        if rank == "none" or discriminant is None:
            return None
        fitted = self.tuning.first if self.tuning else None
        gains = fitted is not None or (discriminant.fit.gains and not (self.tuning and self.tuning.alone))
        return fitted or Fused(sharpness=1.0) if gains or rank == "discriminant" else None

    @property
    def sharpness(self) -> float | None:
        """What the similarities are to be multiplied by, to be log-probabilities; None if nothing was measured."""
        if self.tuning is not None and self.tuning.retrieval is not None:
            return self.tuning.retrieval
        discriminant = self.memory.discriminant
        return discriminant.fit.cosines if discriminant is not None and self.memory.text_weight == 0 else None

    def _ranker(self, rank: Rank) -> Ranker | None:
        if rank not in RANKS:
            raise InputError(f"rank {rank!r} is unknown; choose {', '.join(RANKS)}")
        if rank in self._rankers:
            return self._rankers[rank]
        with self._loading[rank]:
            if rank not in self._rankers:
                ranker = RANKERS[rank].open(self._opened, self._options[rank])
                self._feed.check()  # it may have been closed meanwhile
                self._rankers[rank] = ranker
            return self._rankers[rank]


def _check_encoder(bundle: Bundle, made_with: str | None) -> None:
    if made_with != bundle.component("clip").fingerprint:
        raise BundleError(
            f"{bundle.root}: the memory was made with another encoder; build it again with `rar-export memory`"
        )


def _reopen(cls: type[Recognizer], path: Path, settings: dict[str, Any]) -> Recognizer:
    return cls.open(path, **settings)


def _options(given: Mapping[str, RankerOptions | None], tuning: Tuning | None) -> dict[Rank, RankerOptions]:
    """The settings of each ranker: those that were given, or were fitted, or the defaults.

    Raises:
        InputError: There is no such ranker, or its settings are of another class.
    """
    for name, options in given.items():
        if name not in RANKERS:
            raise InputError(f"{name}: there is no ranker of this name; give settings of {', '.join(RANKERS)}")
        if options is not None and not isinstance(options, RANKERS[name].options):
            raise InputError(f"{name}={options!r}: give a {RANKERS[name].options.__name__}, or None")
    fitted = {} if tuning is None else {tuning.rank: tuning.options}
    return {name: given.get(name) or fitted.get(name) or spec.options() for name, spec in RANKERS.items()}
