"""`rar-bench preprocess`: picture preparation against Pillow, torchvision, OpenCV and hf-processors-rs.

Every contender gets the same decoded picture and, but for the row of threads, one thread. `whole` makes the model's
float32 input; `resize` only resizes and crops, in uint8. Contenders take turns within each round, so that a
machine that slows down slows all of them. Those that are not installed are left out. `draft` is `load_image` with
JPEGs decoded at a fraction of their size. The table of two cores is the ceiling for the row of threads.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from rar.runtime.errors import InputError
from rar.runtime.machine.cores import usable_cores
from rar.runtime.picture.boxes import Blur, Edges, grown
from rar.runtime.picture.load import load_image
from rar.runtime.picture.preprocess import Preprocess, native_features

from . import record
from .process import variables

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

SIZE = 224
MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)
STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)
PICTURES = {"348x348": (348, 348), "512x512": (512, 512), "1080p": (1080, 1920), "4K": (2160, 3840)}
JPEGS = {"1080p": PICTURES["1080p"], "4K": PICTURES["4K"]}
REGIONS = (1, 8, 32, 128)
CROPS = 60
_HASHED = 6_000_000
BATCH = 32
BLUR_PIXELS = 10.0


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Attributes:
        name: In the table.
        does: `whole` or `resize`.
        run: Does it once; returns float32 [N, 3, 224, 224] or, of `resize`, uint8 [224, 224, 3].
    """

    name: str
    does: str
    run: Callable[[], Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `rar-bench preprocess`."""
    parser.add_argument("--rounds", type=int, default=15, help="turns each contender gets (default 15)")
    parser.add_argument("--seconds", type=float, default=0.05, help="least time of one turn (default 0.05)")
    parser.add_argument("--seed", type=int, default=0, help="of pictures, boxes and crops (default 0)")
    parser.add_argument("--out", help="write the figures to this JSON file")


def run(args: argparse.Namespace) -> int:
    """Runs the benchmark and prints its tables."""
    if args.rounds < 1 or args.seconds <= 0:
        raise InputError("--rounds and --seconds must be above zero")
    chance = np.random.default_rng(args.seed)
    levels = [level for level in native_features()["available"] if level != "scalar"] or ["scalar"]
    copy = _memcpy_speed()
    print(f"SIMD {', '.join(levels)}; memcpy {copy:.1f} GB/s")
    tables: dict[str, Any] = {}
    for name, (height, width) in PICTURES.items():
        pixels = photo(chance, height, width)
        rows = _measure(list(_picture_contenders(pixels, levels)), args, _prepared_by_pillow(pixels))
        for row in rows:
            moved = pixels.nbytes + (3 * SIZE * SIZE * 4 if row["does"] == "whole" else 3 * SIZE * SIZE)
            row["gigabytes_per_second"] = moved / row["milliseconds"]["median"] / 1e6
        tables[name] = rows
        _print(f"{name} -> {SIZE}", rows)
    frame = photo(chance, 1080, 1920)
    for count in REGIONS:
        boxes = _random_boxes(chance, count, frame)
        name = f"{count} regions of 1080p"
        rows = _measure(list(_region_contenders(frame, boxes, levels)), args, None)
        tables[name] = rows
        _print(name, rows)
    pixels = photo(chance, 348, 348)
    crops = _random_crops(chance, pixels)
    tables["crops"] = _measure(list(_crop_contenders(crops, levels)), args, None)
    _print(f"{CROPS} crops of 348x348", tables["crops"])
    batch = [photo(chance, 512, 512) for _ in range(BATCH)]
    tables["threads"] = _measure(list(_thread_contenders(batch)), args, None)
    _print(f"batch of {BATCH}, 512x512, threads", tables["threads"])
    tables["cores"] = _measure(list(_core_contenders()), args, None)
    _print("two cores at work that shares nothing", tables["cores"])
    for name, (height, width) in JPEGS.items():
        content = _as_jpeg(photo(chance, height, width))
        decoded = np.asarray(Image.open(io.BytesIO(content)))
        rows = _measure(list(_jpeg_contenders(content)), args, _prepared_by_pillow(decoded))
        tables[f"JPEG {name}"] = rows
        _print(f"JPEG of {name} -> {SIZE}, decoding included", rows)
    record.write(
        {"environment": record.environment(1), "simd": levels, "memcpy_gigabytes_per_second": copy, "tables": tables},
        args.out,
    )
    return 0


def photo(chance: np.random.Generator, height: int, width: int) -> Pixels:
    """A picture with structure at every scale, like a photo's, and some grain."""
    pixels = chance.normal(128, 12, (height, width, 3))
    side = 2
    while side < max(height, width) * 2:
        coarse = chance.integers(0, 256, (side, side, 3), dtype=np.uint8)
        layer = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
        pixels += (np.asarray(layer) - 128.0) * 0.5
        side *= 2
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _normalised(pixels: Pixels) -> Floats:
    values = pixels.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(((values - MEAN) / STD).transpose(2, 0, 1), np.float32)


def _crop_box(height: int, width: int) -> tuple[int, int, int, int]:
    """Width and height of the resized picture, then left and top of its centre."""
    shortest = min(width, height)
    shape = (int(SIZE * width / shortest), int(SIZE * height / shortest))
    return *shape, round((shape[0] - SIZE) / 2), round((shape[1] - SIZE) / 2)


def _prepared_by_pillow(pixels: Pixels) -> Pixels:
    width, height, left, top = _crop_box(*pixels.shape[:2])
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + SIZE, top + SIZE)))


