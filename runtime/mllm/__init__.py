"""The MLLM ranker: a quantised multimodal LLM in ONNX Runtime that puts the k retrieved classes in order."""
