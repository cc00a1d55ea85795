"""What Triton's Python backend runs; `rar-export triton` writes the model that names it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from rar.runtime.cli.printable import json_line

from ..row import Row, to_row


class TritonPythonModel:
    """One instance of the model: opens the bundle, and answers all requests of a batch together.

    Input: `IMAGE`, the bytes of picture files, [N, 1]. Output, [N, 1] each: `LABEL`, `SCORE`, `PROBABILITY`, `ERROR`
    and `RESULT`, which is all of it as JSON (`rar.serving.row`). A picture that cannot be read has an `ERROR`, an empty
    `LABEL` and a `SCORE` that is no number; the others of its request are answered.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the bundle; the server says no to the model where that fails.

        Args:
            args: `model_config`, and what this instance is for.
        """
        from rar.runtime import Recognizer

        if args.get("model_instance_kind") == "GPU":  # each instance is a process of its own
            os.environ["CUDA_VISIBLE_DEVICES"] = args["model_instance_device_id"]
        config = json.loads(args["model_config"])
        settings = json.loads(config["parameters"]["rar"]["string_value"])
        self._recognizer = Recognizer.open(settings["bundle"], **settings["opened"])
        self._asked = settings["asked"]
        self._batch = max(1, config["max_batch_size"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response a request."""
        from triton_python_backend_utils import InferenceResponse, Tensor, get_input_tensor_by_name

        given = [get_input_tensor_by_name(request, "IMAGE").as_numpy().ravel().tolist() for request in requests]
        results = self._recognizer.stream(
            (picture for pictures in given for picture in pictures), batch_size=self._batch, **self._asked
        )
        rows = (to_row(result, self._recognizer.provider) for result in results)
        return [
            InferenceResponse(
                [Tensor(name, values) for name, values in outputs([next(rows) for _ in pictures]).items()]
            )
            for pictures in given
        ]

    def finalize(self) -> None:
        """Closes the bundle."""
        self._recognizer.close()


def outputs(rows: Sequence[Row]) -> dict[str, Any]:
    """The outputs for some pictures, [N, 1] each: texts as UTF-8 in arrays of objects, numbers as float32."""

    def texts(values: Sequence[str]) -> Any:
        return np.array([value.encode() for value in values], object)[:, None]

    def numbers(values: Sequence[float | None]) -> Any:
        return np.array([math.nan if value is None else value for value in values], np.float32)[:, None]

    return {
        "LABEL": texts([row["label"] or "" for row in rows]),
        "SCORE": numbers([row["score"] for row in rows]),
        "PROBABILITY": numbers([row["probability"] for row in rows]),
        "ERROR": texts([row["error"] or "" for row in rows]),
        "RESULT": texts([json_line({**row}) for row in rows]),
    }
