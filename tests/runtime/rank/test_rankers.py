"""The table of the rankers: what is in it is all that there is to a ranker."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from rar.export.pictures.labelled import LabelledImage
from rar.export.tune.fit import tune
from rar.runtime import Bundle, GrainOptions, InputError, MllmOptions, Recognizer, WcaOptions
from rar.runtime.bundle.change import annotate
from rar.runtime.cli.recognize import main
from rar.runtime.rank import rankers
from rar.runtime.rank.protocol import Flag, Needs, Opened, Query, RankerOptions, Ranking, Spec
from rar.runtime.rank.rankers import RANKERS, RANKS


@dataclass(frozen=True)
class ReversedOptions:
    sharpness: float = 1.0

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "ReversedOptions":
        return cls(stored["sharpness"])

    def stored(self) -> dict[str, Any]:
        return {"sharpness": self.sharpness}

    def same(self, other: RankerOptions) -> bool:
        return self == other


class Reversed:
    """A ranker that likes best what the retrieval likes least."""

    def __init__(self, options: ReversedOptions) -> None:
        self.options = options
        self.sizes: list[tuple[int, int]] = []

    def rank(self, queries: Sequence[Query]) -> list[Ranking]:
        self.sizes += [(query.pixels.shape[0], query.pixels.shape[1]) for query in queries]
        return [
            Ranking(self.options.sharpness * np.arange(len(query.candidates), dtype=np.float32)) for query in queries
        ]


def trials(opened: Opened) -> Iterator[tuple[ReversedOptions, Reversed]]:
    for sharpness in (1.0, 2.0):
        yield ReversedOptions(sharpness), Reversed(ReversedOptions(sharpness))


def spec(needs: Needs) -> Spec[ReversedOptions]:
    return Spec(
        ReversedOptions,
        lambda opened, options: Reversed(options),
        lambda _: needs,
        trials,
        flags=(Flag("sharpness", "how sharp"),),
    )


@pytest.fixture
def another(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line more in the table."""
    monkeypatch.setitem(rankers.RANKERS, "reversed", spec("regions"))  # type: ignore[arg-type]
    for module in ("recognizer", "cli.recognize"):
        monkeypatch.setattr(f"rar.runtime.{module}.RANKS", (*RANKS, "reversed"))


def test_the_names_are_the_table_s_and_none() -> None:
    assert ("none", *RANKERS) == RANKS


@pytest.mark.usefixtures("another")
def test_a_line_in_the_table_is_all_that_it_takes_to_recognise(
    pictures_bundle: Path, class_pictures: list[Path]
) -> None:
    with Recognizer.open(pictures_bundle, "cpu", reversed=ReversedOptions(3.0)) as recognizer:
        (result,) = recognizer.recognize(class_pictures[0], k=4, rank="reversed")
        assert [c.label for c in result.candidates] == [c.label for c in result.retrieved][::-1]
        assert (result.ranked_by, result.score) == ("reversed", 9.0)


@pytest.mark.usefixtures("another")
def test_and_to_be_tuned(pictures_bundle: Path, writable: Callable[[Path], Path], class_pictures: list[Path]) -> None:
    own = writable(pictures_bundle)
    images = [LabelledImage(path, path.parent.name) for path in class_pictures]
    tried = tune(own, images, k=3, provider="cpu", weigh=False).measured["rankers"]
    assert [row["sharpness"] for row in tried if row["rank"] == "reversed"] == [1.0, 2.0]
    annotate(own, "memory", tune={"rank": "reversed", "sharpness": 2.0, "fusion": 0.0})
    with Recognizer.open(own, "cpu") as recognizer:
        assert recognizer.recognize(class_pictures[0], k=4, rank="reversed")[0].score == 6.0


