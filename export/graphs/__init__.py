"""ONNX graphs of any model: traced from PyTorch, stored, and converted to fp16 and int8."""
