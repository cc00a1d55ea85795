"""ONNX Runtime, on the CPU or through the providers of a GPU."""
