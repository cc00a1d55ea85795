"""AP of boxes as COCO's and LVIS' own code compute it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from rar.runtime.detection.annotations import read_annotations, read_json, usable_rows
from rar.runtime.errors import InputError

_COCO = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_LVIS = (*_COCO, "APr", "APc", "APf")
_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


def average_precision(file: str | Path, detections: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """AP in percent: of all IoUs from 0.5 to 0.95, at 0.5, at 0.75; of small, medium and large objects.

    By `lvis`, with APr, APc and APf of rare, common and frequent categories, where the file is in LVIS' form (each
    category has a frequency, each picture the lists of categories that are absent and that are not exhaustively
    annotated); else by `pycocotools`. Crowd regions count as neither found nor missed there. What `read_annotations`
    passes over takes no part.

    Args:
        file: Annotations.
        detections: `image_id`, `category_id`, `bbox` and `score` each.

    Returns:
        Figures by name; None where there is no such object.

    Raises:
        InputError: The file cannot be used, or there is no detection.
    """
    if not detections:
        raise InputError(f"{file}: no box was answered, so there is no AP; see why boxes or pictures were passed over")
    truth = _truth(file)
    if all("frequency" in row for row in truth["categories"]) and all(
        key in row for row in truth["images"] for key in _LISTS
    ):
        figures = _by_lvis(truth, detections)
    else:
        figures = _by_coco(truth, detections)
    return {name: None if value < 0 else 100 * value for name, value in figures.items()}


def _truth(file: str | Path) -> dict[str, Any]:
    """The file as the evaluations take it: rows that can be used, each with an id, an area and no outline."""
    read_annotations(file)  # says what is wrong with its form
    content = read_json(Path(file))
    pictures, categories = ({row["id"] for row in content[key]} for key in ("images", "categories"))
    rows = usable_rows(content["annotations"], f"{file}, annotations", pictures, categories, Counter())
    annotations = []
    for number, row in enumerate(rows, 1):
        width, height = row["bbox"][2:]
        kept = {"area": width * height, **row, "id": number, "iscrowd": int(bool(row.get("iscrowd")))}
        kept.pop("segmentation", None)
        annotations.append(kept)
    return {"images": content["images"], "categories": content["categories"], "annotations": annotations}


def _by_coco(truth: dict[str, Any], detections: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it tells its progress there
        known = COCO()
        known.dataset = truth
        known.createIndex()
        evaluation = COCOeval(known, known.loadRes([dict(row) for row in detections]), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(_COCO, map(float, evaluation.stats), strict=False))


def _by_lvis(truth: dict[str, Any], detections: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file, _lvis() as lvis:
        json.dump(truth, file)
        file.flush()
        known = lvis.LVIS(file.name)
        evaluation = lvis.LVISEval(known, lvis.LVISResults(known, [dict(row) for row in detections]), "bbox")
        evaluation.run()
    return {name: float(evaluation.results[name]) for name in _LVIS}


@contextlib.contextmanager
def _lvis() -> Iterator[Any]:
    """The package, whose last release (0.5.3) was written for a NumPy that had `np.float`."""
    import lvis
    import lvis.eval as module

    logging.getLogger("lvis").setLevel(logging.ERROR)  # it warns of results that are no file
    module.np = SimpleNamespace(**vars(np), float=float)
    try:
        yield lvis
    finally:
        module.np = np
