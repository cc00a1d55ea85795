"""Locates descriptions in a picture: OWLv2 (arXiv 2306.09683) through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from rar.runtime.errors import ExportError
from rar.runtime.picture.load import Pixels

from ..mllm.source import loading
from .annotations import DescribedBox
from .boxes import to_corners
from .data import clip_boxes


class Detector:
    """An OWLv2 model.

    Args:
        source: A folder in the Hugging Face layout, or a hub name.
        device: What it runs on.

    Raises:
        ExportError: There is no such model, or it lacks weights.
    """

    def __init__(self, source: str, device: torch.device) -> None:
        import transformers

        with loading(source, "processor"):
            self._processor: Any = transformers.Owlv2Processor.from_pretrained(source)
        with loading(source, "weights"):
            loaded: Any = transformers.Owlv2ForObjectDetection.from_pretrained(source, output_loading_info=True)
        model, report = loaded
        # transformers itself only warns, and fills missing weights with random numbers.
        if missing := [*report["missing_keys"], *report["mismatched_keys"]]:
            raise ExportError(
                f"{source}: {len(missing)} weights are missing or of other shapes, as {missing[0]}"
                "; download the model again"
            )
        self._model = model.eval().to(device)
        self._device = device

    def __call__(self, pixels: Pixels, descriptions: Sequence[str], threshold: float, top: int) -> list[DescribedBox]:
        """The boxes with the highest scores, each with its best description.

        Args:
            pixels: uint8 [H, W, 3].
            descriptions: The texts to locate.
            threshold: Least score, 0 to 1.
            top: Most boxes to keep.

        Returns:
            By falling score; x0, y0, x1, y1 in pixels, inside the picture.
        """
        if not descriptions:
            return []
        # A text is cut at OWLv2's 16 tokens.
        inputs = self._processor(
            text=[list(descriptions)], images=Image.fromarray(pixels), return_tensors="pt", truncation=True
        ).to(self._device)
        with torch.inference_mode():
            said = self._model(**inputs)
        scores, which = said.logits[0].float().sigmoid().max(-1)
        height, width = pixels.shape[:2]
        # The picture is padded to a square, at its right and lower edge, before it is resized.
        padded = getattr(self._processor.image_processor, "do_pad", True)
        sides = (max(height, width),) * 4 if padded else (width, height, width, height)
        corners = to_corners(said.pred_boxes[0].float().cpu()).numpy() * sides
        boxes, inside = clip_boxes(corners.astype("float32"), width, height)
        detections = zip(boxes.tolist(), which.cpu()[inside].tolist(), scores.cpu()[inside].tolist(), strict=True)
        best = sorted((one for one in detections if one[2] >= threshold), key=lambda one: -one[2])[:top]
        return [
            DescribedBox((round(x0, 2), round(y0, 2), round(x1, 2), round(y1, 2)), descriptions[place], round(score, 4))
            for (x0, y0, x1, y1), place, score in best
        ]
