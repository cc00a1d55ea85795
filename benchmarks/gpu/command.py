"""`rar-bench gpu`: all that a GPU can show, step by step, in a stated number of minutes, without a network."""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time

from PIL import Image
from tqdm import tqdm

from rar.export.pictures.photos import package_photos
from rar.runtime.errors import InputError
from rar.runtime.picture.load import load_image
from rar.runtime.session.onnxruntime.obstacles import check_provider

from .. import record
from ..made import made
from . import encoder, engines, feeding, parity, rank, skeleton
from .models import LLAVA, MODELS, prepare
from .step import Row, Run, Setting, gpu, run_step

# In order of worth, with each one's share of the time and the seconds below which it is not begun.
_STEPS: tuple[tuple[str, Run, float, float], ...] = (
    ("parity", parity.run, 0.2, 20),
    ("encoder", encoder.run, 0.45, 30),
    ("rank", rank.run, 0.25, 30),
    ("feeding", feeding.run, 0.1, 15),
    ("engines", engines.run, 0.1, 5),
)
_SIZE = (500, 375)  # of the pictures, as most of ImageNet's


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "--prepare", metavar="DIR", help="only make the models, without their weights, to be carried to the GPU"
    )
    parser.add_argument(
        "--models", metavar="DIR", help="what --prepare made (default: make them here, which takes the extra export)"
    )
    parser.add_argument(
        "--work", metavar="DIR", default="build/gpu", help="what is made and kept (default: %(default)s)"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="for all steps together (default: %(default)s)")
    parser.add_argument("--slice", type=float, default=0.6, help="seconds a figure is measured (default: %(default)s)")
    parser.add_argument("--steps", nargs="+", choices=[name for name, *_ in _STEPS], help="only these")
    parser.add_argument(
        "--provider", choices=["cuda", "cpu"], default="cuda", help="cpu: a dry run (default: %(default)s)"
    )
    parser.add_argument("--out", metavar="DIR", default="gpu", help="one result file a step (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Runs what there is time for; 0 where every step that was begun was finished."""
    work = Path(args.work)
    if args.prepare is not None:
        prepare(Path(args.prepare), work)
        return 0
    if args.minutes <= 0 or args.slice <= 0:
        raise InputError("--minutes and --slice are times; give more than 0")
    check_provider(args.provider)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    models = _models(Path(args.models) if args.models else None, work)
    ends = time() + 60 * args.minutes
    chosen = [step for step in _STEPS if not args.steps or step[0] in args.steps]
    ended: list[Row] = []
    with TemporaryDirectory() as folder:
        pictures = _pictures(Path(folder))
        for place, (name, step, share, least) in enumerate(tqdm(chosen, desc="steps", disable=None)):
            left = ends - time()
            # What earlier steps left over is shared among those that come.
            seconds = left * share / sum(later[2] for later in chosen[place:])
            if seconds < least:
                ended.append({"step": name, "outcome": f"skipped: {seconds:.0f} s for it, and it takes {least:.0f}"})
            else:
                setting = Setting(models, pictures, args.provider, time() + seconds, args.slice)
                ended.append(run_step(name, step, setting, out))
            record.write(
                {"environment": {**record.environment(), "gpu": gpu()}, "steps": ended}, str(out / "summary.json")
            )
            print(f"{name}: {ended[-1]['outcome']}", flush=True)
    return 0 if all(step["outcome"] == "done" or step["outcome"].startswith("skipped") for step in ended) else 1


def _models(skeletons: Path | None, work: Path) -> Path:
    """The models with their weights; made first where they are not there."""
    if skeletons is None:
        skeletons = work / "skeletons"
        if not all((skeletons / name).is_dir() for name in MODELS):
            prepare(skeletons, work)
    for name, model in MODELS.items():
        if model.language_model is not None and not (skeletons / name / LLAVA).is_file():
            raise InputError(f"{skeletons / name}: lacks {LLAVA}; make the models again by --prepare")

    def fill(name: str) -> None:
        made(work / "filled" / name, {"model": name}, partial(skeleton.fill, skeletons / name))

    with ThreadPoolExecutor() as pool:
        for _ in tqdm(pool.map(fill, MODELS), desc="weights", total=len(MODELS), disable=None):
            pass
    return work / "filled"


def _pictures(folder: Path) -> list[Path]:
    """The photos that packages ship, as JPEG files of one size."""
    paths = []
    for photo in package_photos():
        path = folder / f"{photo.stem}.jpg"
        Image.fromarray(load_image(photo)).resize(_SIZE, Image.Resampling.BICUBIC).save(path, quality=90)
        paths.append(path)
    return paths