@pytest.mark.parametrize(("needs", "size"), [("pixels", (40, 60)), ("regions", (20, 30)), ("features", (20, 30))])
def test_a_region_is_drawn_only_for_who_looks_at_its_pixels(
    pictures_bundle: Path, monkeypatch: pytest.MonkeyPatch, needs: Needs, size: tuple[int, int]
) -> None:
    monkeypatch.setitem(rankers.RANKERS, "wca", spec(needs))  # type: ignore[arg-type]
    with Recognizer.open(pictures_bundle, "cpu") as recognizer:
        picture = np.full((100, 100, 3), 90, np.uint8)
        recognizer.recognize_regions(picture, [[30, 30, 60, 50]], rank="wca", grow=2.0)
        assert recognizer._ranker("wca").sizes == [size]  # type: ignore[union-attr]


def test_one_that_is_being_loaded_holds_up_nobody_else(
    pictures_bundle: Path, class_pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, loaded, opened = Event(), Event(), []

    def slow(*args: Any) -> Any:
        opened.append(args)
        loading.set()
        loaded.wait()
        return RANKERS["wca"].open(*args)

    monkeypatch.setitem(rankers.RANKERS, "mllm", replace(RANKERS["wca"], open=slow))  # type: ignore[arg-type]
    with Recognizer.open(pictures_bundle, "cpu", wca=WcaOptions(crops=2)) as recognizer, ThreadPoolExecutor(2) as pool:
        recognizer._options["mllm"] = WcaOptions(crops=2)
        waiting = [pool.submit(recognizer.recognize, class_pictures[0], k=2, rank="mllm") for _ in range(2)]
        loading.wait()
        for rank in ("none", "wca"):
            assert recognizer.recognize(class_pictures[0], k=2, rank=rank)[0].error is None
        assert not any(one.done() for one in waiting)
        loaded.set()
        assert [one.result()[0].ranked_by for one in waiting] == ["mllm", "mllm"]
    assert len(opened) == 1


def test_one_that_is_being_loaded_does_not_hold_up_closing(
    pictures_bundle: Path, class_pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, loaded = Event(), Event()

    def slow(*args: Any) -> Any:
        loading.set()
        loaded.wait()
        return RANKERS["wca"].open(*args)

    monkeypatch.setitem(rankers.RANKERS, "mllm", replace(RANKERS["wca"], open=slow))  # type: ignore[arg-type]
    recognizer = Recognizer.open(pictures_bundle, "cpu")
    recognizer._options["mllm"] = WcaOptions(crops=2)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(recognizer.recognize, class_pictures[0], k=2, rank="mllm")
        loading.wait()
        recognizer.close()
        loaded.set()
        with pytest.raises(InputError, match="the recognizer is closed"):
            waiting.result()


def test_what_the_rankers_look_at(pictures_bundle: Path) -> None:
    bundle = Bundle.open(pictures_bundle)
    assert [RANKERS[name].needs(bundle) for name in ("wca", "grain")] == ["pixels", "regions"]


@pytest.mark.parametrize(
    "options", [WcaOptions(), GrainOptions(0.25), MllmOptions("choice", "calibrate"), MllmOptions("likelihood")]
)
def test_settings_survive_the_manifest(options: Any) -> None:
    assert type(options).of(options.stored()) == options
    assert options.same(options)
    assert not any(options.same(other) for other in (WcaOptions(), GrainOptions()) if type(other) is not type(options))


def test_settings_of_no_ranker_or_of_another_are_refused(pictures_bundle: Path) -> None:
    with pytest.raises(
        InputError, match="vca: there is no ranker of this name; give settings of discriminant, wca, grain, mllm"
    ):
        Recognizer.open(pictures_bundle, "cpu", vca=WcaOptions())
    with pytest.raises(InputError, match="give a WcaOptions, or None"):
        Recognizer.open(pictures_bundle, "cpu", wca=GrainOptions())
    Recognizer.open(pictures_bundle, "cpu", wca=None).close()


def test_commands_offer_the_table_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert f"--rank {{{','.join(RANKS)}}}" in capsys.readouterr().out


@pytest.mark.usefixtures("another")
def test_commands_take_the_settings_that_the_table_offers(
    pictures_bundle: Path, class_pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(pictures_bundle), str(class_pictures[0]), "--k", "4", "--rank", "reversed", "--sharpness", "3"]
    assert main(argv) == 0
    assert "  9.000\n" in capsys.readouterr().out
