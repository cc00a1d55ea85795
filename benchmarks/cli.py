"""`rar-bench`: where the time goes and what accuracy costs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from rar.runtime.cli.arguments import Parser
from rar.runtime.cli.guard import guard

from . import record

# By name: the module, and what it does.
_COMMANDS = {
    "all": ("all", "the others one after the other, and one report of them"),
    "latency": (
        "latency.command",
        "MLPerf's scenarios stage by stage, beside PyTorch and the paper's own loop in the same run",
    ),
    "rank": ("rank.command", "milliseconds a picture of ranking against transformers.generate"),
    "accuracy": (
        "accuracy.command",
        "top-1 of retrieval and rankers by k and by shots, calibration, confusions, the papers' tables",
    ),
    "exemplars": ("exemplars", "pictures beside the candidates' names: what they gain and cost an MLLM"),
    "new-classes": ("new_classes", "ranking of classes that fine-tuning never saw"),
    "added-classes": ("added_classes", "classes added to a memory on the device, by neighbour and discriminant"),
    "open-set": ("open_set", "pictures of no class of the memory, near and far, told by each way and refused"),
    "discriminant": ("discriminant", "what the discriminant of a large memory costs: seconds, bytes, microseconds"),
    "imagenet": ("imagenet", "the starter's retrieval by names against its backbone's classifier"),
    "detection": ("detection.command", "boxes named by RAR against plain CLIP on crops, by size and frequency"),
    "memory": ("memory.command", "recall, speed and size of the memory against faiss, hnswlib and usearch"),
    "cold": ("cold", "scoring of vectors that are on the disk, against reading row after row"),
    "grain": ("grain.command", "a small GRAIN, trained on seeded scenes, against the caption contrast alone"),
    "grain-latency": ("grain.latency", "a GRAIN B/16 picture tower beside CLIP's B/16"),
    "gpu": ("gpu.command", "all that a GPU can show in ten minutes, without a network: parity, speed, ranking, power"),
    "preprocess": ("preprocess", "picture preparation against Pillow, torchvision, OpenCV and hf-processors-rs"),
    "compare": (
        "compare",
        "two result files by their ratios to the baseline of each; exit status 1 where one got worse",
    ),
    "report": ("report.command", "one page of result files, with charts, that needs nothing outside of itself"),
    "soak": (
        "live.command",
        "a live source on loopback for an hour, with changes of the memory beside it: latency, memory, dropped frames",
    ),
    "serve": (
        "serve.command",
        "`rar-serve` under load on loopback, with changes of its memory, beside the library's stream",
    ),
    "ray": ("ray.command", "Ray Data on this machine beside the library alone, and two nodes beside one"),
    "families": (
        "families.command",
        "export and ranking of an MLLM of every family, tiny and in published shapes: seconds, bytes, memory",
    ),
    "footprint": ("footprint", "install size, opening time and memory of the runtime process"),
    "first-contact": (
        "first_contact",
        "from a fresh clone to recognised photos and passed tests: seconds, download, disk",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0, or 2 with one line on stderr where the input cannot be used."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = _parser(arguments).parse_args(arguments)
    record.command.set(arguments)
    return guard(f"rar-bench {args.command}", lambda: int(args.run(args)), "bench,cpu,export,starter")


def _parser(arguments: Sequence[str]) -> Parser:
    parser = Parser(prog="rar-bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, summary) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        # Only the command that runs is imported: the others may need packages that are not there.
        if arguments[:1] == [name]:
            imported = importlib.import_module(f"rar.benchmarks.{module}")
            imported.add_arguments(command)
            command.set_defaults(run=imported.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
