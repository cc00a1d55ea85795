"""Whatever runs a graph: ONNX Runtime on the CPU or a GPU, or an engine of TensorRT."""

from .choose import ORDER, Sessions
from .obstacles import PROVIDERS
from .onnx import OnnxSession
from .options import Options
from .protocol import Array, Session
from .tensors import Device, Host, Tensor

__all__ = ["ORDER", "PROVIDERS", "Array", "Device", "Host", "OnnxSession", "Options", "Session", "Sessions", "Tensor"]
