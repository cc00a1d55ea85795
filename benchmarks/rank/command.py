"""`rar-bench rank`: milliseconds a picture of each way to rank, against `transformers.generate` of the paper's answer.

All ways get the same pictures, the same candidates and the paper's prompt (`choice` with the candidates lettered).
The baseline is the paper's loop in PyTorch at fp32: one picture at a time, greedy, the KV cache on. It and our
`generate` write as many tokens as the list of the candidates has, whatever the model would say. The model's picture
tower or projector is timed for all; retrieval, whose features some models see by, is done before.

Where llama.cpp is installed, it decodes the starter's prompts too, one picture at a time and without the picture; see
`peers/llama.py`.

Each model has a process of its own. For each picture the baseline is followed by all other ways, so that a machine
that slows down slows all alike; a ratio is the median over the pictures of baseline by way.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from tqdm import tqdm

from rar.export.pictures.labelled import evenly, read_images
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.errors import InputError, RarError
from rar.runtime.recognizer import Recognizer

from .. import record
from ..peers import llama
from ..process import in_a_process
from .ways import BATCH, Asked, Way, open_baseline, open_ours, prepare, ways

_K = 5
_BASELINE = "transformers.generate, PyTorch fp32"

# Seconds that one way takes for the pictures at these places.
_Ask: TypeAlias = Callable[[tuple[Way, list[int]]], float]
# By model (None: the baseline) and way: by round and group of pictures, seconds a picture.
_Times: TypeAlias = dict[tuple[str | None, Way], dict[tuple[int, int], list[float]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("bundle", metavar="BUNDLE", nargs="+", help="precisions of one MLLM; the first one retrieves")
    parser.add_argument("--test", metavar="SRC", required=True, help="pictures: a folder, .csv or .jsonl")
    parser.add_argument("--model", metavar="SRC", default="starter", help="what was exported (default: %(default)s)")
    parser.add_argument(
        "--adapter", metavar="DIR", help="what was merged into it (default: with `starter` what the package ships)"
    )
    parser.add_argument(
        "--count", type=int, default=2 * BATCH, help=f"pictures, a multiple of {BATCH} (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="times each is ranked (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of all models (default: one a core)")
    parser.add_argument("--out", metavar="FILE", help="result file (.json)")


def run(args: argparse.Namespace) -> int:
    """Retrieves, measures, prints and writes."""
    if args.count < BATCH or args.count % BATCH or args.rounds < 1:
        raise InputError(f"--count {args.count} must be a multiple of {BATCH}, --rounds {args.rounds} 1 or more")
    load = record.load()
    if load > record.BUSY:
        # On a shared machine the baseline loses more than we do: its threads wait for each other by spinning.
        print(f"the machine is busy (load {load:.1f}): the ratios will flatter us", file=sys.stderr)
    bundles = {name: Bundle.open(name) for name in args.bundle}
    asked, provider, k = _retrieve(args)
    asked, lengths = prepare(bundles[args.bundle[0]], asked)
    by_model = {name: ways(bundle) for name, bundle in bundles.items()}
    absent = llama.missing(args.model)
    if absent is None:
        by_model[llama.NAME] = [
            way for way in by_model[args.bundle[0]] if way.batch == 1 and way.options.mode in ("generate", "likelihood")
        ]
    with ExitStack() as stack:
        opener = partial(open_baseline, args.model, args.adapter, args.bundle, args.threads, asked)
        baseline: _Ask = stack.enter_context(in_a_process(opener))
        ours: dict[str, _Ask] = {
            name: stack.enter_context(in_a_process(partial(open_ours, name, provider, args.threads, asked)))
            for name in bundles
        }
        if absent is None:
            ours[llama.NAME] = stack.enter_context(
                in_a_process(partial(llama.open_llama, args.bundle[0], args.threads, asked))
            )
        times = _measure(baseline, ours, by_model, args.count, args.rounds)
    rows = [_row(name, way, taken, times[None, Way()]) for (name, way), taken in times.items()]
    for row in rows:
        print(
            f"{row['bundle'] or _BASELINE:<36} {row['way']:<42} batch {row['batch']}  {row['ms']['median']:8.1f} ms "
            f"({row['ms']['q25']:.1f}-{row['ms']['q75']:.1f})  {row['ratio']['median']:6.2f}x"
        )
    adapter = args.adapter or ("the package's own" if args.model == "starter" else None)
    result = {
        "environment": {**record.environment(args.threads), "load_before": load},
        "encoder": record.encoder(bundles[args.bundle[0]], provider),
        "baseline": {"what": _BASELINE, "model": args.model, "adapter": adapter},
        "bundles": {name: _describe(bundle, provider) for name, bundle in bundles.items()},
        "peers": {llama.NAME: llama.describe() if absent is None else {"reason": absent}},
        "test": args.test,
        "pictures": args.count,
        "rounds": args.rounds,
        "k": k,
        "tokens": lengths,
        "results": rows,
    }
    record.write(result, args.out)
    return 0


def _retrieve(args: argparse.Namespace) -> tuple[list[Asked], str, int]:
    """The pictures with their candidates, the provider that runs the encoder, and k."""
    images = read_images(args.test)
    if len(images) < args.count:
        raise InputError(f"{args.test}: has {len(images)} pictures; --count {args.count} asks for more")
    paths: list[Path] = [image.path for image in evenly(images, args.count)]
    recognizer = Recognizer.open(args.bundle[0], "cpu", threads=args.threads)
    k = min(_K, recognizer.memory.classes)
    if k < 2:
        raise InputError(f"{args.bundle[0]}: its memory has one class; there is nothing to rank")
    asked = []
    for path, query in zip(paths, recognizer.queries(paths, k), strict=True):
        if isinstance(query, RarError):
            raise query
        asked.append(Asked(path, query.candidates))
    return asked, recognizer.provider, k


def _measure(
    baseline: _Ask, ours: Mapping[str, _Ask], tried: Mapping[str, list[Way]], count: int, rounds: int
) -> _Times:
    """Seconds a picture of all ways, taken side by side."""
    plain = Way()
    times: _Times = {(None, plain): {}}
    baseline((plain, [0]))  # warm-up
    for name, ask in ours.items():
        for way in tried[name]:
            times[name, way] = {}
            ask((way, list(range(way.batch))))
    with tqdm(total=rounds * count, desc="ranking", disable=None) as bar:
        for turn in range(rounds):
            for group in range(count // BATCH):
                key = (turn, group)
                for step, place in enumerate(range(group * BATCH, (group + 1) * BATCH)):
                    times[None, plain].setdefault(key, []).append(baseline((plain, [place])))
                    for name, way in _due(tried, step):
                        places = [place] if way.batch == 1 else list(range(group * BATCH, (group + 1) * BATCH))
                        seconds = ours[name]((way, places)) / way.batch
                        times[name, way].setdefault(key, []).append(seconds)
                    bar.update()
    return times


def _due(by_model: Mapping[str, list[Way]], step: int) -> Iterator[tuple[str, Way]]:
    """What runs after the baseline at a step of a group: all single ones, and a share of the batches."""
    for name, some in by_model.items():
        batches = [way for way in some if way.batch > 1]
        yield from ((name, way) for way in some if way.batch == 1)
        yield from ((name, way) for number, way in enumerate(batches) if number % BATCH == step)


def _row(
    name: str | None,
    way: Way,
    taken: Mapping[tuple[int, int], list[float]],
    plain: Mapping[tuple[int, int], list[float]],
) -> dict[str, Any]:
    # A batch is compared with the baseline's mean over the same pictures.
    pairs = [
        (theirs, mine)
        for key, seconds in taken.items()
        for theirs, mine in zip(plain[key] if way.batch == 1 else [float(np.mean(plain[key]))], seconds, strict=True)
    ]
    return {
        "bundle": name,
        "way": "generate" if name is None else way.title,
        "mode": "generate" if name is None else way.options.mode,
        "debias": way.options.debias if name is not None and way.options.mode == "choice" else None,
        "prompt": "own" if way.own_prompt else "paper",
        "batch": way.batch,
        "ms": record.spread([1e3 * mine for _, mine in pairs]),
        "ratio": record.spread([theirs / mine for theirs, mine in pairs]),
    }


def _describe(bundle: Bundle, provider: str) -> dict[str, Any]:
    component = bundle.component("mllm")
    files = component.files

    def size(*starts: str) -> float:
        return round(sum(record.bytes for file, record in files.items() if file.startswith(starts)) / 1e6, 1)

    return {
        "architecture": component.info["architecture"],
        "precision": component.info["precision"],
        "decoder_mb": size("decoder.onnx"),
        "graphs_mb": size("decoder.onnx", "embed.onnx", "vision.onnx"),
        "provider": provider,
        "fingerprint": component.fingerprint,
    }
