"""Retrieve-then-rank recognition on ONNX Runtime: no PyTorch in the process.

Example:
    >>> from rar.runtime import Recognizer
    >>> rec = Recognizer.open("bundle")
    >>> for result in rec.recognize(["cat.jpg"], k=5):
    ...     print(result.label, result.score)
"""

from .bundle.manifest import Bundle
from .detection.frames import Frame
from .detection.live import to_detections
from .errors import (
    BundleError,
    ExportError,
    ImageError,
    InputError,
    OutOfMemoryError,
    ProviderError,
    RarError,
)
from .memory import Candidate, Memory
from .picture.boxes import Blur
from .picture.load import Reading, load_image
from .picture.preprocess import Preprocess, native_features
from .rank.grain import GrainOptions
from .rank.mllm.ranker import MllmOptions
from .rank.protocol import DescribedRegion, Query
from .rank.wca import WcaOptions
from .recognizer import Recognizer
from .result import Result
from .stream.results import Stream

__all__ = [
    "Blur",
    "Bundle",
    "BundleError",
    "Candidate",
    "DescribedRegion",
    "ExportError",
    "Frame",
    "GrainOptions",
    "ImageError",
    "InputError",
    "Memory",
    "MllmOptions",
    "OutOfMemoryError",
    "Preprocess",
    "ProviderError",
    "Query",
    "RarError",
    "Reading",
    "Recognizer",
    "Result",
    "Stream",
    "WcaOptions",
    "load_image",
    "native_features",
    "to_detections",
]
