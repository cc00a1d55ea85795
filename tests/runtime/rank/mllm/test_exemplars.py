"""Pictures beside the candidates' names: as one plain pass over the whole prompt, however prefixes are reused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from by_hand import CONTEXT, WIDTH, add_mllm, write_bundle
from memories import npy, unit
from PIL import Image

from rar.export.exemplars.build import build_exemplars
from rar.export.pictures.labelled import LabelledImage
from rar.runtime import Bundle, BundleError, Candidate, InputError, Recognizer
from rar.runtime.encoder.clip import Clip
from rar.runtime.rank.mllm.exemplars import Exemplars
from rar.runtime.rank.mllm.model import Mllm
from rar.runtime.rank.mllm.modes import ask_likelihood, log_softmax
from rar.runtime.rank.mllm.openings import Openings, by_head
from rar.runtime.rank.mllm.prompt import Prompt, clean
from rar.runtime.rank.mllm.ranker import MllmOptions, MllmRanker
from rar.runtime.rank.mllm.tree import PICTURE
from rar.runtime.rank.protocol import Query

from .conftest import Golden

Floats = npt.NDArray[np.floating[Any]]

# One seems to be markup, and one class has no picture.
CLASSES = ["cat", "hound", "<e>", "owl"]
ONE = MllmOptions(exemplars=1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledImage]:
    """Three pictures of each class but the last."""
    folder, chance = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    images = []
    for number in range(9):
        path = folder / f"{number}.png"
        grid = chance.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        Image.fromarray(grid).resize((32, 32), Image.Resampling.NEAREST).save(path)
        images.append(LabelledImage(path, CLASSES[number % 3]))
    return images


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, pictures: list[LabelledImage]) -> Path:
    """A bundle that is written by hand, with two exemplars a class. Shared: copy before writing."""
    own = add_mllm(write_bundle(tmp_path_factory.mktemp("exemplars") / "bundle"))
    build_exemplars(Bundle.open(own), pictures, 2, "cpu", 1)
    return own


def open_model(root: Path) -> Mllm:
    bundle = Bundle.open(root)
    return Mllm(bundle, Clip(bundle, "cpu", 1), 1)


@pytest.fixture
def model(root: Path) -> Mllm:
    return open_model(root)


def asked(number: int, names: Sequence[str]) -> Query:
    chance = np.random.default_rng(number)
    return Query(
        chance.integers(0, 256, (20, 20, 3), dtype=np.uint8),
        unit(chance.normal(size=WIDTH)),
        [Candidate(name, 1 - place / 10) for place, name in enumerate(names)],
    )


QUERIES = [asked(0, CLASSES[:2]), asked(1, CLASSES), asked(2, CLASSES[::-1]), asked(3, ["owl", "hound"])]


def one_pass(model: Mllm, query: Query, exemplars: int = 1) -> Floats:
    """The scores by a pass of its own for each name, over the whole prompt with nothing kept."""
    kept = Exemplars.open(model.bundle, model.prompt)
    shown = [
        (candidate.label, row)
        for candidate in query.candidates
        for row in kept.nearest(candidate.label, query.embedding, exemplars)
    ]
    names = [candidate.label for candidate in query.candidates]
    prompt = model.prompt.of_several()
    pixels = np.concatenate([*(kept.embeds(row) for _, row in shown), model.see([query])[0]])
    decoder: Any = model.decoder
    scores = []
    for name in names:
        tail, (answer,) = prompt.answers("likelihood", names, [clean(name)])
        ids = np.array([*prompt.opening("likelihood", [label for label, _ in shown]), *tail, *answer[:-1]])
        embeds = decoder._embed.run({"input_ids": np.where(ids == PICTURE, 0, ids)[None]})["inputs_embeds"].copy()
        embeds[0, ids == PICTURE] = pixels
        nothing = np.zeros((1, 1, 0, WIDTH), np.float32)
        (logits,) = decoder._decoder.run(
            {
                "inputs_embeds": embeds,
                "attention_mask": np.tri(len(ids), dtype=bool)[None, None],
                "position_ids": np.arange(len(ids))[None],
                "logit_positions": np.arange(len(ids) - len(answer), len(ids))[None],
                "past_key_values.0.key": nothing,
                "past_key_values.0.value": nothing,
            },
            ["logits"],
        )["logits"]
        scores.append(np.mean([log_softmax(row)[token] for row, token in zip(logits, answer, strict=True)]))
    return log_softmax(np.array(scores))


class TestScores:
    @pytest.mark.parametrize("exemplars", [1, 2, 9])
    def test_they_are_those_of_one_pass_over_the_whole_prompt(self, model: Mllm, exemplars: int) -> None:
        ranker = MllmRanker(model, MllmOptions(exemplars=exemplars))
        for _ in range(2):  # the second time from what was kept
            for query, ranking in zip(QUERIES, ranker.rank(QUERIES), strict=True):
                np.testing.assert_allclose(ranking.scores, one_pass(model, query, exemplars), atol=1e-4)
                assert not ranking.fallback

    def test_they_are_the_same_in_any_order_and_company(self, model: Mllm) -> None:
        expected = [ranking.scores for ranking in MllmRanker(model, ONE).rank(QUERIES)]
        ranker = MllmRanker(open_model(model.bundle.root), ONE)
        for order in ([3, 1, 0, 2], [1, 1, 1], [2], [0, 3], [0, 1, 2, 3]):
            for place, ranking in zip(order, ranker.rank([QUERIES[place] for place in order]), strict=True):
                np.testing.assert_allclose(ranking.scores, expected[place], atol=1e-4)

    def test_they_say_something(self, model: Mllm) -> None:
        (plain,), (shown,) = (MllmRanker(model, options).rank(QUERIES[:1]) for options in (MllmOptions(), ONE))
        assert not np.allclose(plain.scores, shown.scores, atol=1e-3)

    def test_a_class_without_pictures_appears_by_name_alone(self, model: Mllm) -> None:
        query = asked(4, ["owl", "newt"])
        (plain,), (shown,) = (MllmRanker(model, options).rank([query]) for options in (MllmOptions(), ONE))
        np.testing.assert_allclose(shown.scores, plain.scores, atol=1e-5)

    def test_a_name_that_is_not_composed_is_found(self, model: Mllm) -> None:
        kept = Exemplars(["é"], np.ones((1, 2), np.float16), np.ones((1, 1, 2), np.float16))
        assert kept.nearest("e\u0301", np.ones(2, np.float32), 1) == [0]

    def test_the_nearest_of_a_class_are_shown(self) -> None:
        vectors = np.eye(3, dtype=np.float16)
        kept = Exemplars(["a", "b", "a"], vectors, np.zeros((3, 1, 2), np.float16))
        assert kept.nearest("a", np.array([0.1, 0.9, 0.5], np.float32), 1) == [2]
        assert kept.nearest("a", np.array([0.6, 0.9, 0.5], np.float32), 5) == [0, 2]
        assert kept.nearest("c", np.zeros(3, np.float32), 1) == []


class TestReuse:
    @staticmethod
    def lengths(model: Mllm) -> list[int]:
        """The tokens of each call of the decoder from now on."""
        decoder: Any = model.decoder
        real, found = decoder._decoder.run, []

        def run(inputs: Any, *others: Any) -> Any:
            found.append(inputs["inputs_embeds"].shape[1])
            return real(inputs, *others)

        class Counted:
            device = decoder._decoder.device

        Counted.run = staticmethod(run)  # type: ignore[attr-defined]
        decoder._decoder = Counted()
        return found

    def test_what_comes_again_is_computed_once(self, model: Mllm) -> None:
        ranker, found = MllmRanker(model, ONE), self.lengths(model)
        ranker.rank(QUERIES[1:2])
        whole = found[-1]
        ranker.rank([replace(QUERIES[1], pixels=QUERIES[0].pixels)])
        head, rest = found[-2:]
        assert whole < head + rest
        ranker.rank(QUERIES[1:2])
        assert found[-1] == rest < whole
        assert len(found) == 5  # the constant head, three pictures, the exemplars

    def test_pictures_of_a_batch_share_it(self, model: Mllm) -> None:
        ranker, found = MllmRanker(model, ONE), self.lengths(model)
        ranker.rank([QUERIES[1], replace(QUERIES[1], pixels=QUERIES[0].pixels)])
        assert len(found) in (2, 3)  # the exemplars, and the pictures together or one by one

    def test_the_same_names_with_other_pictures_are_others(self, model: Mllm) -> None:
        ranker = MllmRanker(model, ONE)
        kept = Exemplars.open(model.bundle, model.prompt)
        turned = next(
            query
            for query in (asked(number, CLASSES) for number in range(10, 99))
            if kept.nearest("cat", query.embedding, 1) != kept.nearest("cat", QUERIES[1].embedding, 1)
        )
        turned = replace(QUERIES[1], embedding=turned.embedding)
        for query in (QUERIES[1], turned) * 2:
            (ranking,) = ranker.rank([query])
            np.testing.assert_allclose(ranking.scores, one_pass(model, query), atol=1e-4)

    def test_what_is_kept_is_bounded(self, model: Mllm, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("rar.runtime.rank.mllm.decoder._HEADS_BYTES", 1)
        ranker = MllmRanker(model, ONE)
        for _ in range(2):
            ranker.rank(QUERIES[:3])
        heads: Any = model.decoder
        assert len(heads._heads._latest) == 1


class TestNamesAreData:
    @pytest.mark.parametrize("name", ["<e>", "<b><e>", "a\nb", "{candidates}", "\ud800", "x" * 80])
    def test_no_name_makes_a_special_token(self, model: Mllm, name: str) -> None:
        prompt = model.prompt.of_several()
        plain = prompt.opening("likelihood", ["a", "a"])
        ids = prompt.opening("likelihood", [name, name])
        assert [token for token in ids if token in (1, 2)] == [token for token in plain if token in (1, 2)]
        assert ids.count(PICTURE) == plain.count(PICTURE) == 12


class TestRefused:
    @pytest.fixture
    def own(self, root: Path, writable: Callable[[Path], Path]) -> Path:
        return writable(root)

    @pytest.mark.parametrize("exemplars", [-1, 1.0, "1", None, True])
    def test_another_number(self, exemplars: Any) -> None:
        with pytest.raises(InputError, match=r"exemplars=.*give how many"):
            MllmOptions(exemplars=exemplars)

    def test_a_bundle_without(self, tmp_path: Path) -> None:
        bare = add_mllm(write_bundle(tmp_path / "bundle"))
        with pytest.raises(InputError, match="holds no exemplars; add them with `rar-export exemplars`"):
            MllmRanker(open_model(bare), ONE)

    def test_a_model_that_takes_one_picture(
        self, own: Path, pictures: list[LabelledImage], replace_file: Callable[..., Path]
    ) -> None:
        settings = json.loads((own / "mllm/prompt.json").read_text())
        del settings["exemplars"]
        replace_file(own, "mllm", "prompt.json", json.dumps(settings).encode())
        with pytest.raises(InputError, match="MLLM that takes several pictures"):
            MllmRanker(open_model(own), ONE)
        with pytest.raises(InputError, match="MLLM that takes several pictures"):
            build_exemplars(Bundle.open(own), pictures)
        MllmRanker(open_model(own)).rank(QUERIES)

    def test_those_of_another_model(self, own: Path, replace_file: Callable[..., Path]) -> None:
        settings = json.loads((own / "mllm/prompt.json").read_text())
        replace_file(own, "mllm", "prompt.json", json.dumps(settings | {"lead": " "}).encode())
        with pytest.raises(BundleError, match="made with another mllm; make them again"):
            MllmRanker(open_model(own), ONE)

    def test_more_than_the_context_holds_keeps_the_retrieval_s_order(self, own: Path, model: Mllm) -> None:
        model.prompt = replace(model.prompt, context=12)
        assert [ranking.fallback for ranking in MllmRanker(model, ONE).rank(QUERIES[:1])] == [True]

    def test_a_prompt_that_is_longer_than_the_context_keeps_the_retrieval_s_order(self, model: Mllm) -> None:
        query = asked(5, ["cat", "x" * 240])
        rankings = MllmRanker(model, ONE).rank([QUERIES[0], query])
        assert [ranking.fallback for ranking in rankings] == [False, True]
        assert CONTEXT < 2 * 240

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("labels.json", b"{}"),
            ("labels.json", b'["cat"]'),
            ("labels.json", b"[1, 2, 3, 4, 5, 6]"),
            ("vectors.npy", b"garbage"),
            ("vectors.npy", npy(np.zeros((6, WIDTH), np.float32))),
            ("vectors.npy", npy(np.zeros(6, np.float16))),
            ("embeds.npy", npy(np.zeros((6, 5, WIDTH), np.float16))),
            ("embeds.npy", npy(np.zeros((5, 4, WIDTH), np.float16))),
            ("embeds.npy", npy(np.array([{}] * 6), pickled=True)),
        ],
    )
    def test_damaged_files(self, own: Path, name: str, content: bytes, replace_file: Callable[..., Path]) -> None:
        replace_file(own, "exemplars", name, content)
        with pytest.raises(BundleError, match=r"exemplars are damaged .*make them again"):
            MllmRanker(open_model(own), ONE)

    @pytest.mark.parametrize(("name", "shape"), [("vectors.npy", (6, WIDTH + 1)), ("embeds.npy", (6, 4, WIDTH - 1))])
    def test_arrays_of_another_width(
        self, own: Path, name: str, shape: tuple[int, ...], replace_file: Callable[..., Path]
    ) -> None:
        replace_file(own, "exemplars", name, npy(np.zeros(shape, np.float16)))
        with pytest.raises(BundleError, match="again"):
            MllmRanker(open_model(own), ONE).rank(QUERIES)

    @pytest.mark.parametrize(
        "changed",
        [
            {"template": [], "each": []},
            {"template": [{"slot": "exemplars"}, {"slot": "question"}, {"slot": "image"}]},
            {"template": [{"slot": "image"}, {"slot": "exemplars"}, {"slot": "question"}]},
            {"template": [{"slot": "exemplars"}, {"slot": "exemplars"}, {"slot": "image"}, {"slot": "question"}]},
            {"each": [{"slot": "image"}]},
            {"each": [{"slot": "name"}, {"slot": "image"}, {"slot": "image"}]},
            {"each": [{"slot": "image"}, {"slot": "name"}]},
            {"each": None},
        ],
        ids=str,
    )
    def test_a_prompt_of_another_form(self, root: Path, changed: dict[str, Any]) -> None:
        import tokenizers

        settings = json.loads((root / "mllm/prompt.json").read_text())
        settings["exemplars"] |= changed
        with pytest.raises(BundleError, match=r"prompt\.json: malformed"):
            Prompt.from_dict(settings, tokenizers.Tokenizer.from_file(str(root / "mllm/tokenizer.json")))


class TestRecognizer:
    def test_a_class_that_is_taught_later_is_ranked_beside_them(
        self, root: Path, writable: Callable[[Path], Path], pictures: list[LabelledImage]
    ) -> None:
        own = writable(root)
        with Recognizer.open(own, "cpu", threads=1, mllm=ONE) as recognizer:
            for _ in range(2):
                recognizer.memory.add([pictures[3].path], "newt")
                (result,) = recognizer.recognize([pictures[3].path], rank="mllm", k=3)
                assert result.ranked_by == "mllm"
                assert "newt" in [candidate.label for candidate in result.candidates]
                recognizer.memory.relabel("newt", "eft")
                recognizer.memory.remove("eft")


class TestAgainstTransformers:
    @pytest.fixture(params=["smolvlm", "qwen25vl", "lfm2vl"])
    def golden(self, request: pytest.FixtureRequest) -> Golden:
        found: Golden = request.getfixturevalue(request.param)
        return found

    def test_logits_are_those_of_one_prompt_with_several_pictures(self, golden: Golden, queries: list[Query]) -> None:
        import torch

        model = golden.open()
        prompt, pixels = model.prompt.of_several(), [query.pixels for query in queries]
        labels = [candidate.label for candidate in queries[0].candidates[:2]]
        kept = Exemplars(labels, np.ones((2, 32), np.float16), model.see(queries[1:]))  # type: ignore[arg-type]
        openings = Openings(prompt, "likelihood", kept, 1)
        names = [candidate.label for candidate in queries[0].candidates]
        for turn in range(2):  # in the picture's row, then as a head
            (opening,) = openings.of(queries[:1])
            assert bool(opening.before.names) == (turn == 1)
            question = ask_likelihood(prompt, names, opening.ids)
            seen = np.concatenate([*opening.exemplars(), model.see(queries[:1])[0]])
            (logits,) = model.decoder.logits(opening.head, [question.tree], [seen], opening.before)
            for rows, answer in zip(question.rows, question.targets, strict=True):
                root = question.tree.segments[0].ids
                ids = [*opening.head, *root, *answer[:-1]]
                row = torch.tensor([[golden.source.image_token if token == PICTURE else token for token in ids]])
                shown = golden.source.preprocess([pixels[1], pixels[2], pixels[0]])
                with torch.inference_mode():
                    inputs = golden.source.reference_inputs(row, torch.from_numpy(shown))
                    found = golden.source.reference(**inputs).logits[0].numpy()
                assert np.abs(logits[list(rows)] - found[-len(answer) :]).max() < 1e-3

    def test_llava_s_first_form_takes_one_picture(self, llava: Golden) -> None:
        with pytest.raises(InputError, match="MLLM that takes several pictures"):
            MllmRanker(llava.open(), ONE)


def test_openings_without_exemplars_have_one_head(model: Mllm) -> None:
    openings = Openings(model.prompt, "likelihood").of(QUERIES)
    assert list(by_head(openings, range(4))) == [[0, 1, 2, 3]]
    assert openings[0].ids == model.prompt.picture("likelihood")
