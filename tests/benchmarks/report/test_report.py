"""The report: one page, nothing from outside, nothing that a label could smuggle in, the same as Markdown."""

from __future__ import annotations

import json
import os
import re
import subprocess
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from chromium import chromium
from edge.fetch import AbsentError
from PIL import Image

from rar.benchmarks.cli import main
from rar.benchmarks.report.charts import Bar, around_zero, bars, lines, number, whiskers
from rar.export.page.thumbnail import thumbnail

RESULTS = Path(__file__).resolve().parents[3] / "benchmarks/results"
HOSTILE = "<script>alert('x')</script> | ![a](http://evil.example/a.png) \"'&"
SPREAD = {"median": 10.0, "q25": 9.0, "q75": 11.0, "count": 40}
SHARE = {"percent": 60.0, "standard_error": 2.0, "count": 600}
ENVIRONMENT = {
    "date": "2026-11-21", "cpu": "AMD EPYC", "instruction_sets": ["fma", "avx2"], "cores": 2, "threads": 2,
}  # fmt: skip
WIDTHS = (390, 800, 1280)
VOID = {"meta", "img", "circle", "line", "rect", "polyline", "br"}


def row(stack: str, scenario: str, **more: Any) -> dict[str, Any]:
    own = {"stack": stack, "path": "retrieve", "scenario": scenario, "reason": None, "stages": None, "figures": {}}
    return {**own, **more}


def latency() -> dict[str, Any]:
    stages = {"decode": SPREAD, "embed": {**SPREAD, "median": 30.0}}
    percentiles = {"50": 40.0, "90": 44.0, "99": 60.0}
    return {
        "format": 1, "benchmark": "latency", "command": "rar-bench latency b", "environment": ENVIRONMENT,
        "results": [
            row("rar", "single stream", figures={"p90_ms": SPREAD, "p99_ms": None},
                reason="p99_ms: too short, 9 of 200", stages=stages, stages_share={**SPREAD, "median": 0.98},
                percentiles_ms=percentiles),
            row("rar", "offline", figures={"pictures_per_second": SPREAD}, by_batch={"1": 20.0, "8": 60.0},
                power={"meter": "nvml", "watts": {**SPREAD, "median": 42.5}, "joules_per_picture": 0.7}),
            row(HOSTILE, "offline", reason="not installed: pip install it"),
        ],
        "ratios": [{"path": "retrieve", "figure": "offline", "against": "torch-eager", "target": 3.0, "reached": True,
                    "ratio": {"median": 9.4, "q25": 9.2, "q75": 9.6, "count": 5}}],
        "missing": [{"stack": "torch-eager", "path": "retrieve", "scenario": "server", "blocks": 0}],
    }  # fmt: skip


def accuracy(top1: float = 60.0) -> dict[str, Any]:
    reliability = {"ece": 12.3, "brier": 0.21, "bins": [
        {"low": 20.0, "high": 40.0, "count": 3, "confidence": 31.0, "accuracy": 33.3},
        {"low": 80.0, "high": 100.0, "count": 7, "confidence": 91.0, "accuracy": 71.4},
    ]}  # fmt: skip
    calibration = {"score": "similarity (cosine)", "scale": 100.0, "as_is": reliability, "fitted": None}
    rows = {
        f"k={k}: none": {"k": k, "top1": {**SHARE, "percent": top1}, "missed": 10.0, "misranked": 30.0,
                         "calibration": calibration}
        for k in (3, 5)
    }  # fmt: skip
    pm = {"mean": 55.5, "sd": 1.5, "draws": [54.0, 57.0]}
    return {
        "format": 1, "benchmark": "accuracy", "command": "rar-bench accuracy b", "environment": ENVIRONMENT,
        "test": HOSTILE, "pictures": 10, "results": rows,
        "shots": {"1 shots": {"retrieval": pm}, "4 shots": {"retrieval": {**pm, "sd": None}}},
        "published": [{"source": "RAR", "table": "2", "protocol": "4 pictures a class", "dataset": "dtd", "shots": 4,
                       "metric": "top1", "method": "CLIP+KNN", "value": 47.5, "retrieval": True, "measured": 50.0,
                       "difference": 2.5}],
        "confusion": {"row": "k=5: none", "pairs": [
            {"true": HOSTILE, "answered": "dog", "wrong": 2, "of": 5, "pictures": ["a.jpg", "../secret.jpg"]}]},
    }  # fmt: skip


