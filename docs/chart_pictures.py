"""Draws docs/memory-recall-qps.svg and docs/detection-scale.svg: charts of `rar-bench report`, one below the other.

python docs/chart_pictures.py
"""

import re
from importlib import resources
from pathlib import Path

from rar.benchmarks.record import read
from rar.benchmarks.report import accuracy, others
from rar.benchmarks.report.document import Chart, Section

WIDTH, HEAD = 720, 28
DRAWN = {
    "memory-recall-qps": ("memory.json", others.memory),
    "detection-scale": ("detection-scale.json", accuracy.detection),
}


def picture(sections: list[Section], style: str) -> str:
    """An SVG of all charts with their titles, in the report's colours on white."""
    parts, top = [], 0
    for chart in (block for section in sections for block in section.blocks if isinstance(block, Chart)):
        height = int(chart.svg.split('viewBox="0 0 ', 1)[1].split('"')[0].split()[1])
        parts.append(f'<text x="8" y="{top + 18}" font-weight="bold">{chart.title}</text>')
        parts.append(chart.svg.replace("<svg", f'<svg y="{top + HEAD}" width="{WIDTH}" height="{height}"', 1))
        top += HEAD + height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}"><style>{style}</style>'
        f'<rect width="{WIDTH}" height="{top}" fill="white"/>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    """Writes both pictures."""
    here = Path(__file__).parent
    css = resources.files("rar.benchmarks.report").joinpath("report.css").read_text(encoding="utf-8")
    light = dict(re.findall(r"--(\w+): (#\w+)", css.split("@media", 1)[0]))
    style = "".join(re.findall(r"^svg [.t][^\n]+$", css, re.MULTILINE))
    for name, (file, tell) in DRAWN.items():
        sections = tell(read(here.parent / "benchmarks" / "results" / file))
        drawn = re.sub(r"var\(--(\w+)\)", lambda name: light[name[1]], picture(sections, style))
        (here / f"{name}.svg").write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
