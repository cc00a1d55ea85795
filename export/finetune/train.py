"""The training loop: LoRA on the language model, and the projector if the model has a trainable one."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from rar.runtime.bundle.files import write_json
from rar.runtime.encoder.clip import Clip
from rar.runtime.errors import ExportError, InputError
from rar.runtime.rank.mllm.prompt import MODES, Mode, Prompt

from .. import training
from ..mllm.model import Mllm
from ..mllm.prompt import prompt_settings, read_prompt
from ..pictures.embed import embed_images
from ..pictures.labelled import LabelledImage, evenly
from . import adapter, checkpoint
from .align import align
from .objective import Exercise, ask, loss, run, scores
from .options import FinetuneOptions
from .pictures import NO_FEATURES, FeaturePictures, Pictures, PixelPictures, compute
from .samples import Sample, best_of_classes, build_samples, read_samples, write_samples

Floats = npt.NDArray[np.float32]

_CLIP_NORM = 1.0
_HELD_OUT = 300
_SAMPLES, _LOG, _FEATURES, _INPUTS = "samples.jsonl", "log.jsonl", "features.npy", "inputs.json"


def finetune(
    mllm: Mllm,
    clip: Clip,
    sources: Sequence[Sequence[LabelledImage]],
    out: str | os.PathLike[str],
    options: FinetuneOptions | None = None,
    held_out: Sequence[LabelledImage] = (),
) -> Path:
    """Fine-tunes a multimodal LLM to rank; resumes an interrupted run.

    Writes `samples.jsonl` (the training set), `log.jsonl` (loss and held-out accuracy) and, at the end, the adapter.

    Args:
        mllm: The model; its language model gets the LoRA and keeps it.
        clip: The encoder that will retrieve; also gives the picture's features if the model takes them.
        sources: Labelled pictures; see `build_samples`.
        out: The adapter's folder.
        options: Settings.
        held_out: Pictures to measure accuracy on, among the classes of the sources.

    Returns:
        The adapter's folder, for `rar-export mllm --adapter`.

    Raises:
        InputError: The pictures or settings do not fit, or a prompt is longer than the model's context.
        ExportError: The folder holds an adapter, or a run with other settings or pictures, or cannot be written; the
            encoder does not give the features that the model needs; or the loss is not finite.
    """
    folder = Path(out)
    if adapter.exists(folder):
        raise ExportError(f"{folder}: holds a finished adapter; name a new folder")
    # Checked before hours of training.
    if mllm.vision_input == "image_features" and not clip.has_features:
        raise ExportError(NO_FEATURES)
    if missing := {image.label for image in held_out} - {image.label for images in sources for image in images}:
        raise InputError(
            f"held-out class {sorted(missing)[0]!r} is not among the training pictures' classes; name one that is"
        )
    try:
        return _finetune(mllm, clip, sources, folder, options or FinetuneOptions(), held_out)
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written ({error.strerror or error}); begin again to go on") from error


def _finetune(
    mllm: Mllm,
    clip: Clip,
    sources: Sequence[Sequence[LabelledImage]],
    folder: Path,
    options: FinetuneOptions,
    held_out: Sequence[LabelledImage],
) -> Path:
    # Modes that are not trained keep their default prompts, so that they still work.
    chosen = options.modes or {}
    modes: dict[str, Mapping[str, str]] = {mode: chosen.get(mode, texts) for mode, texts in MODES.items()}
    prompt = read_prompt(prompt_settings(mllm, modes), mllm.tokenizer)
    prompt = prompt.of_several() if options.exemplars else prompt
    samples = _samples(clip, sources, folder, options, held_out)
    if options.exemplars and not any(any(sample.exemplars) for sample in samples):
        raise InputError("no class has a second picture to show as an exemplar; give more pictures, or no --exemplars")
    check = _held_out_samples(clip, sources, held_out, options.k)

    torch.manual_seed(options.seed)
    trainer = _Trainer(mllm, prompt, options, _pictures(mllm, clip, [*samples, *check], options, folder))
    steps = max(1, math.ceil(len(samples) * options.epochs / options.batch))
    settings = {**asdict(options), "samples": len(samples), "steps": steps, "source": mllm.source}
    order = training.Order(len(samples), options.batch, options.seed)
    done = checkpoint.load(folder, settings, trainer.parameters, trainer.optimizer)
    training.cut(folder / _LOG, done)
    if not done and isinstance(trainer.pictures, FeaturePictures):
        labels = {sample.path: sample.label for sample in samples}
        aligned = align(mllm, prompt, trainer.pictures.all(list(labels)), list(labels.values()), options.seed)
        training.append(
            folder / _LOG,
            {"step": 0, "aligned": round(aligned, 4), "held_out": trainer.accuracy(check) if check else None},
        )
    started = perf_counter()
    with tqdm(total=steps, initial=done, desc="fine-tuning", disable=None) as bar:
        for step in range(done, steps):
            value = trainer.step(step, steps, [samples[place] for place in order(step)])
            bar.set_postfix(loss=f"{value:.3f}", refresh=False)
            bar.update()
            line: dict[str, Any] = {"step": step + 1, "loss": round(value, 4)}
            if (step + 1) % options.save_every == 0 or step + 1 == steps:
                if check:
                    line |= {"held_out": trainer.accuracy(check), "retrieval": _first(check), "pictures": len(check)}
                line["seconds"] = round(perf_counter() - started, 1)
                checkpoint.save(folder, step + 1, settings, trainer.parameters, trainer.optimizer)
            training.append(folder / _LOG, line)
    trainer.train(False)
    adapter.save(folder, mllm, trainer.language, modes, {"options": settings, "parameters": trainer.count})
    checkpoint.remove(folder)
    for name in (_FEATURES, _INPUTS):
        (folder / name).unlink(missing_ok=True)
    return folder


def _samples(
    clip: Clip,
    sources: Sequence[Sequence[LabelledImage]],
    folder: Path,
    options: FinetuneOptions,
    held_out: Sequence[LabelledImage],
) -> list[Sample]:
    """The training set, or the stored one of an unfinished run.

    Raises:
        ExportError: The unfinished run was made from other pictures or settings.
    """
    listed = [[(os.path.realpath(image.path), image.label) for image in images] for images in (*sources, held_out)]
    inputs = {
        "k": options.k,
        "neighbours": options.neighbours,
        "seed": options.seed,
        "pictures": hashlib.sha256(json.dumps(listed).encode()).hexdigest(),
    }
    path, known = folder / _SAMPLES, folder / _INPUTS
    if not path.exists():
        samples = build_samples(clip, sources, options.k, options.neighbours, options.seed)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(known, inputs)
        write_samples(samples, path)
    elif known.exists() and json.loads(known.read_text(encoding="utf-8")) != inputs:
        raise ExportError(f"{folder}: holds an unfinished run on other pictures, k, neighbours or seed; delete it")
    return read_samples(path)


class _Trainer:
    """The model with its LoRA, and the optimizer."""

    def __init__(self, mllm: Mllm, prompt: Prompt, options: FinetuneOptions, pictures: Pictures) -> None:
        self.mllm, self.prompt, self.options, self.pictures = mllm, prompt, options, pictures
        self.device = device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # If the vision graph takes another encoder's features, it is just a projector.
        self.projector = mllm.vision if mllm.vision_input == "image_features" else None
        self.language = adapter.attach(mllm, options.rank, options.dropout)
        self.dtype = torch.bfloat16 if _has_bfloat16(device) else torch.float32
        for module in (mllm.vision, mllm.embed, mllm.decoder):
            module.to(device)
        for parameter in (*mllm.decoder.parameters(), *mllm.embed.parameters()):
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(self.dtype)
        lora = {f"lora/{name}": p for name, p in mllm.decoder.named_parameters() if p.requires_grad}
        projected = {f"projector/{name}": p for name, p in self.projector.named_parameters()} if self.projector else {}
        self.parameters = {**lora, **projected}
        self.count = {
            "lora": sum(p.numel() for p in lora.values()),
            "projector": sum(p.numel() for p in projected.values()),
        }
        groups = [
            {"params": list(lora.values()), "peak": options.lr},
            {"params": list(projected.values()), "peak": options.projector_lr},
        ]
        self.optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, weight_decay=0.01)

    def step(self, number: int, steps: int, batch: Sequence[Sample]) -> float:
        """One step of the optimizer; returns the batch's loss."""
        chance = np.random.default_rng([self.options.seed, 1, number])
        mode = self.options.objectives[number % len(self.options.objectives)]
        torch.manual_seed(self.options.seed * 1_000_003 + number)  # of dropout: a resumed run draws as it would have
        self.train(True)
        exercises = [ask(self.prompt, mode, sample, chance) for sample in batch]
        seen = self.pictures(_paths(batch, exercises), chance)
        with self._autocast():
            pictures = self._see(seen)
            logits = run(self.mllm, self.prompt, mode, [exercise.question for exercise in exercises], pictures)
            total = torch.stack(
                [loss(mode, e, row, self.options.contrast) for e, row in zip(exercises, logits, strict=True)]
            ).mean()
            total.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), _CLIP_NORM)
        value = float(total.detach())
        # Raised before it reaches the weights, and with them a checkpoint.
        if not math.isfinite(value) or not math.isfinite(float(norm)):
            raise ExportError(
                f"the loss became {value}, its gradient {float(norm)} long, at step {number + 1}; "
                "begin anew with lower learning rates"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * training.schedule(number, steps)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return value

    def accuracy(self, samples: Sequence[Sample]) -> float:
        """Top-1 on held-out pictures, by the first objective that scores candidates, or else their likelihood."""
        scored = [mode for mode in self.options.objectives if mode != "generate"]
        mode: Mode = scored[0] if scored else "likelihood"
        self.train(False)
        hits = 0
        with torch.no_grad(), self._autocast():
            for start in range(0, len(samples), self.options.batch):
                batch = samples[start : start + self.options.batch]
                chance = np.random.default_rng(start)
                exercises = [ask(self.prompt, mode, sample, chance) for sample in batch]
                pictures = self._see(self.pictures(_paths(batch, exercises), None))
                logits = run(self.mllm, self.prompt, mode, [exercise.question for exercise in exercises], pictures)
                for exercise, row in zip(exercises, logits, strict=True):
                    hits += int(scores(mode, exercise.question, row).argmax()) == exercise.right
        return round(hits / len(samples), 4)

    def train(self, on: bool) -> None:
        """Switches dropout on or off in the trained parts."""
        self.mllm.decoder.train(on)
        if self.projector is not None:
            self.projector.train(on)

    def _see(self, inputs: Floats) -> torch.Tensor:
        """Inputs of the vision graph -> the language model's embeddings; only a projector is trained here."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.projector is not None):
            return self.mllm.vision(torch.from_numpy(inputs).to(self.device))  # type: ignore[no-any-return]

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        import peft.helpers

        with (
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16),
            peft.helpers.disable_input_dtype_casting(self.language),
        ):
            yield


def _paths(samples: Sequence[Sample], exercises: Sequence[Exercise]) -> list[str]:
    """The pictures of prompts, in their order."""
    return [path for sample, asked in zip(samples, exercises, strict=True) for path in (*asked.exemplars, sample.path)]


def _pictures(mllm: Mllm, clip: Clip, samples: Sequence[Sample], options: FinetuneOptions, folder: Path) -> Pictures:
    views = options.views if options.augment else 0
    if mllm.preprocess is not None:
        return PixelPictures(mllm.preprocess, views > 0)
    seen = [(sample.path, *(sample.exemplars if options.exemplars else ())) for sample in samples]
    paths = list(dict.fromkeys(path for some in seen for path in some if path))
    features = compute(clip, paths, views, options.seed, folder / _FEATURES)
    if features.shape[2:] != tuple(mllm.vision_shape):
        raise ExportError(f"the encoder's features are {features.shape[2:]}; {mllm.source} takes {mllm.vision_shape}")
    return FeaturePictures(paths, features)


def _held_out_samples(
    clip: Clip, sources: Sequence[Sequence[LabelledImage]], held_out: Sequence[LabelledImage], k: int
) -> list[Sample]:
    """Held-out pictures whose class is among the k nearest of the training pictures, with those k."""
    if not held_out:
        return []
    known = [image for images in sources for image in images]
    names = sorted({image.label for image in known})
    chosen = evenly(held_out, _HELD_OUT)
    labels = np.array([names.index(image.label) for image in known])
    similarity = embed_images(clip, chosen) @ embed_images(clip, known).T
    best, nearest = best_of_classes(similarity, labels, len(names))
    order = np.argsort(-best, axis=1, kind="stable")[:, :k]
    samples = [
        Sample(
            str(image.path),
            image.label,
            tuple(names[c] for c in row),
            tuple(os.path.realpath(known[place].path) for place in places),
        )
        for image, row, places in zip(chosen, order, np.take_along_axis(nearest, order, 1), strict=True)
    ]
    return [sample for sample in samples if sample.label in sample.candidates]


def _first(samples: Sequence[Sample]) -> float:
    return round(sum(sample.candidates[0] == sample.label for sample in samples) / len(samples), 4)


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
