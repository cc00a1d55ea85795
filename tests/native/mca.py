"""Instructions of the inner loops of each instruction set's kernels, and llvm-mca's estimate of their cycles.

    python3 mca.py [--mca llvm-mca-19] [--cross aarch64-linux-gnu-g++] [--native g++]

Prints the tables of docs/arm.md. Nothing is run: the sources are compiled with the wheel's flags, the loops taken out
of the objects' code, and llvm-mca (16 or later, for Neoverse V2) told to repeat them. It knows pipes and latencies, not
caches, and every load hits. Its model of Cortex-A78 is that of Cortex-A57; Neoverse N1, which it has a model of, is
the nearer relative of Orin's core.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "cpp_ext"
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off")
REPEATED = 300

# Steps that the kernels' own loops do not show by themselves, in loops of their own.
PROBE = """
#include "{source}"
{begin}
namespace rar {{
void probe_turn(const std::uint8_t* const* rows, std::int64_t pixels, std::uint8_t* strip) {{
    for (std::int64_t x = 0; x < pixels; x += Isa::kTurnPixels)
        Isa::turn(rows, x * kChannels, 64, strip + x * kChannels * Isa::kLanes);
}}
void probe_floats(const std::uint8_t* sums, std::int64_t count, const Scaling& given, float* out) {{
    const Scaling scaling = given;
    for (std::int64_t x = 0; x < count; x += Isa::kLanes)
        Isa::write_floats(Isa::multiplied(Isa::clip(Isa::load(sums + x * 4)), 1, scaling), out + x, Isa::kLanes);
}}
void probe_halves(const std::uint8_t* sums, std::int64_t count, const Scaling& given, std::uint16_t* out) {{
    const Scaling scaling = given;
    for (std::int64_t x = 0; x < count; x += Isa::kLanes)
        Isa::write_halves(Isa::multiplied(Isa::clip(Isa::load(sums + x * 4)), 1, scaling), out + x, Isa::kLanes);
}}
}}
{end}
"""


@dataclass(frozen=True)
class Form:
    """One instruction set: its sources, the rows of a strip, the values a step of a distance, the cores it is for.

    `taps` are those of a group.
    """

    name: str
    kernels: str
    distances: str
    lanes: int
    turned: int
    values: int
    cores: tuple[str, ...]
    arm: bool = True
    taps: int = 4


A78, N1, V2 = "cortex-a78", "neoverse-n1", "neoverse-v2"
FORMS = (
    Form("scalar", "", "distance_scalar", 1, 0, 1, (A78, N1, V2)),
    Form("neon", "kernels_neon", "distance_neon", 4, 4, 8, (A78, N1, V2)),
    Form("dotprod", "kernels_dotprod", "distance_dotprod", 4, 4, 16, (A78, N1, V2)),
    Form("i8mm", "kernels_i8mm", "distance_dotprod", 4, 4, 16, (V2,)),
    Form("avx2", "kernels_avx2", "distance_avx2", 8, 4, 8, ("znver3",), arm=False, taps=2),
    Form("avx512", "kernels_avx512", "distance_avx512", 16, 16, 16, ("znver4",), arm=False),
)
CORES = (A78, N1, V2, "znver3", "znver4")


@dataclass(frozen=True)
class Instruction:
    address: int
    operation: str
    operands: str

    @property
    def target(self) -> int | None:
        found = re.search(r"(?:^|[\s,])([0-9a-f]+) <", self.operands)
        return int(found[1], 16) if found and self.operation[0] in "bjct" else None


Code = list[Instruction]


@dataclass(frozen=True)
class Row:
    """A line of the table: what is done, and where its loop and the work of one turn of it are."""

    title: str
    unit: str
    find: Callable[[Form, Objects], Code | None]
    share: Callable[[Form], float]  # of a turn in the unit


class Objects:
    """The functions of each source, compiled for an architecture."""

    def __init__(self, cross: str, native: str, folder: Path) -> None:
        self._compilers = {True: cross, False: native}
        self._folder = folder
        self._known: dict[tuple[str, bool], dict[str, Code]] = {}

    def functions(self, source: str, arm: bool, probed: bool = False) -> dict[str, Code]:
        key = (source + ("+" if probed else ""), arm)
        if key not in self._known:
            path = origin = next(SOURCES.rglob(f"{source}.cpp"))
            if probed:
                path = self._folder / f"{source}_{arm}.cpp"
                begin = re.search(r"^RAR_TARGET_BEGIN.*$", origin.read_text(), re.MULTILINE)
                path.write_text(
                    PROBE.format(
                        source=origin.relative_to(SOURCES),
                        begin=begin[0] if begin else "",
                        end="RAR_TARGET_END" if begin else "",
                    )
                )
            made = self._folder / "object.o"
            tool = self._compilers[arm]
            flags = [*FLAGS, *(["-fno-tree-vectorize"] if source.endswith("_scalar") else [])]
            subprocess.run([tool, *flags, f"-I{SOURCES}", "-c", path, "-o", made], check=True)
            objdump = re.sub(r"g\+\+.*$", "objdump", tool) if arm else "objdump"
            listing = subprocess.run(
                [objdump, "-dC", "--no-show-raw-insn", made], check=True, text=True, capture_output=True
            ).stdout
            self._known[key] = dict(_functions(listing))
        return self._known[key]


def _functions(listing: str) -> Iterator[tuple[str, Code]]:
    for part in re.split(r"\n(?=[0-9a-f]+ <)", listing):
        head = re.match(r"[0-9a-f]+ <(.*)>:\n", part)
        if head is None:
            continue
        lines = re.findall(r"^\s+([0-9a-f]+):\t(?:rep |lock )?(\S+)[ \t]*(.*)$", part, re.MULTILINE)
        yield head[1].replace("(anonymous namespace)::", ""), [Instruction(int(a, 16), o, x) for a, o, x in lines]


def loops(code: Code) -> list[Code]:
    """The loops of one basic block."""
    found = []
    index = {one.address: i for i, one in enumerate(code)}
    for i, one in enumerate(code):
        start = index.get(one.target) if one.target is not None else None
        if start is not None and start <= i and all(inner.target is None for inner in code[start:i]):
            found.append(code[start : i + 1])
    return found


def longest_block(code: Code) -> Code:
    """The longest run of instructions that nothing jumps into or out of."""
    entered = {one.target for one in code if one.target is not None}
    best: Code = []
    run: Code = []
    for one in code:
        if one.address in entered:
            run = []
        run = [*run, one]
        if len(run) > len(best):
            best = run
        if one.target is not None or one.operation.startswith("ret"):
            run = []
    return best


def busiest_loop(code: Code, pattern: str) -> Code | None:
    """Of the loops of one block that with the most instructions of a kind."""
    counted = [(sum(bool(re.search(pattern, one.operation)) for one in loop), loop) for loop in loops(code)]
    return max(counted, key=lambda pair: pair[0])[1] if any(count for count, _ in counted) else None


def function_of(functions: dict[str, Code], name: str) -> Code | None:
    return next((code for full, code in functions.items() if re.search(name, full)), None)


PRODUCTS = r"dot|mla|madd|mul|pmadd|dpbusd"


def resize(form: Form, objects: Objects) -> Code | None:
    if not form.kernels:
        code = function_of(objects.functions("resample_scalar", form.arm), r"horizontal\(")
        return busiest_loop(code, PRODUCTS) if code else None
    code = function_of(objects.functions(form.kernels, form.arm), r"horizontal\(")
    return busiest_loop(code, PRODUCTS) if code else None


def probe(name: str) -> Callable[[Form, Objects], Code | None]:
    def find(form: Form, objects: Objects) -> Code | None:
        if not form.kernels:
            return None
        functions = objects.functions(form.kernels, form.arm, probed=True)
        found = loops(functions[next(full for full in functions if f"probe_{name}(" in full)])
        if found:
            return max(found, key=len)
        called = function_of(functions, rf"Isa::{name}\(")  # where it is too long to be in its loop
        return longest_block(called) if called else None

    return find


def distance(*names: str) -> Callable[[Form, Objects], Code | None]:
    def find(form: Form, objects: Objects) -> Code | None:
        sources = (form.distances, "distance_neon") if form.distances == "distance_dotprod" else (form.distances,)
        for source in sources:
            for one in names:
                code = function_of(objects.functions(source, form.arm), one)
                loop = busiest_loop(code, PRODUCTS) if code else None
                if loop is not None:
                    return loop
        return None

    return find


def rows_times(form: Form, int8: bool = False) -> float:
    values = form.values if int8 or form.distances != "distance_dotprod" else 8
    return values * (1 if form.name == "scalar" else 4) / 64


ROWS = (
    Row("resize, Gaussian blur: taps", "4 taps of 4 rows, 3 channels", resize,
        lambda form: 1 / 48 if form.name == "scalar" else form.lanes * form.taps / 16),
    Row("resize: turn a strip", "16 pixels", probe("turn"), lambda form: form.turned * form.lanes / 16),
    Row("normalise to float32", "16 values", probe("floats"), lambda form: form.lanes / 16),
    Row("normalise to float16", "16 values", probe("halves"), lambda form: form.lanes / 16),
    Row("float16, squared distance", "row of 64",
        distance(r"squared<rar::F16>\(", r"squared_tile<rar::F16, 4>"), rows_times),
    Row("float16, dot product", "row of 64", distance(r"dots_tile<rar::F16, 1, 4>", r"dots<rar::F16>\("), rows_times),
    Row("int8, squared distance", "row of 64",
        distance(r"squared_int8\(", r"squared<rar::I8>\(", r"squared_tile<rar::I8, 4>"),
        lambda form: rows_times(form, int8=True)),
)  # fmt: skip


def cycles(code: Code, core: str, arm: bool, mca: str) -> float:
    """Of one turn, over many."""
    lines = ["again:"]
    for one in code:
        operands = re.sub(r"(^|[\s,])[0-9a-f]+ <.*$", r"\1again", re.sub(r"\s*(//|#\s).*$", "", one.operands))
        lines.append(f"{one.operation} {operands}")
    target = ["-mtriple=aarch64", "-mattr=+dotprod,+i8mm"] if arm else ["-mtriple=x86_64"]
    told = subprocess.run(
        [mca, *target, f"-mcpu={core}", f"--iterations={REPEATED}", "-"],
        input="\n".join(lines) + "\n", text=True, capture_output=True,
    )  # fmt: skip
    total = re.search(r"^Total Cycles:\s+(\d+)", told.stdout, re.MULTILINE)
    if told.returncode != 0 or total is None:
        raise SystemExit(f"{mca} -mcpu={core} failed, LLVM 16 or later is needed:\n{told.stderr}")
    return int(total[1]) / REPEATED


def version(tool: str) -> str:
    lines = subprocess.run([tool, "--version"], check=True, text=True, capture_output=True).stdout.splitlines()
    return next(line.strip() for line in lines if re.search(r"\d+\.\d+\.\d+", line))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mca", default="llvm-mca")
    parser.add_argument("--cross", default="aarch64-linux-gnu-g++")
    parser.add_argument("--native", default="g++")
    options = parser.parse_args()
    print(f"{version(options.cross)}; {version(options.native)}; {version(options.mca)}")
    on = [(core, form) for core in CORES for form in FORMS if core in form.cores]
    counted: list[list[str]] = []
    estimated: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        objects = Objects(options.cross, options.native, Path(folder))
        for row in ROWS:
            code = {form: row.find(form, objects) for form in FORMS}
            counted.append([f"{len(code[form] or []) / row.share(form):.0f}" if code[form] else "" for form in FORMS])
            estimated.append(
                [
                    f"{cycles(loop, core, form.arm, options.mca) / row.share(form):.1f}" if (loop := code[form]) else ""
                    for core, form in on
                ]
            )
    print_table("instructions", [form.name for form in FORMS], counted)
    print_table("cycles, estimated", [f"{form.name}, {core}" for core, form in on], estimated)


def print_table(title: str, columns: list[str], cells: list[list[str]]) -> None:
    print(f"\n| {title} | per | " + " | ".join(columns) + " |")
    print("|---|---|" + "---:|" * len(columns))
    for row, line in zip(ROWS, cells, strict=True):
        print(f"| {row.title} | {row.unit} | " + " | ".join(line) + " |")


if __name__ == "__main__":
    main()
