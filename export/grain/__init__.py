"""GRAIN (arXiv 2412.04429): a CLIP whose region queries are aligned with descriptions; the model, training, export."""
