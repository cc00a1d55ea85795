"""Retrieve-then-rank recognition on ONNX Runtime: no PyTorch in the process.

Example:
    >>> from rar.runtime import Recognizer
    >>> rec = Recognizer.open("bundle")
    >>> for result in rec.recognize(["cat.jpg"], k=5):
    ...     print(result.label, result.score)
"""

from .bundle import Bundle
from .errors import BundleError, ExportError, ImageError, InputError, ProviderError, RarError
from .grain import GrainOptions
from .memory import Candidate, Memory
from .mllm.ranker import MllmOptions
from .preprocess import Preprocess, native_features
from .rank import Region
from .recognizer import Recognizer
from .regions import Blur
from .result import Result
from .wca import WcaOptions

__all__ = [
    "Blur",
    "Bundle",
    "BundleError",
    "Candidate",
    "ExportError",
    "GrainOptions",
    "ImageError",
    "InputError",
    "Memory",
    "MllmOptions",
    "Preprocess",
    "ProviderError",
    "RarError",
    "Recognizer",
    "Region",
    "Result",
    "WcaOptions",
    "native_features",
]
