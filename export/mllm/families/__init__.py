"""One file per family of multimodal LLMs: it makes an `Mllm` of the family's parts."""
