"""One protocol for whatever runs a graph, and its ONNX Runtime form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .errors import BundleError, InputError, ProviderError

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


class Session(Protocol):
    """A loaded graph: named NumPy arrays in, named NumPy arrays out.

    Attributes:
        provider: The device that runs it.
        outputs: Names of what it can give.
    """

    provider: str
    outputs: Sequence[str]

    def run(
        self, inputs: Mapping[str, npt.NDArray[np.generic]], outputs: Sequence[str] | None = None
    ) -> dict[str, npt.NDArray[np.generic]]:
        """Runs the graph once, for the named outputs or for all."""
        ...


class OnnxSession:
    """A graph in ONNX Runtime on the device that was asked for, and on no other.

    Args:
        path: The `.onnx` file.
        provider: `cpu`, `cuda`, `tensorrt`, or `auto` for the first of tensorrt, cuda and cpu that really loads.
        threads: Threads within an operator; None leaves the choice to ONNX Runtime (one a core).
        fp16: Whether the graph computes in fp16.

    Attributes:
        provider: The provider that really runs the graph (`cpu`, `cuda` or `tensorrt`).
        outputs: Names of the graph's outputs.

    Raises:
        ProviderError: The device is not there; ONNX Runtime itself would fall back to the CPU in silence.
        BundleError: The file is not a graph that ONNX Runtime can load.
        InputError: An unknown provider.
    """

    def __init__(self, path: Path, provider: str = "auto", threads: int | None = None, *, fp16: bool = False) -> None:
        import onnxruntime as ort  # not at the top: the package must import where only the tools are wanted

        if provider != "auto" and provider not in PROVIDERS:
            raise InputError(f"provider {provider!r} is unknown; choose auto, {', '.join(PROVIDERS)}")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        # It crashes on the casts that fp16 graphs need on a CPU (microsoft/onnxruntime#28392).
        disabled = ["NchwcTransformer"] if fp16 else None
        available = ort.get_available_providers()
        wanted = [provider] if provider != "auto" else ["tensorrt", "cuda", "cpu"]
        for name in wanted:
            if PROVIDERS[name] not in available:
                continue
            try:
                session = ort.InferenceSession(
                    str(path), options, providers=[PROVIDERS[name]], disabled_optimizers=disabled
                )
            except Exception as error:  # ONNX Runtime raises a family of unrelated types
                if name == "cpu":
                    raise BundleError(f"{path}: ONNX Runtime cannot load it ({error}); export it again") from error
                continue
            if session.get_providers()[0] == PROVIDERS[name]:
                self.provider = name
                self.outputs: Sequence[str] = [output.name for output in session.get_outputs()]
                self._session = session
                self._path = path
                return
        raise ProviderError(
            f"provider {provider!r} cannot run {path.name}: this onnxruntime build offers {', '.join(available)}; "
            "install the `gpu` extra and check the driver, or ask for provider='cpu'"
        )

    def run(
        self, inputs: Mapping[str, npt.NDArray[np.generic]], outputs: Sequence[str] | None = None
    ) -> dict[str, npt.NDArray[np.generic]]:
        """Runs the graph once; arrays by the graph's own input and output names.

        Args:
            inputs: All of the graph's inputs.
            outputs: The outputs to fetch; None for all.

        Raises:
            BundleError: The graph does not take these inputs, lacks these outputs, or fails on them.
        """
        names = list(self.outputs if outputs is None else outputs)
        try:
            return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        except Exception as error:  # as above; the graph is not the one its settings say
            raise BundleError(f"{self._path}: ONNX Runtime cannot run it ({error}); export it again") from error