def _ours(level: str, threads: int = 1) -> Preprocess:
    with variables(RAR_SIMD=level):
        return Preprocess(SIZE, MEAN.tolist(), STD.tolist(), threads=threads)


def _picture_contenders(pixels: Pixels, levels: Sequence[str]) -> Iterator[Contender]:
    yield Contender("Pillow + NumPy", "whole", lambda: _normalised(_prepared_by_pillow(pixels))[None])
    for level in levels:
        pre = _ours(level)
        out = pre([pixels])
        yield Contender(f"rar {level}", "whole", lambda pre=pre, out=out: pre([pixels], out=out))  # type: ignore[misc]
    yield from _hugging_face(pixels)
    yield from _torchvision(pixels)
    yield from _opencv(pixels)


def _hugging_face(pixels: Pixels) -> Iterator[Contender]:
    try:
        import hf_processors_rs  # type: ignore[import-untyped]
    except ImportError:
        return
    config = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": SIZE},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": SIZE, "width": SIZE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN.tolist(),
        "image_std": STD.tolist(),
        "do_convert_rgb": True,
    }
    process = hf_processors_rs.AutoImageProcessor.from_dict(config, backend="pil")
    yield Contender(
        "hf-processors-rs", "whole", lambda: process([pixels], num_threads=1, input_data_format="channels_last")
    )


def _torchvision(pixels: Pixels) -> Iterator[Contender]:
    try:
        import torch
        from torchvision.transforms.v2 import functional
    except ImportError:
        return
    torch.set_num_threads(1)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    width, height, left, top = _crop_box(*pixels.shape[:2])

    def resize() -> Any:
        resized = functional.resize(
            tensor, [height, width], interpolation=functional.InterpolationMode.BICUBIC, antialias=True
        )
        return resized[:, top : top + SIZE, left : left + SIZE].permute(1, 2, 0).numpy()

    yield Contender("torchvision v2", "resize", resize)


def _opencv(pixels: Pixels) -> Iterator[Contender]:
    try:
        import cv2
    except ImportError:
        return
    cv2.setNumThreads(1)
    width, height, left, top = _crop_box(*pixels.shape[:2])
    for name, mode in (("AREA", cv2.INTER_AREA), ("CUBIC", cv2.INTER_CUBIC)):
        yield Contender(
            f"OpenCV {name}",
            "resize",
            lambda mode=mode: cv2.resize(pixels, (width, height), interpolation=mode)[  # type: ignore[misc]
                top : top + SIZE, left : left + SIZE
            ],
        )


