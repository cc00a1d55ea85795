"""The MLLM ranker: a quantised multimodal LLM in ONNX Runtime that orders the k retrieved classes."""
