"""`rar-bench latency`: what is a figure and what is not, the server's queue, peers that fail, and a whole run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rar.benchmarks.cli import main
from rar.benchmarks.latency import turns
from rar.benchmarks.latency.ratios import ratios
from rar.benchmarks.latency.rows import block_figure, least, percentile_figure, rows_of
from rar.benchmarks.latency.server import Served, arrivals, highest_rate, serve
from rar.benchmarks.latency.turns import Plan, Samples, take_turn
from rar.benchmarks.latency.work import Contender, Offline, Opened, Queried, Started, WarmUp
from rar.benchmarks.peers import stacks
from rar.runtime import RarError


class TestFigures:
    @pytest.mark.parametrize(("percentile", "samples"), [(50.0, 4), (90.0, 20), (99.0, 200), (99.9, 2000)])
    def test_two_samples_must_lie_beyond_a_percentile(self, percentile: float, samples: int) -> None:
        assert least(percentile) == samples

    def test_a_percentile_is_of_all_samples_and_its_quartiles_are_the_blocks(self) -> None:
        blocks = [np.linspace(0.9, 1.1, 20) + shift for shift in (0.0, 0.02, 0.04)]
        figure, reason = percentile_figure("p90_ms", [block.tolist() for block in blocks])
        assert reason is None
        assert figure is not None
        assert figure["median"] == pytest.approx(1e3 * np.percentile(np.concatenate(blocks), 90))
        own = [1e3 * np.percentile(block, 90) for block in blocks]
        assert figure["q25"] == pytest.approx(np.percentile(own, 25))
        assert figure["count"] == 60

    def test_too_few_samples_give_a_reason_and_no_figure(self) -> None:
        assert percentile_figure("p90_ms", [[1.0] * 10, [1.0] * 9]) == (None, "p90_ms: too short, 19 samples of 20")
        assert block_figure("seconds", [1.0]) == (None, "seconds: too short, 1 of 2 blocks")

    def test_blocks_too_far_apart_give_a_reason_and_no_figure(self) -> None:
        figure, reason = block_figure("pictures_per_second", [10.0, 20.0, 30.0, 40.0])
        assert figure is None
        assert reason == "pictures_per_second: too noisy, blocks differ by 60% where 25% are allowed"
        figure, reason = percentile_figure("p50_ms", [[1.0] * 10, [2.0] * 10])
        assert figure is None
        assert "too noisy" in str(reason)


class TestServer:
    def test_arrivals_are_seeded_and_come_at_their_rate(self) -> None:
        times = arrivals(50.0, 20_000, seed=1)
        np.testing.assert_array_equal(times, arrivals(50.0, 20_000, seed=1))
        gaps = np.diff(times)
        assert gaps.min() >= 0
        # Of an exponential distribution mean and deviation are equal; 20,000 gaps tell both within 5 %.
        assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
        assert gaps.std() == pytest.approx(1 / 50, rel=0.05)

    def test_requests_that_wait_are_answered_together(self, tmp_path: Path) -> None:
        batches: list[int] = []

        def answer(pictures: Sequence[Path], size: int) -> None:
            batches.append(len(pictures))
            time.sleep(0.005)

        served = serve(answer, [tmp_path], rate=2000.0, requests=60, most=8, bound=10.0, seed=0)
        assert sum(batches) == len(served.seconds) == 60
        assert max(batches) == 8
        assert served.whole
        assert min(served.seconds) >= 0.005

    def test_a_queue_that_only_grows_is_given_up(self, tmp_path: Path) -> None:
        served = serve(
            lambda pictures, size: time.sleep(0.01), [tmp_path], rate=1e5, requests=10_000, most=1, bound=1e-3, seed=0
        )
        assert not served.whole
        assert len(served.seconds) < 100
        assert served.p99() == float("inf")

    def test_the_highest_rate_is_found_by_halving(self) -> None:
        def try_rate(rate: float) -> Served:
            return Served(rate, [rate / 100], whole=True)  # one percent of the rate in seconds

        rate, runs = highest_rate(try_rate, top=100.0, bound=0.7, steps=6)
        assert [run.rate for run in runs[:4]] == [50.0, 75.0, 62.5, 68.75]
        assert 70 - 100 / 2**5 <= rate <= 70
        assert highest_rate(try_rate, top=100.0, bound=0.0, steps=3)[0] == 0


class TestWarmUp:
    def test_takes_fewer_queries_of_a_slow_stack(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        opened = Opened(lambda pictures, batch: [None] * len(pictures))
        warm_up = WarmUp([tmp_path] * 9)
        assert len(warm_up(opened).warm) == 5
        monkeypatch.setattr("rar.benchmarks.latency.work._WARM_SECONDS", -1.0)
        assert len(warm_up(opened).warm) == 1

    @pytest.mark.parametrize("compiles", [False, True])
    def test_a_stack_that_compiles_goes_through_each_batch_size_before_it_is_timed(
        self, compiles: bool, tmp_path: Path
    ) -> None:
        answered = []

        def answer(pictures: Sequence[Path], batch: int) -> list[None]:
            answered.append(len(pictures))
            return [None] * len(pictures)

        done = Offline([tmp_path], 0.01, (4,))(Opened(answer, (4,), compiles))
        assert done[4][0] > 0
        assert done[4][0] == sum(answered) - (4 if compiles else 0)


class TestPeersThatFail:
    @pytest.mark.parametrize(
        ("opener", "told"),
        [
            (partial(int, "x"), "ValueError: invalid literal"),  # it raises
            (partial(os._exit, 3), "exit code 3"),  # it takes its process with it
        ],
    )
    def test_mark_their_own_row_alone(self, opener: Callable[[], Any], told: str, tmp_path: Path) -> None:
        plan = Plan([tmp_path], ["single stream", "offline"], blocks=2, seconds=1.0, least=20)
        samples = Samples()
        peer = Contender("torch-eager", "retrieve", opener)
        take_turn(peer, samples, plan, 0, nullcontext, lambda: None)
        rows = rows_of(peer, samples, plan)
        assert [row["scenario"] for row in rows] == ["cold start", "single stream", "offline"]
        assert all(told in row["reason"] and row["figures"] == {} for row in rows)

    def test_this_runtimes_own_failure_ends_the_run(self, tmp_path: Path) -> None:
        plan = Plan([tmp_path], ["offline"], blocks=2, seconds=1.0, least=20)
        with pytest.raises(RarError, match="invalid literal"):
            take_turn(Contender("rar", "retrieve", partial(int, "x")), Samples(), plan, 0, nullcontext, lambda: None)


class TestRatios:
    def test_the_best_baseline_counts_block_by_block(self) -> None:
        def samples(seconds: float, rate: int, resident: int) -> Samples:
            started = Started([seconds], resident, resident, (1,), {})
            queried = Queried([seconds] * 20, [{"embed": seconds}] * 20)
            return Samples(
                [seconds, seconds * 1.1], [started] * 2, {"single stream": [queried] * 2}, [(rate, 1.0)] * 2, {}
            )

        measured = [
            (Contender("rar", "retrieve", partial(int)), samples(0.01, 100, 10)),
            (Contender("torch-eager", "retrieve", partial(int)), samples(0.05, 10, 40)),
            (Contender("torch-best", "retrieve", partial(int)), samples(0.02, 8, 50)),
            (Contender("fastembed", "retrieve", partial(int)), samples(0.01, 90, 10)),  # no PyTorch
        ]
        best = {"torch-eager", "torch-best"}
        found = ratios(measured, {"retrieve": best, "rank": set(), "rank, gated": set()})
        told = {row["figure"]: (row["against"], round(row["ratio"]["median"], 3), row["reached"]) for row in found}
        assert told == {
            "offline pictures_per_second": ("torch-eager", 10.0, True),
            "single stream p90_ms": ("torch-best", 2.0, False),
            "cold start seconds": ("torch-best", 2.0, False),
            "cold start resident_bytes": ("torch-eager", 4.0, True),
        }

    @pytest.mark.parametrize(
        ("theirs", "reached"),
        [([0.5, 0.6, 0.8], True), ([0.1, 0.2, 0.11], False), ([0.1, 0.5, 0.9], None)],  # five times as long is aimed at
    )
    def test_a_target_is_reached_or_missed_by_both_quartiles(self, theirs: list[float], reached: bool | None) -> None:
        def samples(cold: list[float]) -> Samples:
            return Samples(cold)

        measured = [
            (Contender("rar", "retrieve", partial(int)), samples([0.1, 0.1, 0.1])),
            (Contender("torch-eager", "retrieve", partial(int)), samples(theirs)),
        ]
        (row,) = ratios(measured, {"retrieve": {"torch-eager"}})
        assert (row["figure"], row["reached"]) == ("cold start seconds", reached)

    def test_too_few_samples_or_blocks_have_none(self) -> None:
        def samples(cold: list[float], queries: int) -> Samples:
            queried = Queried([0.1] * queries, [{}] * queries)
            return Samples(cold, queries={"single stream": [queried] * 2})

        measured = [
            (Contender("rar", "retrieve", partial(int)), samples([0.1], 20)),
            (Contender("torch-eager", "retrieve", partial(int)), samples([0.1], 9)),
        ]
        assert ratios(measured, {"retrieve": {"torch-eager"}}) == []


class TestRun:
    @pytest.fixture
    def common(self, openclip_pictures: Path, labelled_folder: Path, tiny_openclip: tuple[Path, Path]) -> list[str]:
        encoder = ["--encoder", "open_clip", *map(str, tiny_openclip)]
        images = ["--images", str(labelled_folder)]
        return ["latency", str(openclip_pictures), *images, *encoder, "--threads", "1", "--quick", "--seconds", "0.2"]

    def test_every_scenario_has_its_rows_and_its_ratios(
        self, common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(turns, "_REQUESTS", 20)
        out = tmp_path / "latency.json"
        scenarios = ["--scenarios", "single-stream", "multi-stream", "offline", "server"]
        (eager,) = stacks.chosen(["torch-eager"])
        absent = replace(eager, name="absent", needs={"no_such_module": "no-such-package"})
        monkeypatch.setattr(stacks, "PEERS", (eager, replace(eager, name="equal", way="retrieve, fp32"), absent))
        monkeypatch.setattr(
            "rar.benchmarks.latency.run.BASELINES",
            {"retrieve": {"torch-eager"}, "retrieve, fp32": {"equal"}, "rank": set()},
        )
        # Blocks of a tenth of a second on a machine that others share: noise is not what is tested.
        monkeypatch.setattr("rar.benchmarks.latency.rows.NOISY_ELSE", 1e9)
        monkeypatch.setattr("rar.benchmarks.latency.rows.NOISY", {})
        chosen = ["--peers", "torch-eager", "equal", "absent", "--fp32", common[1]]
        assert main([*common, *scenarios, *chosen, "--bound-ms", "10000", "--out", str(out)]) == 0
        result = json.loads(out.read_text())
        assert (result["format"], result["benchmark"], result["missing"]) == (1, "latency", [])
        rows = {(row["stack"], row["path"], row["scenario"]): row for row in result["results"]}
        ours = ["cold start", "warm-up", "single stream", "multi stream", "offline", "server"]
        assert set(rows) == {
            *(("rar", way, scenario) for way in ("retrieve", "retrieve, fp32", "rank") for scenario in ours),
            *(
                (stack, way, scenario)
                for stack, way in (("torch-eager", "retrieve"), ("equal", "retrieve, fp32"))
                for scenario in ("cold start", "warm-up", ours[2], ours[4])
            ),
            *(("absent", "retrieve", scenario) for scenario in ("single stream", "offline")),
        }
        for way, stages in (
            ("retrieve", {"embed", "search"}),
            ("retrieve, fp32", {"embed", "search"}),
            ("rank", {"embed", "search", "rank", "fuse"}),
        ):
            row = rows["rar", way, "single stream"]
            assert {"decode", "preprocess", *stages} <= set(row["stages"])
            assert 0 < row["stages_share"]["median"] <= 1
            curve = list(row["percentiles_ms"].values())
            assert curve == sorted(curve)
            assert curve[0] > 0
            assert rows["rar", way, "cold start"]["figures"]["peak_bytes"]["median"] > 1e7
            offline = rows["rar", way, "offline"]
            assert offline["batch"] in (1, 8, 16, 32)
            assert set(offline["by_batch"]) == {"1", "8", "16", "32"}
            server = rows["rar", way, "server"]
            assert server["bound_ms"] == 10_000
            rate = server["figures"]["pictures_per_second"]["median"]
            assert 0 < rate <= max(run["rate"] for run in server["tried"])
        assert rows["absent", "retrieve", "offline"]["reason"] == "not installed: pip install no-such-package"
        against = {(row["path"], row["against"]) for row in result["ratios"]}
        assert against == {("retrieve", "torch-eager"), ("retrieve, fp32", "equal")}
        assert result["fp32"]["precision"] == "fp32"
        assert {row["figure"] for row in result["ratios"]} >= {"offline pictures_per_second", "cold start seconds"}
        assert result["providers"] == {"clip/visual.onnx": "cpu"}
        assert result["settings"]["memory_entries"] > 0
        # A number only where something measured it, and what or why not in any case.
        metered = result["power"] in ("nvml", "sysfs")
        assert metered or result["power"].startswith("no power is measured: ")
        assert all(
            ("power" in row) == (metered and row["scenario"] == "offline") for row in rows.values() if row["figures"]
        )
        assert "single stream" in capsys.readouterr().out

    def test_an_interrupted_run_keeps_what_it_has(self, common: list[str], tmp_path: Path) -> None:
        out = tmp_path / "latency.json"
        command = [sys.executable, "-m", "rar.benchmarks.cli", *common, "--rank", "none", "--peers", "none"]
        # The second scenario takes longer than anyone waits for it.
        command = [*command, "--scenarios", "single-stream", "offline", "--seconds", "8", "--out", str(out)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not (out.is_file() and _reached(out)):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        assert "Traceback" not in errors
        result = json.loads(out.read_text())
        row = next(row for row in result["results"] if row["scenario"] == "single stream")
        assert row["percentiles_ms"]
        assert {"stack": "rar", "path": "retrieve", "scenario": "offline", "blocks": 0} in result["missing"]

    @pytest.mark.parametrize(
        ("bad", "told"),
        [
            (["--scenarios", "server"], "server needs offline"),
            (["--peers", "caffe"], "'caffe' is unknown"),
            (["--gate", "unsure"], "no gate is fitted"),
            (["--rank", "none", "--gate", "off"], "--gate needs a ranker"),
            (["--k", "9"], "k=9"),
            (["--seconds", "-1"], "above 0"),
            (["--model", "vit-b-32-random"], "either a BUNDLE or --model"),
            (["--fp32", "other"], "the bundle's own encoder"),
        ],
    )
    def test_settings_that_measure_nothing_are_refused(
        self, common: list[str], pictures_bundle: Path, bad: list[str], told: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bad = [str(pictures_bundle) if word == "other" else word for word in bad]
        assert main([*common, *bad]) == 2
        assert told in capsys.readouterr().err


def _reached(out: Path) -> bool:
    """Whether the single stream of the first block is in the file."""
    result = json.loads(out.read_text())
    return any(row["scenario"] == "single stream" and row["figures"] for row in result["results"])
