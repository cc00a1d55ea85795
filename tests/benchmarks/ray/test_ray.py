"""The comparison with Ray really runs: clusters of one and of two nodes, and plain processes, in turns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rar.benchmarks.cli import main
from rar.benchmarks.ray.command import summary, table
from rar.benchmarks.ray.engines import Measured
from rar.benchmarks.ray.processes import Family, Used


def test_a_short_one(pictures_bundle: Path, labelled_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "ray.json"
    argv = ["ray", str(pictures_bundle), "--images", str(labelled_folder), "--count", "640", "--rounds", "1"]
    assert main([*argv, "--workers", "2", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert set(result["engines"]) == set(table(2))
    for name, one in result["engines"].items():
        assert one["rate"]["median"] > 0
        if "CPU" in name or "actor" in name:
            assert 0 < one["own_ms"]["median"] < one["cpu_ms"]["median"], name
    assert all(one["median"] > 0 for one in result["ratios"].values())


def test_cpu_time_of_what_recognises_is_told_apart() -> None:
    family = Family()
    before = family.used()
    busy = "import time\nwhile time.process_time() < 0.7: pass\ninput()"
    with (
        subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other,
        subprocess.Popen(
            [sys.executable, "-c", f"# rar.serving.isolated\n{busy}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as recognising,
    ):
        while (now := family.used() - before).recognising < 0.5 or now.own < 0.5:
            assert other.poll() is None
            assert recognising.poll() is None
        for one in (other, recognising):
            one.communicate(b"\n")
    assert (family.used() - before).all >= 1, "what ended counts as it was last seen"


def test_ratios_are_of_one_round_and_of_the_best_without_ray() -> None:
    def round_of(stream: int, plain: int, actors: int, two: float) -> dict[str, Measured]:
        rates = dict(zip(table(2), (stream, plain, actors, actors, 10, 20), strict=True))
        cpu = dict.fromkeys(rates, 1.0) | {"two nodes of one CPU": two}
        return {name: Measured(rate, 1.0, Used(cpu[name] * rate / 10, 0.09 * rate)) for name, rate in rates.items()}

    found = summary([round_of(20, 25, 20, 1.0), round_of(40, 25, 36, 1.25)])
    assert found["ratios"]["actors of one thread / best without"]["median"] == pytest.approx((0.8 + 0.9) / 2)
    assert found["ratios"]["two nodes / one, by CPU"]["median"] == pytest.approx((2 + 1.6) / 2)
    assert found["engines"]["one actor"]["cpu_ms"]["median"] == pytest.approx(100)
    assert found["engines"]["one actor"]["own_ms"]["median"] == pytest.approx(10)


@pytest.mark.parametrize("options", [["--count", "0"], ["--rounds", "0"], ["--workers", "1"]])
def test_settings_that_cannot_be(pictures_bundle: Path, labelled_folder: Path, options: list[str]) -> None:
    assert main(["ray", str(pictures_bundle), "--images", str(labelled_folder), *options]) == 2