def _as_jpeg(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _jpeg_contenders(content: bytes) -> Iterator[Contender]:
    def by_pillow() -> Floats:
        with Image.open(io.BytesIO(content)) as image:
            return _normalised(_prepared_by_pillow(np.asarray(image.convert("RGB"))))[None]

    yield Contender("Pillow + NumPy", "whole", by_pillow)
    pre = _ours("")
    yield Contender("rar", "whole", lambda: pre([load_image(content)]))
    yield Contender("rar, draft", "whole", lambda: pre([load_image(content, draft=SIZE)]))


def _random_boxes(chance: np.random.Generator, count: int, frame: Pixels) -> list[Edges]:
    width, height = (chance.integers(80, 400, count) for _ in range(2))
    left = chance.integers(0, frame.shape[1] - width)
    top = chance.integers(0, frame.shape[0] - height)
    columns = (left, top, left + width, top + height)
    return [(int(x0), int(y0), int(x1), int(y1)) for x0, y0, x1, y1 in zip(*columns, strict=True)]


def _region_contenders(frame: Pixels, boxes: list[Edges], levels: Sequence[str]) -> Iterator[Contender]:
    def by_pillow() -> Floats:
        whole = Image.fromarray(frame)
        blurred = whole.filter(ImageFilter.GaussianBlur(BLUR_PIXELS))
        prepared = []
        for box in boxes:
            around = grown(box, 1.5, *whole.size, square=False)
            region = blurred.crop(around)
            region.paste(whole.crop(box), (box[0] - around[0], box[1] - around[1]))
            prepared.append(_normalised(np.asarray(region.resize((SIZE, SIZE), Image.Resampling.BICUBIC))))
        return np.stack(prepared)

    yield Contender("Pillow + NumPy", "whole", by_pillow)
    kinds = {
        "Pillow's blur": Blur(BLUR_PIXELS, "pixels", "pillow"),
        "Gaussian": Blur(BLUR_PIXELS, "pixels"),
        "Gaussian by box": Blur(0.05),
        "no blur": None,
    }
    for level in levels:
        for name, blur in kinds.items():
            pre = _ours(level)
            out = pre.regions(frame, boxes, 1.5, blur)
            yield Contender(
                f"rar {level}, {name}",
                "whole",
                lambda pre=pre, blur=blur, out=out: pre.regions(frame, boxes, 1.5, blur, out=out),  # type: ignore[misc]
            )


def _random_crops(chance: np.random.Generator, pixels: Pixels) -> list[Pixels]:
    crops = []
    for side in (chance.uniform(0.5, 0.9, CROPS) * min(pixels.shape[:2])).astype(int).tolist():
        top, left = (int(chance.integers(0, extent - side + 1)) for extent in pixels.shape[:2])
        crops.append(pixels[top : top + side, left : left + side])
    return crops


def _crop_contenders(crops: list[Pixels], levels: Sequence[str]) -> Iterator[Contender]:
    def by_pillow() -> Floats:
        resized = (Image.fromarray(crop).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for crop in crops)
        return np.stack([_normalised(np.asarray(crop)) for crop in resized])

    yield Contender("Pillow + NumPy", "whole", by_pillow)
    for level in levels:
        pre = _ours(level)
        out = pre(crops)
        yield Contender(f"rar {level}", "whole", lambda pre=pre, out=out: pre(crops, out=out))  # type: ignore[misc]


def _thread_contenders(batch: list[Pixels]) -> Iterator[Contender]:
    yield Contender(
        "Pillow + NumPy",
        "whole",
        lambda: np.stack([_normalised(_prepared_by_pillow(pixels)) for pixels in batch]),
    )
    threads = 1
    while threads <= usable_cores():
        pre = _ours("", threads)
        out = pre(batch)
        yield Contender(f"rar, {threads} threads", "whole", lambda pre=pre, out=out: pre(batch, out=out))  # type: ignore[misc]
        threads *= 2


def _core_contenders() -> Iterator[Contender]:
    """What a second core of this machine is worth: hashing shares no data and no lock."""
    parts = [bytes(_HASHED), bytes(_HASHED)]
    helper = ThreadPoolExecutor(1)

    def on_two() -> None:
        other = helper.submit(hashlib.sha256, parts[0])
        hashlib.sha256(parts[1])
        other.result()

    yield Contender("SHA-256, 1 thread", "control", lambda: [hashlib.sha256(part) for part in parts])
    yield Contender("SHA-256, 2 threads", "control", on_two)


def _measure(contenders: list[Contender], args: argparse.Namespace, pillow: Pixels | None) -> list[dict[str, Any]]:
    """Rows of the table: times, ratios to the first contender and, with `pillow`, differences from it."""
    repeats = []
    for contender in contenders:
        contender.run()
        start = time.perf_counter()
        contender.run()
        once = max(time.perf_counter() - start, 1e-6)
        repeats.append(max(1, round(args.seconds / once)))
    times: list[list[float]] = [[] for _ in contenders]
    for _ in range(args.rounds):
        for contender, milliseconds, count in zip(contenders, times, repeats, strict=True):
            start = time.perf_counter()
            for _ in range(count):
                contender.run()
            milliseconds.append((time.perf_counter() - start) * 1e3 / count)
    first = float(np.median(times[0]))
    rows = []
    for contender, milliseconds in zip(contenders, times, strict=True):
        row: dict[str, Any] = {
            "contender": contender.name,
            "does": contender.does,
            "milliseconds": record.spread(milliseconds) | {"best": min(milliseconds)},
            "times_faster_than_first": first / float(np.median(milliseconds)),
        }
        if pillow is not None:
            difference = np.abs(_levels(contender.run()).astype(int) - pillow)
            row["difference_max"] = int(difference.max())
            row["difference_mean"] = float(difference.mean())
        rows.append(row)
    return rows


def _levels(result: Any) -> Pixels:
    """The uint8 values [224, 224, 3] behind a contender's result."""
    array = np.asarray(result)
    if array.dtype == np.uint8:
        return array
    values = array.reshape(3, SIZE, SIZE).transpose(1, 2, 0) * STD + MEAN
    return np.asarray(np.clip(np.rint(values * 255), 0, 255), np.uint8)


def _memcpy_speed() -> float:
    """Bytes read and written a nanosecond by a copy larger than the caches."""
    source = np.zeros(1 << 27, np.uint8)
    target = np.empty_like(source)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - start)
    return 2 * source.nbytes / best / 1e9


def _print(title: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{title}")
    for row in rows:
        line = (
            f"  {row['contender']:30} {row['does']:7} {row['milliseconds']['median']:9.3f} ms"
            f"  {row['times_faster_than_first']:6.1f}x"
        )
        if "difference_max" in row:
            line += f"  max {row['difference_max']:3}  mean {row['difference_mean']:.4f}"
        if "gigabytes_per_second" in row:
            line += f"  {row['gigabytes_per_second']:5.1f} GB/s"
        print(line)
