"""`rar-export memory`, `add`, `remove` and `compact`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from rar.runtime.cli.printable import printable
from rar.runtime.errors import InputError
from rar.runtime.rank.rankers import RANKS

from ..options import SOURCE, add_device

if TYPE_CHECKING:
    from rar.runtime.picture.load import Reading

    from ..interchange import Embeddings
    from ..options import Commands
    from ..pictures.embed import Embedder
    from ..pictures.labelled import LabelledImage


def add_parsers(commands: Commands) -> None:
    """Adds the sub-commands to those of `rar-export`."""
    _memory_parser(commands)
    _add_parser(commands)
    _remove_parser(commands)
    _compact_parser(commands)


def _memory_parser(commands: Commands) -> None:
    memory = commands.add_parser(
        "memory",
        help="what a bundle can recognise: from pictures, names, descriptions or embeddings",
        description="Embeds a source and replaces the bundle's memory. Pictures, names and descriptions may be given "
        "together. Without --images the memory is zero-shot. Works where PyTorch is not installed.",
    )
    memory.add_argument("bundle", metavar="BUNDLE")
    memory.add_argument("--images", metavar="SRC", help=SOURCE)
    memory.add_argument("--classes", metavar="FILE", help="class names, one a line")
    memory.add_argument("--descriptions", metavar="FILE", help="JSON of {class: [sentences]}; used by WCA")
    _add_embeddings(memory)
    memory.add_argument("--tags", metavar="FILE", help="JSON of {tag: [classes]}; a search may be limited to a tag")
    memory.add_argument(
        "--dim",
        help="dimensions of the index: a number, a share such as 1/9, recall=99.5 for as few as keep that recall@10 of "
        "exact search in percent, or none for all (default: 64, or all of fewer)",
    )
    memory.add_argument(
        "--reducer",
        choices=["pca", "truncate", "none"],
        default="pca",
        help="how they are found: principal components, or the first ones (Matryoshka models) (default: %(default)s)",
    )
    memory.add_argument(
        "--dtype",
        choices=["f16", "i8"],
        default="f16",
        help="what the index stores a number in; the full vectors stay f16 (default: %(default)s)",
    )
    memory.add_argument("--shards", type=int, default=1, metavar="N", help="index files that cores search side by side")
    memory.add_argument(
        "--pool",
        type=int,
        default=1,
        metavar="M",
        help="a class is as similar as its best M entries are on average (default: %(default)s)",
    )
    memory.add_argument(
        "--text-weight",
        type=float,
        metavar="W",
        help="share of the texts in a class's similarity: 0 compares "
        "pictures with pictures, 1 pictures with texts (default: 0, 1 without pictures, 0.5 with --images and names)",
    )
    memory.add_argument(
        "--rank",
        choices=RANKS,
        help="the bundle's default ranker (default: the discriminant where it gains on the memory's own pictures)",
    )
    _add_reading(memory)
    memory.add_argument(
        "--duplicates",
        choices=["keep", "skip", "fail"],
        default="keep",
        help="what is done with files that hold the same picture: list them, leave out all but the first, or stop "
        "(default: %(default)s)",
    )
    memory.add_argument("--shots", type=int, metavar="N", help="keep N pictures a class, drawn at random")
    memory.add_argument("--seed", type=int, default=0, help="of the draw of --shots (default: %(default)s)")
    add_device(memory)
    memory.add_argument(
        "--engine", choices=["ray"], help="embed the pictures on a Ray cluster, an actor by one thread or --threads"
    )
    memory.add_argument("--address", metavar="A", help="of the cluster, such as auto (default: one for this job, here)")
    memory.add_argument("--out", metavar="COPY", help="leave BUNDLE as it is and write a copy with the new memory")
    memory.set_defaults(run=_memory)


def _add_parser(commands: Commands) -> None:
    add = commands.add_parser(
        "add",
        help="more pictures or embeddings into a memory, new classes too",
        description="Adds to a bundle's memory without building it again, on the device too. What was added when it is "
        "interrupted stays. Readers see it at once.",
    )
    add.add_argument("bundle", metavar="BUNDLE")
    add.add_argument("--images", metavar="SRC", help=SOURCE)
    _add_reading(add)
    _add_embeddings(add)
    add_device(add)
    add.set_defaults(run=_add)


def _remove_parser(commands: Commands) -> None:
    remove = commands.add_parser(
        "remove",
        help="classes out of a memory",
        description="Removes classes with all their entries from a bundle's memory. Readers see it at once.",
    )
    remove.add_argument("bundle", metavar="BUNDLE")
    remove.add_argument("labels", metavar="CLASS", nargs="+")
    remove.set_defaults(run=_remove)


def _compact_parser(commands: Commands) -> None:
    compact = commands.add_parser(
        "compact",
        help="folds what was added and removed into a memory's files",
        description="Writes a bundle's memory anew with all that was added and removed since it was built, so that it "
        "is searched as fast as before. Readers go on meanwhile.",
    )
    compact.add_argument("bundle", metavar="BUNDLE")
    compact.set_defaults(run=_compact)


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-pixels", type=int, metavar="N", help="limit of a picture's width times height (default: 100 million)"
    )
    parser.add_argument("--skip-broken", action="store_true", help="leave out and list pictures that cannot be read")


def _add_embeddings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--embeddings",
        metavar="FILE",
        help="ready-made vectors [n, d], instead of --images: .npy, .parquet, a folder of clip-retrieval, or a faiss "
        ".index (flat or HNSW)",
    )
    parser.add_argument(
        "--labels", metavar="FILE", help="the class of each vector, one a line; with a .npy or faiss index"
    )
    parser.add_argument("--embedding-column", metavar="NAME", help="of Parquet (default: the only one with vectors)")
    parser.add_argument("--label-column", metavar="NAME", help="of Parquet (default: label)")


def _memory(args: argparse.Namespace) -> None:
    import shutil

    from rar.runtime.bundle.copy import copy
    from rar.runtime.bundle.manifest import Bundle
    from rar.runtime.memory import Memory
    from rar.runtime.memory.fit.index import IndexOptions

    from ..pictures import labelled
    from .build import MemorySource, build_memory
    from .table import table

    if args.embeddings and args.shots:
        raise InputError("--embeddings replaces --images and --shots; give one or the other")
    embeddings = _embeddings(args)
    embedder = _embedder(args)
    if not (args.images or args.embeddings or args.classes or args.descriptions):
        raise InputError("nothing to remember; give --images, --embeddings, --classes or --descriptions")
    images = _images(args.images) if args.images else []
    if args.shots is not None:
        images = labelled.few_shot(images, args.shots, args.seed)
    source = MemorySource(
        images=images,
        embeddings=embeddings,
        classes=labelled.read_classes(args.classes) if args.classes else (),
        descriptions=labelled.read_descriptions(args.descriptions) if args.descriptions else {},
        tags=labelled.read_tags(args.tags) if args.tags else {},
    )
    index = IndexOptions(args.reducer, args.dtype, args.shards)
    original = Bundle.open(args.bundle)
    target = copy(original, args.out, without="memory") if args.out else original
    try:
        info = build_memory(
            target,
            source,
            args.dim,
            text_weight=args.text_weight,
            rank=args.rank,
            provider=args.provider,
            threads=args.threads,
            index=index,
            pool=args.pool,
            skip_broken=args.skip_broken,
            duplicates=args.duplicates,
            tell=_tell,
            reading=_reading(args),
            embedder=embedder,
        )
    except BaseException:
        if args.out:
            shutil.rmtree(args.out, ignore_errors=True)
        raise
    memory = Memory.open(target)
    print(table(memory, source.descriptions or None))
    counts = ", ".join(f"{info[part]['entries']} {part}" for part in ("pictures", "texts") if part in info)
    print(f"{target.root}: {info['classes']} classes, {counts}")
    if (fitted := info.get("discriminant")) and (measured := fitted["measured"])["pictures"]:
        print(
            f"discriminant: {100 * measured['discriminant']:.1f} of the memory's own pictures where the nearest "
            f"neighbour finds {100 * measured['retrieval']:.1f}; default ranker: {info['rank']}"
        )
    names = memory.labels if source.descriptions else []
    if bare := [name for name in names if name not in source.descriptions]:
        print(f"{len(bare)} classes have no description, as {bare[0]!r}; WCA and GRAIN go by their names")
    print(f"next: `rar-recognize {target.root} PICTURE`, or `rar-export inspect {target.root} --html OUT.html` to look")


def _embedder(args: argparse.Namespace) -> Embedder | None:
    if args.engine is None:
        if args.address is not None:
            raise InputError("--address goes only with --engine")
        return None
    if not args.images:
        raise InputError("--engine embeds pictures; give --images, or leave it out")
    # The one place where the tools reach for what is built on them, and only where a user asks.
    import ray  # noqa: F401  # before what comes with it, so that it is named where it is missing

    from rar.serving.ray.embed import RayEmbedder

    # The bundle that exists already: a copy would have to be on all nodes.
    return RayEmbedder(args.bundle, args.address, args.provider, args.threads or 1, _reading(args))


def _embeddings(args: argparse.Namespace) -> Embeddings | None:
    from ..interchange import read_embeddings

    if args.embeddings is None:
        if args.labels or args.embedding_column or args.label_column:
            raise InputError("--labels and the columns' names go with --embeddings; add --embeddings or leave them out")
        return None
    if args.images:
        raise InputError("--embeddings replaces --images; give one or the other")
    return read_embeddings(
        args.embeddings, args.labels, embedding_column=args.embedding_column, label_column=args.label_column
    )


def _images(source: str) -> list[LabelledImage]:
    """Labelled pictures; what was passed over is told."""
    from ..pictures.labelled import read_source

    listed = read_source(source)
    for line in listed.told:
        _tell(line)
    return listed.images


def _reading(args: argparse.Namespace) -> Reading:
    from rar.runtime.picture.load import Reading

    return Reading() if args.max_pixels is None else Reading(max_pixels=args.max_pixels)


def _tell(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(f"rar-export: {printable(line)}", file=sys.stderr)


def _add(args: argparse.Namespace) -> None:
    from ..pictures.check import check_images
    from .change import add_embeddings, add_images

    embeddings = _embeddings(args)
    if embeddings is not None:
        add_embeddings(args.bundle, embeddings, args.provider, args.threads)
        print(f"{args.bundle}: {embeddings.count} embeddings added")
        return
    if not args.images:
        raise InputError("nothing to add; give --images or --embeddings")
    reading = _reading(args)
    images = check_images(_images(args.images), args.skip_broken, "keep", _tell, reading)
    add_images(args.bundle, images, args.provider, args.threads, reading)
    print(f"{args.bundle}: {len(images)} pictures added")


def _remove(args: argparse.Namespace) -> None:
    from .change import remove_classes

    remove_classes(args.bundle, args.labels)
    print(f"{args.bundle}: {len(args.labels)} classes removed")


def _compact(args: argparse.Namespace) -> None:
    from rar.runtime.memory import Memory

    Memory.open(args.bundle).compact()
    print(f"{args.bundle}: changes are folded in")
