"""What feeds the loop: sources are read, decoded, and made batches ahead of their answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from time import perf_counter
from typing import Any, TypeAlias
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from ..batch import Batch, timed
from ..encoder.clip import Begun
from ..errors import InputError
from ..machine.process import check_process
from ..picture.budget import in_parts
from ..picture.given import Given, Picture, decode, own
from ..picture.load import Decoded, Pixels, Reading
from ..stages import note
from .intake import Intake, Pace, Taken, intake
from .results import ahead

# See `Clip.begin`.
Begin: TypeAlias = Callable[[npt.NDArray[np.float32]], "Begun | None"]


class Feed:
    """Makes batches of sources.

    Args:
        preprocess: uint8 [H, W, 3] pictures -> float32 [N, 3, S, S], the encoder's own preparation.
        threads: Threads that decode.
        reading: How large pictures may be, and what is done with cut ones.

    Attributes:
        decoders: The threads that decode.
    """

    def __init__(
        self, preprocess: Callable[[Sequence[Pixels]], npt.NDArray[np.float32]], threads: int, reading: Reading
    ) -> None:
        self.decoders = ThreadPoolExecutor(threads, thread_name_prefix="rar-decode")
        self._preprocess = preprocess
        self._reading = reading
        self._process = os.getpid()
        self._guard = Lock()
        self._closed = False
        self._open: WeakSet[Intake[Any]] = WeakSet()

    def check(self) -> None:
        """Checks that anything can be answered.

        Raises:
            InputError: It is closed, or was opened before this process was forked.
        """
        self._check_process()
        if self._closed:
            raise InputError("the recognizer is closed; open the bundle again with `Recognizer.open`")

    def close(self) -> None:
        """Ends all intakes and the decoders. In a forked child there are none."""
        self._closed = True
        if os.getpid() != self._process:
            return
        with self._guard:
            left = list(self._open)
        for taken in left:
            taken.close()
        self.decoders.shutdown()

    def _check_process(self) -> None:
        check_process(self._process, "the recognizer")

    def pictures(self, source: Iterable[Given], pace: Pace) -> Intake[Picture]:
        """The intake of a source of pictures."""
        return self.intake(source, pace, partial(own, reading=self._reading), lambda given: given)

    def intake(
        self, source: Iterable[Any], pace: Pace, own: Callable[[Any], Any], check: Callable[[Any], Any]
    ) -> Intake[Any]:
        """See `intake`; `close` ends it."""
        taken = intake(source, pace, own, check)
        with self._guard:
            self._open.add(taken)
            if self._closed:
                taken.close()
        return taken

    def of_pictures(self, taken: Intake[Picture], pace: Pace, begin: Begin | None = None) -> Iterator[Batch]:
        """The batches of a source of pictures; smaller where the pictures are large (`Reading.batch_bytes`)."""
        prepared = self._prepared(taken, pace)
        return self.batches(lambda: next(prepared, None), taken, pace, begin)

    def batches(
        self,
        following: Callable[[], Batch | None],
        taken: Intake[Any],
        pace: Pace,
        begin: Begin | None = None,
    ) -> Iterator[Batch]:
        """The batches that `following` makes of an intake, ahead of their use, until it gives None.

        With `latest` they are made when they are asked for: one that waits would grow old.

        Args:
            following: Makes the next batch.
            taken: What it makes them of.
            pace: How they are taken.
            begin: Begins to embed a whole batch that was made ahead; see `Clip.begin`. None to leave that to its use.

        Raises:
            InputError: As `check`: before each batch, and at the end if the intake was closed before its own.
        """
        early = pace.policy == "every"

        def made() -> Batch | None:
            batch = following()
            if batch is not None and begin is not None and early and pace.wait is None and batch.good:
                batch.seeing = begin(batch.tensor)
            return batch

        start = perf_counter()
        try:
            for batch in ahead(taken, made, early=early):
                self.check()
                waited = perf_counter() - start
                note({**batch.timings, "hand-over": max(0.0, waited - sum(batch.timings.values()))})
                batch.start = max(start, batch.start)
                yield batch
                self._check_process()  # or the wait below would have no end
                start = perf_counter()
            if taken.closed:
                self.check()
        except RuntimeError:
            self.check()  # the decoders are gone
            raise
        note({"hand-over": perf_counter() - start})

    def _prepared(self, source: Intake[Picture], pace: Pace) -> Iterator[Batch]:
        while taken := source.take(pace.most, pace.wait):
            for part in in_parts(taken, self._reading.batch_bytes, lambda one: one.item):
                yield self._prepare(part)

    def _prepare(self, taken: Sequence[Taken[Picture]]) -> Batch:
        """Pictures, decoded and written into one batch tensor."""
        start = perf_counter()
        timings: dict[str, float] = {}
        with timed(timings, "decode"):
            decoded = list(self.decoders.map(partial(decode, reading=self._reading), [one.item for one in taken]))
        batch = Batch(
            [one.pixels if isinstance(one, Decoded) else one for one in decoded],
            np.empty(0, np.float32),
            timings,
            start,
            places=[one.place for one in taken],
            truncated=[isinstance(one, Decoded) and one.truncated for one in decoded],
        )
        if batch.good:
            with timed(timings, "preprocess"):
                batch.tensor = self._preprocess(batch.good)
        return batch