def detection() -> dict[str, Any]:
    top1 = {"small": SHARE, "all": {**SHARE, "percent": 71.5}}
    return {
        "format": 1, "benchmark": "detection", "command": "rar-bench detection b", "environment": ENVIRONMENT,
        "results": {"CLIP on crops": {"top1": top1, "AP": {"AP": 33.25, "APr": None}, "milliseconds": 12.5}},
        "sweep": [{"grow": grow, "blur": None, "top1": top1} for grow in (1.0, 1.5)],
    }  # fmt: skip


def memory() -> dict[str, Any]:
    speeds = {"queries_per_second_1": {**SPREAD, "median": 9000.0}, "queries_per_second_32": SPREAD}
    contender = {
        "sweep": [{"recall": 97.5, **speeds}, {"recall": 100.0, **speeds}], "index_bytes": 4000,
        "build": {"cpu_seconds": 1.5},
    }  # fmt: skip
    data = {"data": {"entries": 1000}, "dim": 64, "contenders": {"rar": contender}}
    return {
        "benchmark": "memory", "command": "rar-bench memory", "environment": ENVIRONMENT, "results": {"made up": data},
        "targets": [{"target": "at most 300 us", "measured": "120 us", "reached": True}],
    }  # fmt: skip


class Page(HTMLParser):
    """What a browser would see: balanced tags, cells, and what is fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.urls: list[str] = []
        self.cells: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.urls += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "action", "data")]
        assert not [key for key, _ in attrs if key.startswith("on")]
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def write(folder: Path, **results: dict[str, Any]) -> list[str]:
    folder.mkdir(exist_ok=True)
    for name, result in results.items():
        (folder / f"{name}.json").write_text(json.dumps(result))
    return [str(folder / f"{name}.json") for name in results]


def report(folder: Path, *arguments: str) -> tuple[str, str]:
    out, markdown = folder / "r.html", folder / "r.md"
    assert main(["report", *arguments, "--out", str(out), "--markdown", str(markdown)]) == 0
    return out.read_text(), markdown.read_text()


def committed() -> list[str]:
    names = ("latency", "ranking-grocery-k", "ranking-grocery-shots", "footprint", "preprocess-1",
             "rank-starter", "new-classes")  # fmt: skip
    return [str(RESULTS / f"{name}.json") for name in names]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("report")
    made = write(folder, latency=latency(), accuracy=accuracy(), detection=detection(), memory=memory())
    return report(folder, *made, *committed())


def test_the_page_is_whole_and_fetches_nothing(both: tuple[str, str]) -> None:
    page = Page(both[0])
    assert page.seen.count("h1") == 1
    assert not {"script", "iframe", "link", "object", "form"} & set(page.seen)
    assert all(url.startswith("#s") for url in page.urls)
    assert not re.search(r"@import|url\(", both[0])
    assert 'name="viewport" content="width=device-width' in both[0]
    assert "prefers-color-scheme: dark" in both[0]


def test_a_label_is_only_ever_text(both: tuple[str, str]) -> None:
    html, markdown = both
    assert "<script" not in html
    assert "<script" not in markdown
    assert "![a]" not in markdown
    assert HOSTILE in Page(html).cells


def test_markdown_has_every_figure_that_the_page_shows_unopened(both: tuple[str, str]) -> None:
    html, markdown = both
    plain = markdown.replace("\\", "").replace("&lt;", "<").replace("&amp;", "&")
    first, folded = html.split('<section class="folded"')[0], html.split('<section class="folded"')[1:]
    assert len(folded) > 5
    assert "<h2>How it was measured</h2>" in folded[-1]
    cells = [" ".join(cell.split()) for cell in re.findall(r"<t[dh][^>]*>([^<]*)<", first)]
    cells = [unescape(cell) for cell in cells]
    assert len(cells) > 100
    assert not [cell for cell in cells if cell not in plain]
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    for head, rule in pairwise(tables):
        if rule.startswith("| --- |"):
            assert len(re.findall(r"(?<!\\)\|", head)) == len(re.findall(r"(?<!\\)\|", rule))


@pytest.mark.parametrize(
    "told",
    [
        "missing: torch-eager, retrieve, server, blocks 0 (latency.json)",
        ">p99_ms: too short, 9 of 200</td>", "not installed: pip install it",
        "98.0 % of the end-to-end time", "42.5", "CLIP+KNN", "+2.5", "Classes taken for each other", "33.2",
        "queries/s, one at a time", "9,000", "at most 300 us", "pictures a second by batch",
    ],
)  # fmt: skip
def test_what_was_measured_stands_in_it(both: tuple[str, str], told: str) -> None:
    assert told in both[0]


def test_it_begins_with_what_a_buyer_asks_and_each_stack_is_a_bar_with_its_quartiles(tmp_path: Path) -> None:
    made = latency()
    made["results"] += [
        row(stack, scenario, figures={figure: {**SPREAD, "median": value}})
        for stack, value in (("rar", 10.0), ("torch-best", 10.5))
        for scenario, figure in (("single stream", "p99_ms"), ("cold start", "resident_bytes"))
    ]
    made["results"].append(row("torch-best", "offline", figures={"pictures_per_second": SPREAD}))
    html, markdown = report(tmp_path, *write(tmp_path, latency=made, accuracy=accuracy()))
    first = html.split("<section")[1]
    assert "<h2>At a glance</h2>" in first
    asked = re.findall(r"<figcaption>(How [^:]*)", first)
    assert asked == ["How fast", "How late", "How much memory", "How right"]
    assert "2 x AMD EPYC, avx2, 2026-11-21" in first
    assert "| torch-best, retrieve | 10.5 | 9 | 11 |" in markdown


def test_a_bars_line_goes_from_its_low_to_its_high() -> None:
    svg = whiskers([Bar("rar, a", 50.0, 40.0, 100.0), Bar(HOSTILE, 25.0, 20.0, 30.0)], "ms")
    assert "<script" not in svg
    (ours, theirs) = (float(width) for width in re.findall(r'<rect x="0.0" y="\d+" width="([\d.]+)"', svg))
    lines_drawn = [tuple(map(float, pair)) for pair in re.findall(r'x1="([\d.]+)" x2="([\d.]+)"', svg)]
    assert theirs == pytest.approx(ours / 2, abs=0.1)
    assert lines_drawn[0] == pytest.approx((0.8 * ours, 2 * ours), abs=0.2)
    assert whiskers([], "ms").startswith("<svg")


def test_a_mark_lies_on_its_side_of_zero() -> None:
    rows = [Bar("gained", 20.0, 10.0, 30.0), Bar(HOSTILE, -20.0, -30.0, -10.0), Bar("same", 1.0, -5.0, 7.0)]
    svg = around_zero(rows, "%")
    assert "<script" not in svg
    zero = float(re.findall(r'class="grid" x1="([\d.]+)"', svg)[0])
    marks = re.findall(r'<circle cx="([\d.]+)" cy="\d+" r="6" style="fill:var\(--(\w+)\)"', svg)
    places = [float(x) - zero for x, _ in marks]
    assert places[0] == pytest.approx(-places[1], abs=0.2)
    assert places[0] > places[2] > 0
    assert [colour for _, colour in marks] == ["s2", "s1", "s6"]
    assert around_zero([], "%").startswith("<svg")


def test_pictures_are_shown_when_asked_for_and_from_their_folder_only(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("pictures/a.jpg", "secret.jpg"):
        Image.effect_noise((640, 480), 90).save(tmp_path / name)
    made = write(tmp_path, accuracy=accuracy())
    assert "data:image" not in report(tmp_path, *made)[0]
    html = report(tmp_path, *made, "--pictures", str(tmp_path / "pictures"))[0]
    images = [url for url in Page(html).urls if url.startswith("data:image/jpeg;base64,")]
    assert len(images) == 1
    assert len(images[0]) < 8000
    assert thumbnail(tmp_path / "pictures/../secret.jpg", tmp_path / "pictures") is None
    assert thumbnail(tmp_path / "pictures/gone.jpg", tmp_path / "pictures") is None


def test_two_runs_are_compared_beyond_the_noise(tmp_path: Path) -> None:
    old, new = latency(), latency()
    new["ratios"][0]["ratio"] = {"median": 12.0, "q25": 11.8, "q75": 12.2, "count": 5}
    older = write(tmp_path / "old", latency=old, accuracy=accuracy(60.0))
    # 4 points of two shares with a standard error of 2 each are noise (5.5), 6 are not.
    for top1, word in ((64.0, "same"), (66.0, "better"), (54.0, "worse")):
        newer = write(tmp_path / "new", latency=new, accuracy=accuracy(top1))
        _, markdown = report(tmp_path, *newer, "--against", *older)
        assert f"| k=3: none | {word} | {top1 - 60:+.1f} | 5.5 |" in markdown
        assert re.search(r"torch-eager \| better \| \+27.7%|\| better \| \+27.7% \|", markdown)
    alone = report(tmp_path, *write(tmp_path, detection=detection()), "--against", *older)[1]
    assert "No older file of this benchmark was given." in alone


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        ("{", "not a result file"),
        ("[]", "not a result file of rar-bench"),
        ('{"environment": {}}', "does not say what was measured"),
        ('{"environment": {}, "format": 2, "benchmark": "latency"}', "is of format 2, this release reads 1"),
        ('{"environment": {}, "format": 1, "benchmark": "latency"}', "is not laid out as `rar-bench latency`"),
        ('{"environment": {}, "benchmark": "accuracy", "results": [1]}', "is not laid out as `rar-bench accuracy`"),
    ],
)
def test_a_file_that_is_no_result_is_named(
    content: str | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    assert main(["report", str(tmp_path / "a.json"), "--out", str(tmp_path / "r.html")]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "a.json" in error
    assert not (tmp_path / "r.html").exists()


def test_charts_survive_any_figures() -> None:
    for points in ([], [(1.0, 5.0)], [(0.0, 0.0), (0.0, 0.0)], [(1.0, float("nan"))], [(1e-9, 1e9), (1e9, 1e-9)]):
        for log in (False, True):
            assert "NaN" not in lines({HOSTILE: points}, "x", "y", log_x=log, log_y=log)
    assert "nan" not in bars([("a", 0.0)], "ms", waterfall=True)
    assert bars([], "ms").startswith("<svg")
    assert [number(value) for value in (0.0, 0.01234, 1.0, 12.34, 1234.5, float("nan"))] == [
        "0", "0.0123", "1", "12.3", "1,234", "-"
    ]  # fmt: skip


def test_a_waterfalls_steps_begin_where_the_last_ended() -> None:
    svg = bars([("decode", 1.0), ("embed", 3.0)], "ms", waterfall=True)
    (first, _), (second, width), (total, whole) = (
        (float(x), float(w)) for x, w in re.findall(r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)"', svg)
    )
    assert first == total
    assert second - first == pytest.approx(whole / 4, abs=0.2)
    assert second + width == pytest.approx(total + whole, abs=0.2)


def test_in_a_browser_it_follows_the_colour_scheme_and_fits_a_phone(both: tuple[str, str], tmp_path: Path) -> None:
    pytest.importorskip("playwright", reason="the browser is fetched with what it is driven by")
    try:
        browser = chromium()
    except AbsentError as error:
        pytest.skip(f"no Chromium: {error}")
    (tmp_path / "r.html").write_text(both[0])
    # Everything is opened; what is wider than its box is cut.
    (tmp_path / "frame.html").write_text(
        "".join(f"<iframe src=r.html width={width} height=800 style='border:0'></iframe>" for width in WIDTHS)
        + "<pre id=told></pre><script>onload = () => {"
        "const all = Array.from({length: frames.length}, (_, i) => { const page = frames[i].document;"
        "page.querySelectorAll('details').forEach(one => one.open = true);"
        "const boxes = [page.documentElement, ...page.querySelectorAll('.scroll, td, th')];"
        "return boxes.filter(one => one.scrollWidth > one.clientWidth + 1).length });"
        "const page = frames[0].document; told.textContent = [all.join(','),"
        "frames[0].getComputedStyle(page.body).backgroundColor, page.querySelectorAll('svg').length].join(';') }"
        "</script>"
    )
    told = {}
    for scheme in (0, 1):  # Blink's numbers for dark and light
        done = subprocess.run(
            [str(browser.program), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
             f"--blink-settings=preferredColorScheme={scheme}", "--virtual-time-budget=5000", "--dump-dom",
             f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "frame.html").as_uri()],
            capture_output=True, text=True, check=True, timeout=300, env={**os.environ, **browser.environment},
        )  # fmt: skip
        found = re.search(r"<pre[^>]*>([\d,]+);([^;]*);(\d+)</pre>", done.stdout)
        assert found, done.stdout[-500:]
        assert found[1] == "0,0,0", f"cut at {WIDTHS}"
        assert int(found[3]) >= 8
        told[scheme] = found[2]
    assert told == {0: "rgb(20, 23, 26)", 1: "rgb(255, 255, 255)"}
