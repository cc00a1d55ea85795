"""Whatever runs a graph: ONNX Runtime on the CPU or a GPU, OpenVINO, or an engine of TensorRT."""

from .choose import CHOICES, ENGINE, ORDER, Sessions
from .onnxruntime.graph import OnnxSession, session_options
from .onnxruntime.obstacles import PROVIDERS
from .onnxruntime.options import Options
from .openvino.graph import OPENVINO, OpenVinoSession
from .protocol import Array, Session
from .tensors import Device, Host, Tensor

__all__ = [
    "CHOICES",
    "ENGINE",
    "OPENVINO",
    "ORDER",
    "PROVIDERS",
    "Array",
    "Device",
    "Host",
    "OnnxSession",
    "OpenVinoSession",
    "Options",
    "Session",
    "Sessions",
    "Tensor",
    "session_options",
]
