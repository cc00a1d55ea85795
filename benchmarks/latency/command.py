"""`rar-bench latency`: MLPerf's scenarios on a bundle, stage by stage, beside other stacks in the same run.

Scenarios (arXiv 1911.02549): single stream, one picture at a time; multi stream, eight a query; offline, pictures a
second where nobody waits; server, the highest rate of random arrivals at which p99 stays below a bound. Beside them the
cold start (from no process to the first answer, the files in the page cache) and the warm-up after it. Each stack has a
process of its own and the machine to itself, and they take turns, block by block: a block opens a fresh process. The
processes of all stacks have imported `rar.runtime`.

The result file:

    results     a row a stack, path (`retrieve`, `retrieve, fp32`, `rank`, `rank, gated`) and scenario. `figures`: name
                -> median, q25, q75, count, or null where the samples are too few or the blocks too far apart; `reason`
                says which. A percentile is one of all samples, its quartiles are the blocks' own; a rate is the blocks'
                median. `count` is samples or blocks. `stages` of the single stream: milliseconds a picture, each
                without those inside it; `stages_share`: their sum over the whole. `percentiles_ms`: the curve.
                `by_batch`: pictures a second, tried once; `batch` is the fastest. `tried`: the server's rates.
    peers       what each says of itself: versions, and of `torch-best` what its trial measured and chose by batch
    ratios      how many times better than the best of the baselines, paired by block; `reached` is null where its
                quartiles lie on both sides of the target
    missing     what an interrupted run did not reach
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rar.export.pictures.labelled import read_images
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.encoder.info import EncoderInfo
from rar.runtime.errors import InputError, RarError
from rar.runtime.loop import GATES
from rar.runtime.memory import Memory
from rar.runtime.memory.info import MemoryInfo
from rar.runtime.rank.rankers import RANKS
from rar.runtime.rank.tuning import Tuning

from .. import record
from ..peers import stacks
from ..peers.pytorch import Terms
from . import random_bundle
from .ours import Settings, open_ours
from .rows import NOISY, NOISY_ELSE, PERCENTILES, least, left_out
from .run import Run
from .tables import show
from .turns import BOUND_TIMES, QUERY, SCENARIOS, Plan, Scenario
from .work import Contender, Way

_K = 5
_QUICK_SCENARIOS: tuple[Scenario, ...] = ("single stream", "offline")
_QUICK_PEERS = ("torch-eager", "rar-paper")  # `torch-best` takes minutes to prepare
_TRIED = 8  # pictures that a peer may try or calibrate something on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("bundle", metavar="BUNDLE", nargs="?")
    parser.add_argument(
        "--fp32",
        metavar="BUNDLE",
        help="the same encoder and memory at fp32: retrieval is compared at this precision too",
    )
    parser.add_argument("--images", metavar="SRC", required=True, help="pictures to recognise")
    parser.add_argument(
        "--model",
        choices=(random_bundle.NAME,),
        help="build a bundle of this model with random weights, for its speed",
    )
    parser.add_argument("--memory", metavar="SRC", help="labelled pictures for that bundle (default: --images)")
    parser.add_argument("--rank", choices=RANKS, help="what ranks (default: the bundle's own choice)")
    parser.add_argument("--gate", choices=GATES, help="rank only so (default: both, where a gate is fitted)")
    parser.add_argument("--k", type=int, help="candidates a picture (default: 5, or all classes of fewer)")
    names = [scenario.replace(" ", "-") for scenario in SCENARIOS]
    parser.add_argument("--scenarios", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--seconds", type=float, help="of each scenario and stack (default: 20, --quick: 2.5)")
    parser.add_argument("--bound-ms", type=float, metavar="MS", help="p99 of the server (default: 5 times p90 of one)")
    parser.add_argument(
        "--peers", nargs="+", metavar="NAME", help="other stacks, or none (default: all; see peers/stacks.py)"
    )
    parser.add_argument(
        "--encoder", nargs="+", metavar="PART", help="what the encoder was exported from (default: as the bundle says)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="two blocks, two scenarios and two peers, of slow ones no p90; of retrieval no ratio",
    )
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--threads", type=int, help="of all stacks (default: one a core)")
    parser.add_argument(
        "--work", metavar="DIR", help="keeps what is prepared for the peers (default: a temporary folder)"
    )
    parser.add_argument("--out", metavar="FILE", help="result file (.json), written anew after each scenario")


def run(args: argparse.Namespace) -> int:
    """Prepares, measures, prints and writes."""
    plan = _plan(args)
    with ExitStack() as stack:
        work = Path(args.work or stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        encoder = args.encoder
        source: str | None = None
        if args.model is not None:
            args.bundle, encoder = random_bundle.build(args.memory or args.images, work)
            source = random_bundle.SOURCE
        bundle = Bundle.open(args.bundle)
        settings = _settings(args, bundle)
        ways = _ways(args, settings, bundle)
        contenders = [Contender("rar", way, partial(open_ours, settings, way)) for way in ways]
        if args.fp32 is not None:
            _check_fp32(args.fp32, bundle)
            ways.insert(1, "retrieve, fp32")
            opener = partial(open_ours, replace(settings, bundle=args.fp32), ways[1])
            contenders.insert(1, Contender("rar", ways[1], opener))
        terms = replace(
            stacks.terms_of(bundle, work, settings.k, args.threads, encoder),
            pictures=tuple(plan.pictures[:_TRIED]),
            fp32=None if args.fp32 is None else Path(args.fp32),
        )
        names = args.peers or (list(_QUICK_PEERS) if args.quick else None)
        chosen = [peer for peer in stacks.chosen(names) if _fits(peer, ways, settings)]
        absent: list[dict[str, Any]] = []
        for peer in tqdm(chosen, desc="preparing", disable=None):
            if reason := peer.missing() or _prepare(terms, peer):
                absent += left_out(peer.name, peer.way, plan, reason)
            else:
                contenders.append(Contender(peer.name, peer.way, partial(peer.open, terms)))
        about = {
            "encoder": record.encoder(bundle, args.provider) | ({"source": source} if source else {}),
            "fp32": None if args.fp32 is None else record.encoder(Bundle.open(args.fp32), args.provider),
            "fingerprints": {name: component.fingerprint for name, component in bundle.components.items()},
            "settings": _told(plan, settings, Memory.open(bundle)),
        }
        measured = Run(plan, contenders, absent, about, args.threads, args.out)
        try:
            measured.measure()
        finally:
            # What was measured counts, also where the rest was not reached.
            measured.write()
            show(measured.result())
    return 0


def _plan(args: argparse.Namespace) -> Plan:
    if (args.bundle is None) == (args.model is None):
        raise InputError("give either a BUNDLE or --model, which builds one")
    seconds = (2.5 if args.quick else 20.0) if args.seconds is None else args.seconds
    if seconds <= 0 or (args.bound_ms is not None and args.bound_ms <= 0):
        raise InputError("--seconds and --bound-ms must be above 0")
    names = [name.replace("-", " ") for name in args.scenarios or ()]
    scenarios = [one for one in SCENARIOS if one in (names or (_QUICK_SCENARIOS if args.quick else SCENARIOS))]
    if "server" in scenarios and ("offline" not in scenarios or not ("single stream" in scenarios or args.bound_ms)):
        raise InputError("server needs offline, for the rates to try, and single-stream or --bound-ms, for the bound")
    paths = [image.path for image in read_images(args.images)]
    order = np.random.default_rng(0).permutation(len(paths))  # lists are sorted by class
    least_queries = least(PERCENTILES["p50_ms" if args.quick else "p90_ms"])
    return Plan([paths[i] for i in order], scenarios, 2 if args.quick else 5, seconds, least_queries, args.bound_ms)


def _settings(args: argparse.Namespace, bundle: Bundle) -> Settings:
    memory = Memory.open(bundle)
    k = min(_K, memory.classes) if args.k is None else args.k
    memory.check_k(k)
    rank = args.rank or MemoryInfo.of(bundle).rank
    return Settings(str(bundle.root), args.provider, rank, k, args.threads)


def _ways(args: argparse.Namespace, settings: Settings, bundle: Bundle) -> list[Way]:
    ways: list[Way] = ["retrieve"]
    if settings.rank == "none":
        if args.gate is not None:
            raise InputError("--gate needs a ranker; name one by --rank")
        return ways
    if args.gate != "unsure":
        ways.append("rank")
    tuning = Tuning.of(MemoryInfo.of(bundle).tune)
    fitted = tuning is not None and tuning.rank == settings.rank and tuning.gate is not None
    if args.gate == "unsure" and not fitted:
        raise InputError(f"{bundle.root}: no gate is fitted for the ranker {settings.rank!r}; run `rar-export tune`")
    if fitted and args.gate != "off":
        ways.append("rank, gated")
    return ways


def _fits(peer: stacks.Peer, ways: list[Way], settings: Settings) -> bool:
    return peer.way in ways if peer.way.startswith("retrieve") else settings.rank == "mllm" and _ranks(ways)


def _ranks(ways: list[Way]) -> bool:
    return any(way.startswith("rank") for way in ways)


def _check_fp32(name: str, bundle: Bundle) -> None:
    theirs, ours = EncoderInfo.of(Bundle.open(name)), EncoderInfo.of(bundle)
    if theirs.precision != "fp32" or theirs.source != ours.source:
        raise InputError(
            f"--fp32 {name}: holds {theirs.source} at {theirs.precision}; give the bundle's own encoder, "
            f"{ours.source}, exported at fp32"
        )


def _prepare(terms: Terms, peer: stacks.Peer) -> str | None:
    try:
        stacks.prepare(terms, [peer])
    except RarError as error:
        return f"could not be prepared: {error}"
    return None


def _told(plan: Plan, settings: Settings, memory: Memory) -> dict[str, Any]:
    return {
        "k": settings.k,
        "rank": settings.rank,
        "pictures": len(plan.pictures),
        "memory_entries": sum(len(part) for part in memory.parts.values()),
        "blocks": plan.blocks,
        "seconds": plan.seconds,
        "bound_ms": plan.bound_ms,
        "bound_times": BOUND_TIMES,
        "query": QUERY,
        "least": {name: least(percentile) for name, percentile in PERCENTILES.items()},
        "noisy": {**NOISY, "else": NOISY_ELSE},
    }
