"""A bundle's ONNX graphs to TensorRT engines, for the device at hand or ahead of time for another."""
