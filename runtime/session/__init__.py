"""Whatever runs a graph: ONNX Runtime on the CPU or a GPU, or an engine of TensorRT."""

from .choose import ENGINE, ORDER, Sessions
from .onnxruntime.graph import OnnxSession, session_options
from .onnxruntime.obstacles import PROVIDERS
from .onnxruntime.options import Options
from .protocol import Array, Session
from .tensors import Device, Host, Tensor

__all__ = [
    "ENGINE",
    "ORDER",
    "PROVIDERS",
    "Array",
    "Device",
    "Host",
    "OnnxSession",
    "Options",
    "Session",
    "Sessions",
    "Tensor",
    "session_options",
]
