"""The MLLM in the loop: who was ranked, who was not and why, and what the two scores make together."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rar.runtime import Bundle, BundleError, ImageError, InputError, Recognizer, Result
from rar.runtime.cli.recognize import main
from rar.runtime.picture.load import load_image
from rar.runtime.rank.mllm.ranker import MllmOptions, MllmRanker
from rar.runtime.rank.protocol import Query, Ranking

from .conftest import Golden

TUNE = {"rank": "mllm", "mode": "choice", "debias": "calibrate", "fusion": 2.5, "gate": 0.05}


@pytest.fixture(scope="module")
def recognizer(smolvlm: Golden) -> Recognizer:
    return Recognizer.open(smolvlm.bundle, "cpu", threads=1)


@pytest.fixture
def own(smolvlm: Golden, writable: Callable[[Path], Path]) -> Path:
    return writable(smolvlm.bundle)


@pytest.fixture
def tuned(own: Path, edit_manifest: Callable[..., None]) -> Callable[..., Path]:
    """A bundle with fitted settings."""

    def make(**changes: Any) -> Path:
        tune = TUNE | changes
        edit_manifest(own, lambda manifest: manifest["components"]["memory"]["info"].update(tune=tune))
        return own

    return make


class Slow:
    """Ranks backwards and takes its time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.calls: list[list[Query]] = []

    def rank(self, queries: Sequence[Query]) -> list[Ranking]:
        self.calls.append(list(queries))
        time.sleep(self.seconds * len(queries))
        return [Ranking(np.arange(len(query.candidates), dtype=np.float32)) for query in queries]


def with_slow(bundle: Path, seconds: float) -> tuple[Recognizer, Slow]:
    recognizer = Recognizer.open(bundle, "cpu", threads=1)
    slow = Slow(seconds)
    recognizer._rankers["wca"] = slow
    return recognizer, slow


def order(result: Result) -> list[str]:
    return [candidate.label for candidate in result.candidates]


