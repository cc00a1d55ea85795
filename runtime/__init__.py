"""Retrieve-then-rank recognition on ONNX Runtime: no PyTorch in the process."""
