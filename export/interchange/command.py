"""`rar-export vectors`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..options import Commands


def add_parsers(commands: Commands) -> None:
    """Adds the sub-command to those of `rar-export`."""
    vectors = commands.add_parser(
        "vectors",
        help="a memory's vectors and classes for other programs",
        description="Writes a memory's vectors at full dimension with their classes, in a form that `memory "
        "--embeddings` reads: by OUT's ending a .npy or a faiss index (.index, .faiss), each beside a file of classes; "
        "a .parquet; or, without an ending, a folder in clip-retrieval's layout. All but .npy need the extra "
        "interchange.",
    )
    vectors.add_argument("bundle", metavar="BUNDLE")
    vectors.add_argument("out", metavar="OUT")
    vectors.add_argument("--part", choices=["pictures", "texts"], help="default: pictures, or texts where none are")
    vectors.add_argument(
        "--faiss", choices=["flat", "hnsw"], default="flat", help="kind of a faiss index (default: %(default)s)"
    )
    vectors.set_defaults(run=_vectors)


def _vectors(args: argparse.Namespace) -> None:
    from rar.runtime.memory import Memory

    from ..memory.change import embeddings_of
    from . import write_embeddings

    embeddings = embeddings_of(Memory.open(args.bundle), args.part)
    written = write_embeddings(args.out, embeddings, faiss_kind=args.faiss)
    print(f"{', '.join(map(str, written))}: {embeddings.count} vectors of {embeddings.dim} dimensions")