class TestRanking:
    @pytest.mark.parametrize("mode", ["choice", "likelihood", "generate"])
    def test_every_mode_keeps_the_candidates_and_says_who_ranked(
        self, smolvlm: Golden, class_pictures: list[Path], mode: Any
    ) -> None:
        recognizer = Recognizer.open(smolvlm.bundle, "cpu", threads=1, mllm=MllmOptions(mode))
        for result in recognizer.recognize(class_pictures[::3], k=4, rank="mllm"):
            assert (result.ranked_by, result.skipped) == ("mllm", None)
            assert sorted(order(result)) == sorted(c.label for c in result.retrieved)
            scores = [c.rank_score for c in result.candidates]
            assert scores == sorted(scores, reverse=True)
            assert result.score == scores[0]
            assert sum(map(math.exp, scores)) == pytest.approx(1, abs=1e-4)
            assert result.timings["rank"] > 0

    def test_the_ranker_gets_what_the_retrieval_saw(self, recognizer: Recognizer, class_pictures: list[Path]) -> None:
        queries = list(recognizer.queries(class_pictures[:5], k=3, batch_size=2))
        expected = MllmRanker(recognizer._ranker("mllm")._model).rank(queries)  # type: ignore[union-attr, arg-type]
        results = recognizer.recognize(class_pictures[:5], k=3, rank="mllm")
        for path, query, ranking, result in zip(class_pictures, queries, expected, results, strict=False):
            assert isinstance(query, Query)
            np.testing.assert_array_equal(query.pixels, load_image(path))
            found = {c.label: c.rank_score for c in result.candidates}
            assert found == pytest.approx({c.label: c.rank_score for c in ranking.order(query.candidates)}, abs=1e-4)

    def test_a_broken_picture_fails_alone(self, recognizer: Recognizer, class_pictures: list[Path]) -> None:
        sources: list[Any] = [class_pictures[0], b"", class_pictures[1]]
        a, broken, b = recognizer.recognize(sources, k=3, rank="mllm")
        assert isinstance(broken.error, ImageError)
        assert broken.ranked_by is None
        assert a.ranked_by == b.ranked_by == "mllm"
        kinds = [type(query) for query in recognizer.queries(sources, k=3)]
        assert kinds == [Query, ImageError, Query]

    @pytest.mark.parametrize("mode", ["choice", "likelihood", "generate"])
    def test_a_class_of_a_very_long_name_costs_those_who_meet_it_their_ranking(
        self, own: Path, class_pictures: list[Path], mode: Any
    ) -> None:
        with Recognizer.open(own, "cpu", threads=1, mllm=MllmOptions(mode)) as recognizer:
            recognizer.memory.add(class_pictures[0], "x" * 4000)
            results = recognizer.recognize(class_pictures, k=3, rank="mllm")
            met = [any(len(c.label) == 4000 for c in result.retrieved) for result in results]
            assert any(met)
            for result, long in zip(results, met, strict=True):
                assert (result.error, result.ranked_by) == (None, "mllm")
                if long:
                    assert result.fallback
                    assert order(result) == [c.label for c in result.retrieved]

    def test_scores_that_are_not_finite_cost_one_picture_its_ranking(
        self, smolvlm: Golden, class_pictures: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where one picture spoils all that share its pass, as with one quantisation scale for a batch."""
        with Recognizer.open(smolvlm.bundle, "cpu", threads=1) as recognizer:
            expected = recognizer.recognize(class_pictures, k=3, rank="mllm")
            ranker: Any = recognizer._ranker("mllm")
            see = ranker._model.see
            bad = load_image(class_pictures[4])

            def spoiled(queries: Sequence[Query]) -> Any:
                seen = see(queries)
                if any(np.array_equal(query.pixels, bad) for query in queries):
                    seen = np.full_like(seen, np.nan)
                return seen

            monkeypatch.setattr(ranker._model, "see", spoiled)
            results = recognizer.recognize(class_pictures, k=3, rank="mllm")
            for i, (found, alone) in enumerate(zip(results, expected, strict=True)):
                assert found.error is None
                assert all(np.isfinite(c.rank_score) for c in found.candidates)
                if i == 4:
                    assert found.fallback
                    assert order(found) == [c.label for c in found.retrieved]
                else:
                    assert order(found) == order(alone)

    @pytest.mark.parametrize("rank", ["none", "wca"])
    def test_other_rankers_do_as_before(self, recognizer: Recognizer, class_pictures: list[Path], rank: Any) -> None:
        (result,) = recognizer.recognize(class_pictures[0], k=3, rank=rank)
        assert result.ranked_by == (None if rank == "none" else rank)
        assert (result.skipped, result.fallback) == (None, False)

    def test_many_threads_at_once_answer_as_one(self, smolvlm: Golden, class_pictures: list[Path]) -> None:
        recognizer = Recognizer.open(smolvlm.bundle, "cpu", threads=1)
        with ThreadPoolExecutor(6) as pool:  # before anything was ranked: the MLLM and its head are raced for too
            answers = list(pool.map(lambda _: recognizer.recognize(class_pictures, k=4, rank="mllm"), range(6)))
        for results in answers:
            assert [order(result) for result in results] == [order(result) for result in answers[0]]

    def test_k_1(self, recognizer: Recognizer, class_pictures: list[Path]) -> None:
        (result,) = recognizer.recognize(class_pictures[0], k=1, rank="mllm")
        assert result.candidates[0].rank_score == 0.0

    def test_a_bundle_without_mllm_says_how_to_add_one(self, pictures_bundle: Path, class_pictures: list[Path]) -> None:
        recognizer = Recognizer.open(pictures_bundle, "cpu")
        assert recognizer.recognize(class_pictures[0], k=2)[0].ranked_by == "wca"
        with pytest.raises(InputError, match="holds no MLLM; add one with `rar-export mllm`"):
            recognizer.recognize(class_pictures[0], k=2, rank="mllm")

    def test_a_damaged_mllm_does_not_touch_the_other_rankers(self, own: Path, class_pictures: list[Path]) -> None:
        path = own / "mllm" / "decoder.onnx"
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)
        recognizer = Recognizer.open(own, "cpu")
        assert recognizer.recognize(class_pictures[0], k=2, rank="none")[0].label == "cat"
        with pytest.raises(BundleError, match=r"decoder\.onnx: altered"):
            recognizer.recognize(class_pictures[0], k=2, rank="mllm")

    def test_an_mllm_of_another_encoder_s_features(
        self, own: Path, class_pictures: list[Path], edit_manifest: Callable[..., None]
    ) -> None:
        info = {"vision_input": "image_features", "encoder": "another"}
        edit_manifest(own, lambda manifest: manifest["components"]["mllm"]["info"].update(info))
        recognizer = Recognizer.open(own, "cpu")
        with pytest.raises(BundleError, match="made for another encoder's features"):
            recognizer.recognize(class_pictures[0], k=2, rank="mllm")


class TestSharedBackbone:
    """An MLLM that sees pictures by the encoder's second output."""

    @pytest.fixture
    def shared(self, own: Path, replace_file: Callable[..., Path], edit_manifest: Callable[..., None]) -> Path:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        visual = onnx.load(str(own / "clip" / "visual.onnx"), load_external_data=False)
        axes = numpy_helper.from_array(np.array([1]), "rar_axes")
        visual.graph.initializer.append(axes)
        visual.graph.node.append(helper.make_node("Unsqueeze", ["image_embeds", "rar_axes"], ["image_features"]))
        visual.graph.output.append(helper.make_tensor_value_info("image_features", TensorProto.FLOAT, ["N", 1, 32]))
        replace_file(own, "clip", "visual.onnx", visual.SerializeToString())

        weights = np.random.default_rng(0).normal(size=(32, 4 * 64)).astype(np.float32)
        nodes = [
            helper.make_node("MatMul", ["image_features", "weights"], ["wide"]),
            helper.make_node("Reshape", ["wide", "shape"], ["image_embeds"]),
        ]
        graph = helper.make_graph(
            nodes,
            "vision",
            [helper.make_tensor_value_info("image_features", TensorProto.FLOAT, ["N", 1, 32])],
            [helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, ["N", 4, 64])],
            [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.array([-1, 4, 64]), "shape")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        replace_file(own, "mllm", "vision.onnx", model.SerializeToString())
        encoder = Bundle.open(own).component("clip").fingerprint

        def edit(manifest: dict[str, Any]) -> None:
            components = manifest["components"]
            components["mllm"]["files"].pop("vision.onnx.data", None)
            components["mllm"]["files"].pop("preprocess.json")
            components["mllm"]["files"].pop("vision.check.npz")  # it was another's
            components["mllm"]["info"]["checks"].pop("vision.onnx")
            components["mllm"]["info"].update(vision_input="image_features", encoder=encoder)
            components["memory"]["info"]["encoder"] = encoder

        edit_manifest(own, edit)
        (own / "mllm" / "vision.onnx.data").unlink(missing_ok=True)
        return own

    def test_the_encoder_runs_once_a_batch(self, shared: Path, class_pictures: list[Path]) -> None:
        recognizer = Recognizer.open(shared, "cpu", threads=1)
        runs: list[Sequence[str]] = []
        real = recognizer.clip.visual.run

        def run(inputs: Any, outputs: Sequence[str] = ()) -> Any:
            runs.append(outputs)
            return real(inputs, outputs)

        recognizer.clip.visual.run = run  # type: ignore[method-assign, assignment]
        results = list(recognizer.stream(class_pictures, k=4, rank="mllm", batch_size=6))
        assert [result.ranked_by for result in results] == ["mllm"] * 12
        assert len(runs) == 2

    def test_each_picture_is_seen_by_its_own_features(self, shared: Path, class_pictures: list[Path]) -> None:
        recognizer = Recognizer.open(shared, "cpu", threads=1)
        queries = [query for query in recognizer.queries(class_pictures, k=4) if isinstance(query, Query)]
        for query in queries:
            assert query.features is not None
            np.testing.assert_array_equal(query.features, query.embedding[None])
        together = recognizer.recognize(class_pictures, k=4, rank="mllm")
        for path, result in zip(class_pictures, together, strict=True):
            (alone,) = recognizer.recognize(path, k=4, rank="mllm")
            found = {c.label: c.rank_score for c in result.candidates}
            assert found == pytest.approx({c.label: c.rank_score for c in alone.candidates}, abs=1e-4)

    def test_queries_without_features_are_refused(self, shared: Path, queries: list[Query]) -> None:
        with pytest.raises(InputError, match="image_features; pass them"):
            MllmRanker(Golden(shared, None).open()).rank(queries)

    def test_an_encoder_that_gives_none(self, own: Path, edit_manifest: Callable[..., None]) -> None:
        encoder = Bundle.open(own).component("clip").fingerprint
        info = {"vision_input": "image_features", "encoder": encoder}
        edit_manifest(own, lambda manifest: manifest["components"]["mllm"]["info"].update(info))
        with pytest.raises(BundleError, match="another encoder's features"):
            Golden(own, None).open()


class TestTuned:
    def test_mode_and_fusion_are_the_bundle_s(
        self, tuned: Callable[..., Path], smolvlm: Golden, class_pictures: list[Path]
    ) -> None:
        options = MllmOptions("choice", "calibrate")
        plain = Recognizer.open(smolvlm.bundle, "cpu", threads=1, mllm=options)
        fused = Recognizer.open(tuned(), "cpu", threads=1)
        pairs = zip(
            plain.recognize(class_pictures[:4], k=4, rank="mllm"),
            fused.recognize(class_pictures[:4], k=4, rank="mllm"),
            strict=True,
        )
        for a, b in pairs:
            expected = {c.label: (c.rank_score + 2.5 * c.similarity) / 3.5 for c in a.candidates}  # type: ignore[operator]
            found = {c.label: c.rank_score for c in b.candidates}
            assert found == pytest.approx(expected, abs=1e-4)
            assert list(found.values()) == sorted(found.values(), reverse=True)

    def test_a_large_weight_is_the_retrieval_s_order(
        self, tuned: Callable[..., Path], class_pictures: list[Path]
    ) -> None:
        recognizer = Recognizer.open(tuned(fusion=1e6), "cpu", threads=1)
        for result in recognizer.recognize(class_pictures[:4], k=4, rank="mllm"):
            assert order(result) == [c.label for c in result.retrieved]
            assert result.ranked_by == "mllm"

    def test_what_was_fitted_for_other_settings_is_not_used(
        self, tuned: Callable[..., Path], smolvlm: Golden, class_pictures: list[Path]
    ) -> None:
        bundle, options = tuned(fusion=1e6), MllmOptions("likelihood")
        other = Recognizer.open(bundle, "cpu", threads=1, mllm=options)
        plain = Recognizer.open(smolvlm.bundle, "cpu", threads=1, mllm=options)
        for rank in ("mllm", "wca"):
            a, b = (r.recognize(class_pictures[0], k=4, rank=rank)[0] for r in (other, plain))  # type: ignore[arg-type]
            assert [c.rank_score for c in a.candidates] == pytest.approx([c.rank_score for c in b.candidates])
        with pytest.raises(InputError, match="rar-export tune"):
            other.recognize(class_pictures[0], k=4, rank="mllm", gate="unsure")

    def test_wca_may_be_tuned_too(self, tuned: Callable[..., Path], class_pictures: list[Path]) -> None:
        recognizer = Recognizer.open(tuned(rank="wca", fusion=1e6), "cpu", threads=1)
        for result in recognizer.recognize(class_pictures[:4], k=4, rank="wca"):
            assert order(result) == [c.label for c in result.retrieved]

    @pytest.mark.parametrize(
        "changes",
        [{"rank": None}, {"mode": "x"}, {"debias": 3}, {"fusion": "x"}, {"fusion": math.nan}, {"gate": []}],
        ids=str,
    )
    def test_malformed(self, tuned: Callable[..., Path], changes: dict[str, Any]) -> None:
        bundle = tuned(**changes)
        if changes == {"rank": None}:
            Recognizer.open(bundle, "cpu")  # tuned for a ranker that is not here: not used
            return
        with pytest.raises(BundleError, match=r"tune is malformed .*run `rar-export tune` again"):
            Recognizer.open(bundle, "cpu")

    @pytest.mark.parametrize("tune", [3, [], "x", {}])
    def test_no_settings_at_all(self, own: Path, tune: Any, edit_manifest: Callable[..., None]) -> None:
        edit_manifest(own, lambda manifest: manifest["components"]["memory"]["info"].update(tune=tune))
        with pytest.raises(BundleError, match="tune is malformed"):
            Recognizer.open(own, "cpu")


class TestGate:
    def test_only_the_unsure_are_ranked(self, tuned: Callable[..., Path], class_pictures: list[Path]) -> None:
        probe = Recognizer.open(tuned(), "cpu", threads=1)
        queries = [query for query in probe.queries(class_pictures, k=4) if isinstance(query, Query)]
        threshold = float(np.median([query.margin for query in queries]))
        recognizer = Recognizer.open(tuned(gate=threshold), "cpu", threads=1)
        results = recognizer.recognize(class_pictures, k=4, rank="mllm", gate="unsure")
        everything = recognizer.recognize(class_pictures, k=4, rank="mllm")
        assert 0 < sum(result.skipped == "gate" for result in results) < len(results)
        for query, result, ranked in zip(queries, results, everything, strict=True):
            if query.margin < threshold:
                assert (result.ranked_by, result.skipped) == ("mllm", None)
                assert order(result) == order(ranked)
                assert "rank" in result.timings
            else:
                assert (result.ranked_by, result.skipped) == (None, "gate")
                assert list(result.candidates) == list(result.retrieved)
                assert result.score == result.retrieved[0].similarity
                assert "rank" not in result.timings

    @pytest.mark.parametrize(("gate", "ranked"), [(0.0, False), (-1.0, False), (3.0, True), (math.inf, True)])
    def test_extreme_margins(
        self, tuned: Callable[..., Path], class_pictures: list[Path], gate: float, ranked: bool
    ) -> None:
        recognizer = Recognizer.open(tuned(gate=gate), "cpu", threads=1)
        for result in recognizer.recognize(class_pictures[:3], k=4, rank="mllm", gate="unsure"):
            assert (result.ranked_by == "mllm") == ranked

    def test_one_candidate_is_always_sure(self, tuned: Callable[..., Path], class_pictures: list[Path]) -> None:
        recognizer = Recognizer.open(tuned(), "cpu", threads=1)
        (result,) = recognizer.recognize(class_pictures[0], k=1, rank="mllm", gate="unsure")
        assert result.skipped == "gate"

    def test_without_a_fitted_margin(
        self, recognizer: Recognizer, tuned: Callable[..., Path], class_pictures: list[Path]
    ) -> None:
        for own in (recognizer, Recognizer.open(tuned(gate=None), "cpu")):
            with pytest.raises(InputError, match="run `rar-export tune`"):
                own.stream(class_pictures, k=2, rank="mllm", gate="unsure")

    def test_no_ranker_needs_no_gate(self, recognizer: Recognizer, class_pictures: list[Path]) -> None:
        (result,) = recognizer.recognize(class_pictures[0], k=2, rank="none", gate="unsure")
        assert result.skipped is None

    @pytest.mark.parametrize("gate", ["on", "", None])
    def test_unknown(self, recognizer: Recognizer, gate: Any) -> None:
        with pytest.raises(InputError, match="is unknown; choose off, unsure"):
            recognizer.recognize([], k=2, gate=gate)


class TestDeadline:
    def test_time_enough_changes_nothing(self, recognizer: Recognizer, class_pictures: list[Path]) -> None:
        expected = recognizer.recognize(class_pictures, k=4, rank="mllm")
        for a, b in zip(recognizer.recognize(class_pictures, k=4, rank="mllm", deadline_ms=1e6), expected, strict=True):
            assert a.ranked_by == "mllm"
            assert order(a) == order(b)

    def test_no_time_at_all_leaves_the_retrieval_s_order(self, smolvlm: Golden, class_pictures: list[Path]) -> None:
        recognizer, slow = with_slow(smolvlm.bundle, 0.0)
        for pace in ({}, {("wca", 4): 1e-5}, {("wca", 4): 1.0}):
            recognizer._answer.pace = pace  # type: ignore[assignment]
            for result in recognizer.recognize(class_pictures, k=4, rank="wca", deadline_ms=0.001):
                assert (result.ranked_by, result.skipped) == (None, "deadline")
                assert list(result.candidates) == list(result.retrieved)
        assert slow.calls == []

    def test_it_stops_in_the_middle_and_the_least_sure_come_first(
        self, smolvlm: Golden, class_pictures: list[Path]
    ) -> None:
        recognizer, slow = with_slow(smolvlm.bundle, 0.2)
        queries = [query for query in recognizer.queries(class_pictures, k=4) if isinstance(query, Query)]
        recognizer._answer.pace["wca", 4] = 0.2
        start = time.perf_counter()
        results = recognizer.recognize(class_pictures, k=4, rank="wca", deadline_ms=1500)
        assert time.perf_counter() - start < 2.5
        ranked = [i for i, result in enumerate(results) if result.ranked_by]
        assert 0 < len(ranked) < len(results)
        assert all(results[i].skipped == "deadline" for i in range(len(results)) if i not in ranked)
        by_margin = sorted(range(len(queries)), key=lambda i: queries[i].margin)
        assert sorted(by_margin[: len(ranked)]) == ranked
        assert len(slow.calls) > 1

    def test_the_first_batch_tries_one_picture(self, smolvlm: Golden, class_pictures: list[Path]) -> None:
        recognizer, slow = with_slow(smolvlm.bundle, 0.6)
        results = recognizer.recognize(class_pictures[:6], k=4, rank="wca", deadline_ms=500)
        assert [len(call) for call in slow.calls] == [1]
        assert sum(result.skipped == "deadline" for result in results) == 5

    def test_a_slow_call_does_not_keep_the_ranker_out_for_ever(
        self, smolvlm: Golden, class_pictures: list[Path]
    ) -> None:
        recognizer, _ = with_slow(smolvlm.bundle, 0.0)
        recognizer._answer.pace["wca", 4] = 1.0
        ranked = [
            recognizer.recognize(class_pictures[0], k=4, rank="wca", deadline_ms=500)[0].ranked_by for _ in range(12)
        ]
        assert ranked[0] is None
        assert ranked[-1] == "wca"

    def test_each_batch_has_its_own_time(self, smolvlm: Golden, class_pictures: list[Path]) -> None:
        recognizer, _ = with_slow(smolvlm.bundle, 0.0)
        results = []
        for result in recognizer.stream(class_pictures[:6], k=4, rank="wca", batch_size=2, deadline_ms=400):
            time.sleep(0.3)  # whoever takes the results may be slow
            results.append(result)
        assert all(result.ranked_by == "wca" for result in results)

    def test_with_the_gate(self, tuned: Callable[..., Path], class_pictures: list[Path]) -> None:
        recognizer = Recognizer.open(tuned(rank="wca", gate=0.0), "cpu", threads=1)
        results = recognizer.recognize(class_pictures, k=4, rank="wca", gate="unsure", deadline_ms=1000)
        assert {result.skipped for result in results} == {"gate"}

    @pytest.mark.parametrize("deadline", [0, -1, math.nan])
    def test_out_of_range(self, recognizer: Recognizer, deadline: float) -> None:
        with pytest.raises(InputError, match="deadline_ms="):
            recognizer.recognize([], k=2, deadline_ms=deadline)


class TestCommand:
    def test_the_table_shows_the_order_before_and_after(
        self, smolvlm: Golden, class_pictures: list[Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        argv = [str(smolvlm.bundle), str(class_pictures[0]), "--k", "3", "--rank", "mllm", "--mode", "choice"]
        assert main(argv) == 0
        out = capsys.readouterr().out
        assert "retrieved" in out
        assert "ranked by mllm" in out

    def test_json_says_who_ranked_or_why_nobody_did(
        self, tuned: Callable[..., Path], class_pictures: list[Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        argv = [str(tuned(gate=0.0)), str(class_pictures[0]), "--k", "3", "--rank", "mllm", "--json"]
        records = []
        for extra in ([], ["--gate", "unsure"], ["--deadline-ms", "0.001"]):
            assert main([*argv, *extra]) == 0
            records.append(json.loads(capsys.readouterr().out))
        assert [(record["ranked_by"], record["skipped"]) for record in records] == [
            ("mllm", None),
            (None, "gate"),
            (None, "deadline"),
        ]
        assert records[0]["fallback"] is False

    def test_the_table_says_what_was_left_out(
        self, smolvlm: Golden, class_pictures: list[Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        argv = [str(smolvlm.bundle), str(class_pictures[0]), "--k", "3", "--rank", "mllm", "--deadline-ms", "0.001"]
        assert main(argv) == 0
        assert "not ranked (deadline)" in capsys.readouterr().out

    def test_it_runs_where_pytorch_and_transformers_are_not_installed(
        self, smolvlm: Golden, class_pictures: list[Path]
    ) -> None:
        code = (
            "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'onnx'))); "
            "from rar.runtime.cli.recognize import main; sys.exit(main(sys.argv[1:]))"
        )
        for mode in ("choice", "likelihood", "generate"):
            argv = [str(smolvlm.bundle), str(class_pictures[0]), "--k", "3", "--rank", "mllm", "--mode", mode, "--json"]
            run = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)
            assert (run.returncode, run.stderr) == (0, "")
            assert json.loads(run.stdout)["ranked_by"] == "mllm"

    @pytest.mark.parametrize("extra", [["--gate", "unsure"], ["--deadline-ms", "0"]])
    def test_refusals_are_one_line(
        self, smolvlm: Golden, class_pictures: list[Path], capsys: pytest.CaptureFixture[str], extra: list[str]
    ) -> None:
        assert main([str(smolvlm.bundle), str(class_pictures[0]), "--k", "3", "--rank", "mllm", *extra]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1

    def test_no_mllm(
        self, pictures_bundle: Path, class_pictures: list[Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([str(pictures_bundle), str(class_pictures[0]), "--k", "3", "--rank", "mllm"]) == 2
        assert "rar-export mllm" in capsys.readouterr().err
