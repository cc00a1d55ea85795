"""Scores against transformers itself, one forward pass an answer, and the same however they are computed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rar.runtime import Bundle, BundleError, Candidate, InputError
from rar.runtime.bundle.manifest import Component
from rar.runtime.rank.mllm.info import MllmInfo
from rar.runtime.rank.mllm.modes import NEUTRAL, ask_list
from rar.runtime.rank.mllm.parse import parse_list
from rar.runtime.rank.mllm.prompt import LETTERS, clean, list_names
from rar.runtime.rank.mllm.ranker import MllmOptions, MllmRanker
from rar.runtime.rank.protocol import Query, Ranking

from .conftest import NAMES, Golden

Floats = npt.NDArray[np.floating[Any]]

OPTIONS = [
    MllmOptions("likelihood"),
    MllmOptions("choice", "rotate"),
    MllmOptions("choice", "calibrate"),
    MllmOptions("choice", "none"),
    MllmOptions("generate"),
]


def log_softmax(logits: Floats) -> Floats:
    shifted = np.asarray(logits, np.float64) - np.max(logits)
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def names_of(query: Query) -> list[str]:
    return [candidate.label for candidate in query.candidates]


def likelihoods(golden: Golden, query: Query) -> Floats:
    """Each name in a pass of its own."""
    prompt = golden.open().prompt
    found = []
    for name in names_of(query):
        tail, (answer,) = prompt.answers("likelihood", names_of(query), [clean(name)])
        ids = [*prompt.head("likelihood"), *prompt.picture("likelihood"), *tail, *answer]
        logits = golden.logits(ids, query)
        first = len(ids) - len(answer)
        found.append(np.mean([log_softmax(logits[first + i - 1])[token] for i, token in enumerate(answer)]))
    return log_softmax(np.array(found))


def letters(golden: Golden, query: Query, names: Sequence[str]) -> Floats:
    """Log-probabilities over the letters of one lettered question."""
    prompt = golden.open().prompt
    ids = [*prompt.head("choice"), *prompt.picture("choice"), *prompt.tail("choice", names)]
    return log_softmax(golden.logits(ids, query)[-1][[prompt.letters[letter] for letter in LETTERS[: len(names)]]])


def choices(golden: Golden, query: Query, debias: str) -> Floats:
    names = names_of(query)
    k = len(names)
    if debias == "none":
        return letters(golden, query, names)
    if debias == "calibrate":
        return log_softmax(letters(golden, query, names) - letters(golden, query, [NEUTRAL] * k))
    total = np.zeros(k)
    for shift in range(k):
        order = [(shift + letter) % k for letter in range(k)]
        total[order] += letters(golden, query, [names[i] for i in order])
    return log_softmax(total / k)


def written(golden: Golden, query: Query, limit: int) -> list[int]:
    """Greedy decoding that computes everything again at each step."""
    prompt = golden.open().prompt
    ids = [*prompt.head("generate"), *prompt.picture("generate"), *prompt.tail("generate", names_of(query))]
    answer: list[int] = []
    while len(answer) < limit and (not answer or answer[-1] not in prompt.stop_ids):
        answer.append(int(golden.logits([*ids, *answer], query)[-1].argmax()))
    return answer


class TestAgainstTransformers:
    def test_likelihood(self, golden: Golden, queries: list[Query]) -> None:
        rankings = MllmRanker(golden.open(), MllmOptions("likelihood")).rank(queries)
        for ranking, query in zip(rankings, queries, strict=True):
            np.testing.assert_allclose(ranking.scores, likelihoods(golden, query), atol=1e-3)

    @pytest.mark.parametrize("debias", ["none", "calibrate", "rotate"])
    def test_choice(self, golden: Golden, queries: list[Query], debias: Any) -> None:
        rankings = MllmRanker(golden.open(), MllmOptions("choice", debias)).rank(queries)
        for ranking, query in zip(rankings, queries, strict=True):
            np.testing.assert_allclose(ranking.scores, choices(golden, query, debias), atol=1e-3)

    def test_greedy_decoding_of_all_pictures_together(self, golden: Golden, queries: list[Query]) -> None:
        model = golden.open()
        limits = [12, 3, 7]
        trees = [ask_list(model.prompt, names_of(query))[0] for query in queries]
        stops = model.prompt.stop_ids
        found = model.decoder.greedy(
            model.prompt.head("generate"), trees, model.see(queries), limits, lambda _, ids: ids[-1] in stops
        )
        assert found == [written(golden, query, limit) for query, limit in zip(queries, limits, strict=True)]


class TestSameHoweverComputed:
    @pytest.fixture
    def expected(self, golden: Golden, queries: list[Query]) -> dict[MllmOptions, list[Ranking]]:
        model = golden.open()
        return {options: MllmRanker(model, options).rank(queries) for options in OPTIONS}

    @pytest.mark.parametrize("budget", [1, 10**6])
    def test_any_budget(
        self, golden: Golden, queries: list[Query], budget: int, expected: dict[MllmOptions, list[Ranking]]
    ) -> None:
        model = golden.open(budget=budget)
        for options, rankings in expected.items():
            for found, ranking in zip(MllmRanker(model, options).rank(queries), rankings, strict=True):
                np.testing.assert_allclose(found.scores, ranking.scores, atol=1e-4)
                assert found.fallback == ranking.fallback

    def test_alone_or_with_other_pictures(
        self, golden: Golden, queries: list[Query], expected: dict[MllmOptions, list[Ranking]]
    ) -> None:
        model = golden.open()
        for options, rankings in expected.items():
            ranker = MllmRanker(model, options)
            for query, ranking in zip(queries, rankings, strict=True):
                (alone,) = ranker.rank([query])
                np.testing.assert_allclose(alone.scores, ranking.scores, atol=1e-4)
            backwards = ranker.rank(queries[::-1])[::-1]
            for found, ranking in zip(backwards, rankings, strict=True):
                np.testing.assert_allclose(found.scores, ranking.scores, atol=1e-4)

    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_scores_are_log_probabilities_over_the_candidates(
        self, golden: Golden, queries: list[Query], options: MllmOptions
    ) -> None:
        for ranking, query in zip(MllmRanker(golden.open(), options).rank(queries), queries, strict=True):
            assert ranking.scores.shape == (len(query.candidates),)
            assert ranking.scores.dtype == np.float32
            assert np.exp(ranking.scores).sum() == pytest.approx(1, abs=1e-4)

    def test_rotations_leave_no_liking_for_a_place_in_the_list(self, smolvlm: Golden, queries: list[Query]) -> None:
        ranker = MllmRanker(smolvlm.open(), MllmOptions("choice", "rotate"))
        turned = replace(queries[0], candidates=[*queries[0].candidates[2:], *queries[0].candidates[:2]])
        first, second = ranker.rank([queries[0], turned])
        np.testing.assert_allclose(np.roll(first.scores, -2), second.scores, atol=1e-4)

    def test_another_picture_is_scored_otherwise(self, golden: Golden, queries: list[Query]) -> None:
        other = replace(queries[0], pixels=queries[1].pixels)
        a, b = MllmRanker(golden.open(), MllmOptions("likelihood")).rank([queries[0], other])
        assert not np.allclose(a.scores, b.scores, atol=1e-3)


class TestCandidates:
    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_one_candidate_asks_the_model_nothing(
        self, smolvlm: Golden, queries: list[Query], options: MllmOptions
    ) -> None:
        model = smolvlm.open()
        model.decoder = None  # type: ignore[assignment]
        single = replace(queries[0], candidates=queries[0].candidates[:1])
        for ranking in MllmRanker(model, options).rank([single, single]):
            assert ranking.scores.tolist() == [0.0]

    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_one_candidate_among_pictures_of_more(
        self, smolvlm: Golden, queries: list[Query], options: MllmOptions
    ) -> None:
        single = replace(queries[0], candidates=queries[0].candidates[:1])
        ranker = MllmRanker(smolvlm.open(), options)
        mixed = ranker.rank([single, queries[0], single, queries[1]])
        assert [len(ranking.scores) for ranking in mixed] == [1, 5, 1, 6]
        np.testing.assert_allclose(mixed[3].scores, ranker.rank(queries)[1].scores, atol=1e-4)

    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_no_pictures(self, smolvlm: Golden, options: MllmOptions) -> None:
        assert MllmRanker(smolvlm.open(), options).rank([]) == []

    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    @pytest.mark.parametrize(
        "labels",
        [
            ["same", "same"],
            ["Apple", "apple", "APPLE"],
            ["", " ", "\n"],
            ["{candidates}", "{k}"],
            ["]", "[", '"', "'", ",", "\\"],
            ["\ud800", "\u2028", "\x00"],
            ["👩‍👩‍👧‍👦" * 3, "é", "e\u0301"],
            ["<end_of_utterance>", "<image>", "<fake_token_around_image>", "</s>", "<|im_end|>"],
        ],
        ids=repr,
    )
    def test_odd_names(self, smolvlm: Golden, queries: list[Query], options: MllmOptions, labels: list[str]) -> None:
        asked = replace(queries[0], candidates=[Candidate(label, 0.5) for label in labels])
        (ranking,) = MllmRanker(smolvlm.open(), options).rank([asked])
        assert ranking.scores.shape == (len(labels),)
        assert np.isfinite(ranking.scores).all()
        assert sorted(c.label for c in ranking.order(asked.candidates)) == sorted(labels)

    def test_names_that_read_alike_score_alike(self, smolvlm: Golden, queries: list[Query]) -> None:
        asked = replace(queries[0], candidates=[Candidate(label, 0.5) for label in ("a\nb", "c", "a b")])
        (ranking,) = MllmRanker(smolvlm.open(), MllmOptions("likelihood")).rank([asked])
        assert ranking.scores[0] == pytest.approx(ranking.scores[2], abs=1e-5)

    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    @pytest.mark.parametrize("labels", [["x" * 4000, "y"], ["x", "y" * 257], [f"{i} " * 128 for i in range(7)]])
    def test_names_or_a_prompt_that_are_too_long_cost_one_picture_its_ranking(
        self, smolvlm: Golden, queries: list[Query], options: MllmOptions, labels: list[str]
    ) -> None:
        long = replace(queries[0], candidates=[Candidate(label, 0.5 - i / 20) for i, label in enumerate(labels)])
        model = smolvlm.open()
        expected = MllmRanker(model, options).rank(queries[1:])
        first, marked, second = MllmRanker(model, options).rank([queries[1], long, queries[2]])
        for found, alone in zip((first, second), expected, strict=True):
            np.testing.assert_allclose(found.scores, alone.scores, atol=1e-4)
            assert found.fallback == alone.fallback
        assert marked.fallback
        assert [c.label for c in marked.order(long.candidates)] == labels
        assert np.exp(marked.scores).sum() == pytest.approx(1, abs=1e-5)
        model.decoder.logits = model.decoder.greedy = model.see = None  # type: ignore[assignment, method-assign]
        assert [one.fallback for one in MllmRanker(model, options).rank([long, long])] == [True, True]

    def test_more_candidates_than_letters(self, smolvlm: Golden, queries: list[Query]) -> None:
        many = replace(queries[0], candidates=[Candidate(str(i), 0.5) for i in range(27)])
        with pytest.raises(InputError, match="26 letters for 27 candidates; ask for fewer, or use likelihood"):
            MllmRanker(smolvlm.open(), MllmOptions("choice")).rank([many])

    def test_the_most_letters(self, smolvlm: Golden, queries: list[Query]) -> None:
        many = replace(queries[0], candidates=[Candidate(str(i), 0.5) for i in range(26)])
        (ranking,) = MllmRanker(smolvlm.open(), MllmOptions("choice", "none")).rank([many])
        assert ranking.scores.shape == (26,)


class TestGenerate:
    """What the decoder writes is replaced; how it is read is not."""

    @pytest.fixture
    def answer(self, smolvlm: Golden, queries: list[Query]) -> Callable[[str], Ranking]:
        def rank(text: str) -> Ranking:
            model = smolvlm.open()
            (ids,) = model.prompt.text([text])

            def greedy(head: Any, trees: Sequence[Any], *_: Any) -> list[list[int]]:
                return [ids for _ in trees]

            model.decoder.greedy = greedy  # type: ignore[method-assign]
            (ranking,) = MllmRanker(model, MllmOptions("generate")).rank(queries[:1])
            return ranking

        return rank

    @pytest.mark.parametrize("text", ["", "I do not know.", "[]", "['a dog', 'a horse']", "[[[[", "]", "cat", "['cat"])
    def test_an_answer_of_no_use_falls_back_to_the_retrieval_s_order(
        self, answer: Callable[[str], Ranking], queries: list[Query], text: str
    ) -> None:
        ranking = answer(text)
        assert ranking.fallback
        assert [c.label for c in ranking.order(queries[0].candidates)] == NAMES[:5]
        assert [c.label for c in ranking.order(queries[0].candidates, fusion=3.0)] == NAMES[:5]

    def test_the_list_s_own_format_is_read_back(self, answer: Callable[[str], Ranking], queries: list[Query]) -> None:
        order = [3, 1, 4, 0, 2]
        ranking = answer(list_names("generate", [NAMES[i] for i in order]))
        assert not ranking.fallback
        assert [c.label for c in ranking.order(queries[0].candidates)] == [NAMES[i] for i in order]

    def test_what_a_partial_list_leaves_out_follows_in_the_retrieval_s_order(
        self, answer: Callable[[str], Ranking], queries: list[Query]
    ) -> None:
        ranking = answer(f"['{NAMES[4]}', '{NAMES[2]}', '{NAMES[4]}', 'a dog'")
        assert [c.label for c in ranking.order(queries[0].candidates)] == [NAMES[i] for i in (4, 2, 0, 1, 3)]

    def test_an_answer_does_not_leak_into_the_next_picture(self, smolvlm: Golden, queries: list[Query]) -> None:
        model = smolvlm.open()
        texts = [f"['{NAMES[2]}']", "nothing", f"['{NAMES[1]}']"]
        model.decoder.greedy = lambda *_: model.prompt.text(texts)  # type: ignore[method-assign]
        rankings = MllmRanker(model, MllmOptions("generate")).rank([queries[0]] * 3)
        assert [ranking.fallback for ranking in rankings] == [False, True, False]
        assert [int(ranking.scores.argmax()) for ranking in rankings] == [2, 0, 1]

    def test_writing_ends_with_the_list_and_within_the_limit(self, smolvlm: Golden, queries: list[Query]) -> None:
        model = smolvlm.open()
        seen: dict[str, Any] = {}

        def greedy(head: Any, trees: Any, pictures: Any, limits: Any, done: Any, _: Any) -> list[list[int]]:
            (own,) = model.prompt.text([list_names("generate", names_of(queries[0]))])
            seen["limits"], seen["list"] = limits, own
            seen["done"] = [done(0, own[: i + 1]) for i in range(len(own))]
            seen["stop"] = done(0, [own[0], model.prompt.stop_ids[0]])
            return [own]

        model.decoder.greedy = greedy  # type: ignore[method-assign]
        MllmRanker(model, MllmOptions("generate")).rank(queries[:1])
        assert seen["done"] == [False] * (len(seen["list"]) - 1) + [True]
        assert seen["stop"]
        assert len(seen["list"]) < seen["limits"][0] < 2 * len(seen["list"]) + 10

    def test_the_model_s_own_answer_is_read(self, smolvlm: Golden, queries: list[Query]) -> None:
        model = smolvlm.open()
        kept: list[list[int]] = []
        real = model.decoder.greedy

        def greedy(*args: Any) -> list[list[int]]:
            kept.extend(real(*args))
            return kept

        model.decoder.greedy = greedy  # type: ignore[method-assign]
        rankings = MllmRanker(model, MllmOptions("generate")).rank(queries)
        for ranking, ids, query in zip(rankings, kept, queries, strict=True):
            assert ranking.fallback == (parse_list(model.prompt.decode(ids), names_of(query)) is None)


class TestSettings:
    @pytest.mark.parametrize("settings", [{"mode": "rank"}, {"debias": "off"}, {"mode": None}])
    def test_unknown(self, settings: Any) -> None:
        with pytest.raises(InputError, match="is unknown; choose"):
            MllmOptions(**settings)

    def test_a_mode_that_the_model_was_not_made_with(self, smolvlm: Golden) -> None:
        model = smolvlm.open()
        model.prompt = replace(model.prompt, modes={"likelihood": model.prompt.modes["likelihood"]})
        with pytest.raises(InputError, match="no mode 'choice'; choose likelihood"):
            MllmRanker(model, MllmOptions("choice"))


class TestDamaged:
    @pytest.fixture
    def own(self, smolvlm: Golden, writable: Callable[[Path], Path]) -> Path:
        return writable(smolvlm.bundle)

    @pytest.mark.parametrize(
        "name", ["vision.onnx", "embed.onnx", "decoder.onnx", "decoder.onnx.data", "tokenizer.json", "prompt.json"]
    )
    def test_altered_or_missing_files_are_named(self, own: Path, smolvlm: Golden, name: str) -> None:
        path = own / "mllm" / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(BundleError, match=f"{name}: altered"):
            Golden(own, None).open()
        path.unlink()
        with pytest.raises(BundleError, match=f"{name}: missing"):
            Golden(own, None).open()

    @pytest.mark.parametrize(
        "name", ["vision.onnx", "decoder.onnx", "tokenizer.json", "prompt.json", "preprocess.json"]
    )
    def test_files_of_another_kind_are_named(self, own: Path, name: str, replace_file: Callable[..., Path]) -> None:
        replace_file(own, "mllm", name, b"garbage")
        with pytest.raises(BundleError, match=name.replace(".", r"\.")):
            Golden(own, None).open()

    @pytest.mark.parametrize("name", ["vision.onnx", "tokenizer.json", "prompt.json", "preprocess.json"])
    def test_files_that_the_manifest_lacks(self, own: Path, name: str, edit_manifest: Callable[..., None]) -> None:
        edit_manifest(own, lambda manifest: manifest["components"]["mllm"]["files"].pop(name))
        with pytest.raises(BundleError, match=f"mllm has no {name}"):
            Golden(own, None).open()

    @pytest.mark.parametrize("key", ["layers", "kv_heads", "head_dim", "precision", "vision_input"])
    def test_an_entry_that_lacks_something(self, own: Path, key: str, edit_manifest: Callable[..., None]) -> None:
        edit_manifest(own, lambda manifest: manifest["components"]["mllm"]["info"].pop(key))
        with pytest.raises(BundleError, match=key):
            Golden(own, None).open()

    @pytest.mark.parametrize("key", ["layers", "kv_heads", "head_dim"])
    @pytest.mark.parametrize("value", [10**400, 10**30, 0, -1, 2.0, float("inf"), float("nan"), "2", None, []])
    def test_a_shape_that_cannot_be(self, key: str, value: object) -> None:
        entry: dict[str, object] = {"layers": 2, "kv_heads": 2, "head_dim": 16, "vision_input": "pixel_values"}
        entry["precision"] = dict.fromkeys(("vision", "embed", "decoder"), "fp32")
        with pytest.raises(BundleError, match=key):
            MllmInfo.of(Bundle(Path("b"), {"mllm": Component({}, entry | {key: value})}))

    def test_a_decoder_of_another_shape(
        self, own: Path, queries: list[Query], edit_manifest: Callable[..., None]
    ) -> None:
        edit_manifest(own, lambda manifest: manifest["components"]["mllm"]["info"].update(layers=3))
        with pytest.raises(BundleError, match=r"decoder\.onnx: ONNX Runtime cannot run it"):
            MllmRanker(Golden(own, None).open()).rank(queries)

    def test_a_prompt_of_more_picture_tokens(
        self, own: Path, queries: list[Query], replace_file: Callable[..., Path]
    ) -> None:
        import json

        path = own / "mllm" / "prompt.json"
        settings = json.loads(path.read_text())
        replace_file(own, "mllm", "prompt.json", json.dumps(settings | {"image_tokens": 9}).encode())
        with pytest.raises(BundleError, match="export the model again"):
            MllmRanker(Golden(own, None).open()).rank(queries)

    def test_no_mllm(self, pictures_bundle: Path) -> None:
        with pytest.raises(InputError, match="holds no MLLM; add one with `rar-export mllm`"):
            Golden(pictures_bundle, None).open()
