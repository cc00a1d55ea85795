"""Multimodal LLMs as a bundle's `mllm` component: three ONNX graphs, a tokenizer and a resolved prompt."""
