"""GRAIN's training: L = L_ic + L_box + L_rd over annotated pictures, in one process or several."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from rar.runtime.errors import ExportError

from ..training import Order, append, cut, schedule
from . import checkpoint
from .config import GrainConfig
from .data import Batch, Collator, Examples, ahead
from .losses import Matches, box_loss, contrast, match, region_loss
from .metrics import measure
from .model import Grain
from .options import TrainOptions
from .processes import Processes, processes
from .tokens import tokenizer

CHECKPOINT, LOG = "checkpoint.pth.tar", "log.jsonl"

# Its exp is the largest factor of the cosines, 100, as in CLIP.
_LARGEST_SCALE = math.log(100)
_LOG_EVERY = 20
_HELD_OUT = 500
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def train(
    examples: Examples,
    out: str | os.PathLike[str],
    config: GrainConfig,
    options: TrainOptions | None = None,
    held_out: Examples | None = None,
    threads: int | None = None,
) -> Path:
    """Trains a network from scratch; resumes an interrupted run.

    Writes `checkpoint.pth.tar`, in the released layout, and `log.jsonl`: losses, and figures on held-out examples.
    Under `torchrun` each process takes its share of every batch. The result equals that of one process with the whole
    batch, except for L_rd's negatives: each process uses only its own, as in the released code.

    Args:
        examples: The training set.
        out: The run's folder.
        config: The network's shape.
        options: Settings.
        held_out: Examples to measure on; at most 500, evenly spread.
        threads: Threads of picture preparation; None for one per core.

    Returns:
        The checkpoint.

    Raises:
        ExportError: The folder holds a run with other settings, or cannot be written, or the loss is not finite.
        InputError: No picture can be read.
    """
    folder, options = Path(out), options or TrainOptions()
    try:
        with processes() as team:
            collator = Collator(config, tokenizer(config), threads)
            return _train(examples, folder, config, options, held_out, team, collator)
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written ({error.strerror or error}); begin again to go on") from error


def _train(
    examples: Examples,
    folder: Path,
    config: GrainConfig,
    options: TrainOptions,
    held_out: Examples | None,
    team: Processes,
    collator: Collator,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path, log = folder / CHECKPOINT, folder / LOG
    steps = max(1, math.ceil(len(examples) * options.epochs / (options.batch * team.count)))
    settings = {**asdict(options), **asdict(config), "pictures": len(examples), "processes": team.count}
    trainer = _Trainer(config, options, team)
    done = trainer.resume(path, settings) if path.exists() else 0
    if team.rank == 0:
        cut(log, done)
    batches = ahead(_batches(examples, collator, options, team, range(done, steps)))
    started, window = perf_counter(), list[dict[str, float]]()
    with tqdm(total=steps, initial=done, desc="training", disable=True if team.rank else None) as bar:
        for step, batch in enumerate(batches, done + 1):
            window.append(trainer.step(step - 1, steps, batch))
            bar.set_postfix(loss=f"{window[-1]['loss']:.3f}", refresh=False)
            bar.update()
            saves = step % options.save_every == 0 or step == steps
            if team.rank == 0 and (saves or step % _LOG_EVERY == 0):
                line: dict[str, Any] = {key: round(fmean(parts[key] for parts in window), 4) for key in window[-1]}
                if saves and held_out is not None:
                    line["held_out"] = trainer.measure(collator, held_out)
                if examples.left_out:
                    line["left_out"] = dict(examples.left_out)
                append(log, {"step": step, **line, "seconds": round(perf_counter() - started, 1)})
                window.clear()
            if saves:
                if team.rank == 0:
                    trainer.save(path, settings, step * options.batch * team.count // len(examples), step)
                team.wait()
    return path


def _batches(
    examples: Examples, collator: Collator, options: TrainOptions, team: Processes, steps: range
) -> Iterator[Batch]:
    """This process's share of each step's batch."""
    order = Order(len(examples), options.batch * team.count, options.seed)
    mine = slice(team.rank * options.batch, (team.rank + 1) * options.batch)
    return (collator(examples(order(step)[mine])) for step in steps)


class _Trainer:
    """The network and its optimizer."""

    def __init__(self, config: GrainConfig, options: TrainOptions, team: Processes) -> None:
        self.options, self.team = options, team
        torch.manual_seed(options.seed)
        self.model = Grain(config).to(team.device)
        self.network: torch.nn.Module = self.model
        if team.count > 1:
            devices = [team.device.index] if team.device.type == "cuda" else None
            self.network = DistributedDataParallel(self.model, device_ids=devices)
        matrices = [weight for weight in self.model.parameters() if weight.dim() > 1]
        vectors = [weight for weight in self.model.parameters() if weight.dim() < 2]
        groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98), eps=1e-8, fused=True)
        self.scaler = torch.amp.GradScaler(team.device.type, enabled=options.autocast == "fp16")

    def step(self, number: int, steps: int, batch: Batch) -> dict[str, float]:
        """One step of the optimizer; returns the losses of this process's batch.

        Raises:
            ExportError: The loss is not finite.
        """
        # Seeds dropout, so that a resumed run continues as if it had not stopped.
        torch.manual_seed((self.options.seed * 1_000_003 + number) * 1009 + self.team.rank)
        self.network.train()
        parts = self._losses(batch)
        total = parts["loss"]
        if not math.isfinite(float(total.detach())):  # before it reaches the weights, and with them a checkpoint
            raise ExportError(f"the loss became {float(total.detach())} at step {number + 1}; lower the learning rate")
        share = schedule(number, steps, self.options.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.last_lr + share * (self.options.lr - self.options.last_lr)
        self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.model.backbone.logit_scale.clamp_(0, _LARGEST_SCALE)
        return {name: float(value.detach()) for name, value in parts.items()}

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        device, options = self.team.device, self.options
        pixels, ids, meanings = (
            torch.from_numpy(part).to(device) for part in (batch.pixels, batch.ids, batch.meanings)
        )
        if not options.region_weight:
            ids = ids[: len(pixels)]
        truth = [torch.from_numpy(boxes).to(device) for boxes in batch.boxes]
        dtype = _DTYPES.get(options.autocast)
        with torch.autocast(device.type, dtype) if dtype else nullcontext():
            seen, texts, scale = self.network(pixels, ids)
        captions, descriptions = texts[: len(pixels)], texts[len(pixels) :]
        losses = {"contrast": contrast(seen.images, captions, scale)}
        # With this each weight has a gradient for every batch, even if 0: DistributedDataParallel needs one.
        losses["loss"] = losses["contrast"] + 0 * (seen.boxes.sum() + seen.regions.sum())
        if options.box_weight or options.region_weight:
            matches: list[Matches] = [match(boxes, truth) for boxes in seen.boxes]
            if options.box_weight:
                layers = [box_loss(boxes, truth, pairs) for boxes, pairs in zip(seen.boxes, matches, strict=True)]
                losses["boxes"] = torch.stack(layers).mean()
                losses["loss"] = losses["loss"] + options.box_weight * losses["boxes"]
            if options.region_weight:
                losses["regions"] = region_loss(seen.regions, descriptions, meanings, matches[-1], scale)
                losses["loss"] = losses["loss"] + options.region_weight * losses["regions"]
        return losses

    def measure(self, collator: Collator, held_out: Examples) -> dict[str, float]:
        """Figures on held-out examples."""
        self.model.eval()
        places = np.linspace(0, len(held_out) - 1, min(_HELD_OUT, len(held_out))).astype(int).tolist()
        return measure(self.model, collator, held_out, places).to_dict()

    def save(self, path: Path, settings: dict[str, Any], epoch: int, iteration: int) -> None:
        """Replaces the checkpoint."""
        checkpoint.save(
            path,
            self.model,
            epoch=epoch,
            iteration=iteration,
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            settings=settings,
        )

    def resume(self, path: Path, settings: dict[str, Any]) -> int:
        """Restores a checkpoint; returns its number of finished steps.

        Raises:
            ExportError: The checkpoint has other settings, or is damaged.
        """
        stored = checkpoint.load(path)
        theirs = cast("dict[str, Any]", stored.rest.get("settings") or {})
        differ = [key for key, value in settings.items() if theirs.get(key) != value]
        if differ:
            told = ", ".join(f"{key} {theirs.get(key)} and not {settings[key]}" for key in differ)
            raise ExportError(f"{path}: is of a run with other settings ({told}); name a new folder")
        self.model.load_state_dict(stored.model.state_dict())
        try:
            self.optimizer.load_state_dict(stored.rest["optimizer"])
            if self.scaler.is_enabled():
                self.scaler.load_state_dict(stored.rest["scaler"])
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise ExportError(f"{path}: its optimizer's state is damaged ({error}); begin anew") from error
        return stored.iteration
