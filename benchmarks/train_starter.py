"""Trains the starter's MLLM: the recipe by which `export/starter/adapter/` was made.

    python -m rar.benchmarks.train_starter --grocery DIR --imagenet DIR --out DIR

Fine-tunes on the Grocery train set and on two thirds of the ImageNet samples, then fits the fusion for the starter's
own memory of 1,000 names on the last third. `OUT/adapter` and `OUT/tune.json` are what is shipped.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from rar.export.finetune import adapter as adapters
from rar.export.finetune.options import FinetuneOptions
from rar.export.finetune.train import finetune
from rar.export.mllm.export import export_mllm
from rar.export.pictures.labelled import read_images
from rar.export.starter.encoder import export_encoder
from rar.export.starter.export import remember_names
from rar.export.starter.mllm import MODES, load_mllm
from rar.export.tune import fit
from rar.runtime.bundle.files import write_json
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.encoder.clip import Clip

from .imagenet import read_samples

OPTIONS = FinetuneOptions(
    objectives=("likelihood",),
    modes=MODES,
    neighbours=10,
    epochs=0.35,
    batch=16,
    lr=2e-4,
    projector_lr=1e-3,
    rank=8,
    save_every=50,
)
# Every third ImageNet sample is kept for the fusion.
_KEPT = 3


def main() -> None:
    """Runs the recipe; one that was cut off goes on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grocery", type=Path, required=True, help="folder with train.csv and val.csv")
    parser.add_argument("--imagenet", type=Path, required=True, help="folder with labels.csv: file, imagenet_index")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    encoder = args.out / "encoder"
    if not (encoder / "bundle.json").exists():
        shutil.rmtree(encoder, ignore_errors=True)
        export_encoder(encoder, "int8")
    samples = read_samples(args.imagenet)
    adapter = args.out / "adapter"
    if not adapters.exists(adapter):
        shown = [image for place, image in enumerate(samples) if place % _KEPT]
        sources = [read_images(args.grocery / "train.csv"), shown]
        held_out = read_images(args.grocery / "val.csv")
        finetune(load_mllm(), Clip(Bundle.open(encoder)), sources, adapter, OPTIONS, held_out)
    bundle = args.out / "bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    export_encoder(bundle, "int8")
    export_mllm(load_mllm(), bundle, "int8", adapter)
    remember_names(bundle)
    tuned = fit.tune(bundle, samples[::_KEPT])
    write_json(args.out / "tune.json", tuned.stored() | {"default": tuned.default})


if __name__ == "__main__":
    main()
