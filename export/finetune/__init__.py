"""Fine-tuning a multimodal LLM to rank what retrieval finds (RAR, arXiv 2403.13805, section 3.3)."""
